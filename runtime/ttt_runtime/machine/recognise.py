"""Which target of the table the machine at hand is."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Final

from ttt_runtime.machine.gpu import GpuReport
from ttt_runtime.machine.host import ROOT, read_jetson, read_model
from ttt_runtime.machine.targets import TARGETS, Target
from ttt_runtime.machine.versions import version_tuple

_JETPACK_6: Final = 36  # Jetson Linux, the release that JetPack 6 is built on
_THOR: Final = (11, 0)
_STANDARD_PARSER: Final = (10, 15)  # the first TensorRT for standard graphs


def recognise(
    gpus: GpuReport,
    engines: frozenset[str] = frozenset(),
    tensorrt: str | None = None,
    root: Path = ROOT,
    machine: str | None = None,
) -> Target | None:
    """Return the target that this machine is, None for one that no row fits.

    Args:
        gpus: what the driver sees.
        engines: names of the engines that load.
        tensorrt: version of TensorRT, if it is installed.
        root: of the file system.
        machine: processor architecture; None asks the system.
    """
    machine = machine or platform.machine()
    if machine in ("x86_64", "AMD64"):
        if not gpus.gpus:
            return TARGETS["cpu"]
        return TARGETS["desktop-rtx" if engines.isdisjoint({"cuda"}) else "desktop-cuda"]
    if machine not in ("aarch64", "arm64"):
        return None
    jetson, model = read_jetson(root), read_model(root)
    if jetson is not None:
        return TARGETS[_jetson(jetson, gpus, tensorrt)]
    return TARGETS["raspberry-pi-5" if "Raspberry Pi 5" in model else "cpu-arm64"]


def _jetson(text: str, gpus: GpuReport, tensorrt: str | None) -> str:
    """Return the target of a Jetson by board, Jetson Linux release and TensorRT."""
    capability = gpus.gpus[0].compute_capability if gpus.gpus else None
    is_old = tensorrt is not None and version_tuple(tensorrt) < _STANDARD_PARSER
    if "thor" in text.lower() or (capability or (0, 0)) >= _THOR:
        return "jetson-thor-jp71" if is_old else "jetson-thor"
    release = re.search(r"Jetson Linux (\d+)", text)
    on_jetpack_6 = release is not None and int(release[1]) <= _JETPACK_6
    return "jetson-orin-jp6" if on_jetpack_6 or is_old else "jetson-orin-jp7"
