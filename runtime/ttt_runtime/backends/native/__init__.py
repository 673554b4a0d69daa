"""The decoder on a CPU by kernels of our own, nearer to the limit than a graph of nodes."""
