"""Checkpoint to validated ONNX and TensorRT bundles."""

import sys

from ttt_ref.offline import disable_telemetry

if sys.version_info < (3, 11):  # the versions of PyTorch and onnxruntime that it is made for
    raise SystemExit(
        f"ttt-export needs Python 3.11 or newer, this is {sys.version.split()[0]}; export on "
        "another machine, the bundle runs here"
    )

disable_telemetry()
