"""TensorRT and TensorRT-RTX: what both the builder of engines and the device need."""
