"""The model on a GPU: one runner, over onnxruntime's CUDA provider or over TensorRT engines."""
