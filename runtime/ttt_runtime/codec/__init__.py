"""Speech codecs: audio to speech tokens and back."""
