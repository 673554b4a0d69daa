"""Training of a Text-to-Talk model on Hugging Face Accelerate: the `ttt-train` command."""
