"""Measurements of the live assistant: in a room of PulseAudio, and in simulated rooms."""
