"""Checkpoint to validated ONNX and TensorRT bundles."""
