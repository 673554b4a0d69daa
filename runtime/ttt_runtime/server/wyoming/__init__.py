"""Wyoming, the protocol of Home Assistant's voice: speech to text and text to speech over TCP."""
