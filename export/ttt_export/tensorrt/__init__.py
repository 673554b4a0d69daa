"""ONNX graphs to TensorRT and TensorRT-RTX engines.

Nothing in here imports torch or onnx: a device builds its own engines from a bundle.
"""
