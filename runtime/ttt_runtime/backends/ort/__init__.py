"""onnxruntime sessions."""
