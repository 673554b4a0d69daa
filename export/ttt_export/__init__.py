"""Checkpoint to validated ONNX and TensorRT bundles."""

from ttt_ref.offline import disable_telemetry

disable_telemetry()
