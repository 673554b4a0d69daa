"""The built-in codec: 25 Hz supervised speech tokens and a one-voice decoder, both small."""
