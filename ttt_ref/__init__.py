"""Reference PyTorch implementation of Text-to-Talk: the slow, readable truth."""
