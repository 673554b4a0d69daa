"""Names of devices, as command lines and `from_bundle` take them.

    cpu         the CPU: kernels of our own where they can run the bundle, else onnxruntime
    cuda        onnxruntime on an NVIDIA GPU
    tensorrt    TensorRT engines
    rtx         TensorRT-RTX engines

A GPU can be chosen by its number (`cuda:1`), and `+graphs` (`rtx:0+graphs`) lets the GPU replay
whole forwards as CUDA graphs, which saves the launch of every single kernel. On the CPU, `+native`
and `+onnxruntime` insist on one of the two ways. The speech codec runs in onnxruntime; `/cpu` or
`/cuda` behind the name (`rtx/cpu`) says where.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ttt_ref.errors import DeviceError

# Device name -> onnxruntime provider and the extra of ttt-edge that brings it. The other devices
# run engines, not sessions.
PROVIDERS: Final[Mapping[str, tuple[str, str]]] = {
    "cpu": ("CPUExecutionProvider", "cpu"),
    "cuda": ("CUDAExecutionProvider", "gpu"),
}

DEVICES: Final = ("cpu", "cuda", "tensorrt", "rtx")
CODEC_DEVICES: Final = ("cpu", "cuda")
CPU_WAYS: Final = ("native", "onnxruntime")
_FORM: Final = re.compile(r"([a-z]+)(?::(\d{1,3}))?(?:\+([a-z]+))?(?:/([a-z]+))?")


@dataclass(frozen=True)
class Device:
    """A device: its name, the number of the GPU, whether CUDA graphs are wanted.

    `codec` is where the speech codec runs, cpu or cuda; `way` is how the CPU runs a decoder, one of
    CPU_WAYS; None where the name was silent on it.
    """

    name: str
    index: int = 0
    graphs: bool = False
    codec: str | None = None
    way: str | None = None

    @classmethod
    def parse(cls, text: str) -> Device:
        """Read `cpu`, `cuda:1`, `rtx+graphs` and the like; DeviceError for anything else."""
        match = _FORM.fullmatch(text)
        if match is None or match[1] not in DEVICES or match[4] not in (None, *CODEC_DEVICES):
            raise DeviceError(_unknown(text))
        name, number, more, codec = match.groups()
        if name == "cpu":
            if number or more == "graphs":
                raise DeviceError(
                    f"device {text!r}: the CPU has neither number nor graphs; say cpu"
                )
            if more not in (None, *CPU_WAYS):
                raise DeviceError(_unknown(text))
            return cls(name, codec=codec, way=more)
        if more not in (None, "graphs"):
            raise DeviceError(_unknown(text))
        return cls(name, int(number or 0), more is not None, codec)


def _unknown(text: str) -> str:
    return (
        f"unknown device {text!r}; known: {', '.join(DEVICES)}; where wanted with the number of a "
        "GPU (cuda:1), +graphs, the way of the CPU (cpu+native, cpu+onnxruntime), and the codec's "
        "device (rtx/cpu)"
    )
