"""Quantization recipes and passes over exported graphs, with a quality report."""
