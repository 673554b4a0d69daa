"""Export a checkpoint's weights with optimum-onnx, as the plain Qwen2 that they also are.

optimum-onnx 0.1 needs transformers 4 and cannot live beside transformers 5, so this is a program
for a Python of its own; it imports nothing of ours:

    python -m venv optimum && optimum/bin/pip install optimum-onnx==0.1.0 onnxruntime
    optimum/bin/python tests/export/optimum_reference.py CHECKPOINT OUT.onnx
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path


def main(checkpoint: Path, out: Path) -> None:
    from optimum.exporters.onnx import main_export

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = json.loads((checkpoint / "config.json").read_text())
        # The same weights in the same architecture; only the name of the class differs.
        config["architectures"] = ["Qwen2ForCausalLM"]
        config["model_type"] = "qwen2"
        config.pop("auto_map", None)
        (folder / "config.json").write_text(json.dumps(config))
        for weights in checkpoint.glob("*.safetensors*"):
            shutil.copyfile(weights, folder / weights.name)
        main_export(
            str(folder),
            output=str(folder / "onnx"),
            task="text-generation-with-past",
            do_validation=False,
        )
        shutil.copyfile(folder / "onnx" / "model.onnx", out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
