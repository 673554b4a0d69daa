"""Halve Silero's voice activity graph for shipping: weights stored in 16 bit, computed in 32.

    pip download --no-deps silero-vad==6.2.3
    python -m recipes.voice_activity silero_vad-6.2.3-py3-none-any.whl OUT_FOLDER

onnxruntime folds the casts when it loads the graph, so it runs as fast as the original. The licence
(MIT) is written beside the graph.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

MEMBER = "silero_vad/data/silero_vad_16k_op15.onnx"
LICENCE = "silero_vad-6.2.3.dist-info/licenses/LICENSE"


def halve(model: onnx.ModelProto) -> onnx.ModelProto:
    """Store every float32 initializer as float16 behind a cast."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            name, small = tensor.name, numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(small, f"{name}.half"))
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model


def main(wheel: str, folder: str) -> None:
    """Take graph and licence out of the wheel and write both to a folder."""
    with zipfile.ZipFile(wheel) as archive:
        model = halve(onnx.load_from_string(archive.read(MEMBER)))
        licence = archive.read(LICENCE)
    target = Path(folder)
    onnx.save(model, target / "silero_vad_16k.onnx")
    (target / "silero_vad_LICENSE.txt").write_bytes(licence)


if __name__ == "__main__":
    main(*sys.argv[1:])
