"""Names of devices, as command lines and `from_bundle` take them.

    cpu         onnxruntime on the CPU
    cuda        onnxruntime on an NVIDIA GPU
    tensorrt    TensorRT engines
    rtx         TensorRT-RTX engines

A GPU can be chosen by its number (`cuda:1`), and `+graphs` (`rtx:0+graphs`) lets the GPU replay
whole forwards as CUDA graphs, which saves the launch of every single kernel. The speech codec runs
in onnxruntime; `/cpu` or `/cuda` behind the name (`rtx/cpu`) says where.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ttt_ref.errors import DeviceError

DEVICES: Final = ("cpu", "cuda", "tensorrt", "rtx")
CODEC_DEVICES: Final = ("cpu", "cuda")
_FORM: Final = re.compile(r"([a-z]+)(?::(\d{1,3}))?(\+graphs)?(?:/([a-z]+))?")


@dataclass(frozen=True)
class Device:
    """A device: its name, the number of the GPU, whether CUDA graphs are wanted.

    `codec` is where the speech codec runs, cpu or cuda; None where the name was silent on it.
    """

    name: str
    index: int = 0
    graphs: bool = False
    codec: str | None = None

    @classmethod
    def parse(cls, text: str) -> Device:
        """Read `cpu`, `cuda:1`, `rtx+graphs` and the like; DeviceError for anything else."""
        match = _FORM.fullmatch(text)
        if match is None or match[1] not in DEVICES or match[4] not in (None, *CODEC_DEVICES):
            raise DeviceError(
                f"unknown device {text!r}; known: {', '.join(DEVICES)}; where wanted with the "
                "number of a GPU (cuda:1), +graphs, and the codec's device (rtx/cpu)"
            )
        device = cls(match[1], int(match[2] or 0), match[3] is not None, match[4])
        if device.name == "cpu" and (match[2] or match[3]):
            raise DeviceError(f"device {text!r}: the CPU has neither number nor graphs; say cpu")
        return device
