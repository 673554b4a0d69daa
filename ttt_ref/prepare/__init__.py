"""Recordings with transcripts become training data: speech tokens and `messages` records."""
