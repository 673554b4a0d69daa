"""The small shipped assistant: data, codec training, model training, evaluation."""
