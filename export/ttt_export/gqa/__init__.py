"""The decoder in the form that onnxruntime runs fastest on a CPU, made of the standard one."""
