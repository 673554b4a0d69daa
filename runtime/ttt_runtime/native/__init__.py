"""The decoder on a CPU by kernels of our own: nearer to the machine's limit than a graph's nodes."""
