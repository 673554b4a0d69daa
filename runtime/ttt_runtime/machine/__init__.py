"""What this host has: device names, GPU, CPU, library versions."""
