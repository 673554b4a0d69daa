"""Sound in and out: files, devices, voice activity."""
