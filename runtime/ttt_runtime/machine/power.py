"""What a board is allowed to draw and how warm it is: figures mean little without."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ttt_runtime.machine.host import ROOT


@dataclass(frozen=True)
class Power:
    """Clocks and temperature; None where the system does not tell.

    Attributes:
        governor: how the kernel chooses the first CPU's clock.
        clock_mhz: highest clock that it may choose now.
        most_mhz: highest clock of that CPU.
        mode: number of a Jetson's power mode, as `nvpmodel -q` shows it.
        warmest_c: the warmest of the thermal zones.
    """

    governor: str | None = None
    clock_mhz: int | None = None
    most_mhz: int | None = None
    mode: int | None = None
    warmest_c: float | None = None


def read_power(root: Path = ROOT) -> Power:
    """Read it from where Linux and Jetson Linux keep it."""
    clocks = root / "sys/devices/system/cpu/cpu0/cpufreq"
    zones = (root / "sys/class/thermal").glob("thermal_zone*/temp")
    degrees = [value for zone in zones if (value := _number(_text(zone))) is not None]
    mode = _text(root / "var/lib/nvpmodel/status").partition("pmode:")[2]
    return Power(
        _text(clocks / "scaling_governor") or None,
        _mhz(clocks / "scaling_max_freq"),
        _mhz(clocks / "cpuinfo_max_freq"),
        _number(mode),
        max(degrees) / 1000 if degrees else None,
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # thermal zones may refuse while they sleep
        return ""


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def _mhz(path: Path) -> int | None:
    khz = _number(_text(path))
    return None if khz is None else khz // 1000
