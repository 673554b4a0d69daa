"""Energy, where the device tells: Intel/AMD RAPL, the INA rails of a Jetson, NVIDIA's NVML.

Nothing here estimates. A meter that is not there, or may not be read, is named with the reason;
its energy is absent, never 0.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

_SAMPLE_SECONDS: Final = 0.02  # between readings of a rail that tells watts


class Counter(Protocol):
    """Something that counts joules from any zero on, never backwards."""

    name: str
    source: str

    def joules(self) -> float:
        """Return the joules counted so far."""


@dataclass
class RaplDomain:
    """A package of /sys/class/powercap. Its counter wraps: readings must come often enough."""

    name: str
    folder: Path
    range_microjoules: int
    source: str = "rapl"
    _last: int | None = None
    _sum: int = 0

    def joules(self) -> float:
        """Return the joules since the first reading."""
        now = int((self.folder / "energy_uj").read_text())
        if self._last is not None:
            step = now - self._last
            self._sum += step + self.range_microjoules if step < 0 else step
        self._last = now
        return self._sum / 1e6


@dataclass
class Rail:
    """A rail that tells its power now; joules are the sum over the samples taken."""

    name: str
    watts: Callable[[], float]
    source: str
    clock: Callable[[], float] = time.perf_counter
    _last: tuple[float, float] | None = None
    _sum: float = 0.0

    def joules(self) -> float:
        """Take a sample; return the joules so far (trapezes between samples)."""
        now, watts = self.clock(), self.watts()
        if self._last is not None:
            before, watts_before = self._last
            self._sum += (now - before) * (watts + watts_before) / 2
        self._last = now, watts
        return self._sum


@dataclass
class NvmlDevice:
    """A GPU's own counter of millijoules."""

    name: str
    millijoules: Callable[[], int]
    source: str = "nvml"

    def joules(self) -> float:
        """Return the joules since the driver was loaded."""
        return self.millijoules() / 1e3


@dataclass
class Found:
    """The meters of this machine, and why there are no others."""

    counters: list[Counter] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)


def find_meters(root: Path = Path("/"), nvml: str = "pynvml") -> Found:
    """Look for meters below `root` (replaced in tests), and for NVML through module `nvml`."""
    found = Found()
    for look in (_find_rapl, _find_jetson):
        look(root / "sys", found)
    _find_nvml(nvml, found)
    return found


def _find_rapl(sys: Path, found: Found) -> None:
    base = sys / "class" / "powercap"
    # Zones of one colon are packages (or the whole board); those of two are parts of them.
    zones = [z for z in sorted(base.glob("*-rapl:*")) if z.name.count(":") == 1]
    if not zones:
        found.absent.append(f"rapl: nothing in {base}")
    for zone in zones:
        try:
            name = (zone / "name").read_text().strip()
            limit = int((zone / "max_energy_range_uj").read_text())
            domain = RaplDomain(f"{name} ({zone.name})", zone, limit)
            domain.joules()
        except (OSError, ValueError) as error:
            found.absent.append(f"rapl: {zone.name} cannot be read ({_reason(error)})")
            continue
        found.counters.append(domain)


def _find_jetson(sys: Path, found: Found) -> None:
    before = len(found.counters)
    for hwmon in sorted((sys / "class" / "hwmon").glob("hwmon*")):
        try:
            chip = (hwmon / "name").read_text().strip()
        except OSError:
            continue
        if chip.startswith("ina3221"):
            for label in sorted(hwmon.glob("in*_label")):
                _add_channel(hwmon, label, found)
    # JetPack 4: the driver of the industrial I/O kind tells milliwatts.
    for power in sorted((sys / "bus/i2c/drivers/ina3221x").glob("*/iio:device*/in_power*_input")):
        number = re.sub(r"\D", "", power.name)
        label = power.with_name(f"rail_name_{number}")
        name = label.read_text().strip() if label.is_file() else f"{power.parent.name} {number}"
        _add_rail(name, _product([(power, 1e-3)]), found)
    if len(found.counters) == before:
        found.absent.append(f"jetson: no INA3221 rail below {sys}")


def _add_channel(hwmon: Path, label: Path, found: Found) -> None:
    number = label.name[2:].removesuffix("_label")
    volts, amperes = hwmon / f"in{number}_input", hwmon / f"curr{number}_input"
    if not volts.is_file() or not amperes.is_file():
        return  # the chip's channel of summed shunt voltages has no current of its own
    watts = _product([(volts, 1e-3), (amperes, 1e-3)])
    _add_rail(label.read_text().strip(), watts, found)


def _add_rail(name: str, watts: Callable[[], float], found: Found) -> None:
    rail = Rail(name, watts, "jetson")
    try:
        rail.joules()
    except (OSError, ValueError) as error:
        found.absent.append(f"jetson: rail {name} cannot be read ({_reason(error)})")
        return
    found.counters.append(rail)


def _product(files: Sequence[tuple[Path, float]]) -> Callable[[], float]:
    def read() -> float:
        value = 1.0
        for file, unit in files:
            value *= float(file.read_text()) * unit
        return value

    return read


def _find_nvml(module: str, found: Found) -> None:
    try:
        nvml: Any = importlib.import_module(module)
    except ImportError:
        found.absent.append("nvml: module pynvml is not installed (pip install nvidia-ml-py)")
        return
    try:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
        for number in range(count):
            handle = nvml.nvmlDeviceGetHandleByIndex(number)
            name = nvml.nvmlDeviceGetName(handle)
            text = name.decode() if isinstance(name, bytes) else str(name)
            found.counters.append(_nvml_meter(nvml, handle, f"{text} ({number})"))
        if not count:
            found.absent.append("nvml: no GPU")
    except nvml.NVMLError as error:
        found.absent.append(f"nvml: {error}")


def _nvml_meter(nvml: Any, handle: Any, name: str) -> Counter:
    try:
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError:  # before Volta, and on a Jetson: power only
        nvml.nvmlDeviceGetPowerUsage(handle)
        return Rail(name, lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3, "nvml")
    return NvmlDevice(name, lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle))


def _reason(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "permission denied; reading it needs root"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


class EnergyMeter:
    """Joules of each meter over a `with` block; samples power in a thread of its own."""

    def __init__(self, found: Found, sample_seconds: float = _SAMPLE_SECONDS) -> None:
        self._found = found
        self._sample_seconds = sample_seconds
        self._begin: list[tuple[float, float]] = []  # of each counter: joules, when they were read
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.joules: dict[str, float] = {}
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> EnergyMeter:
        self._begin = [(counter.joules(), time.perf_counter()) for counter in self._found.counters]
        if self._found.counters:
            self._thread = threading.Thread(target=self._sample, name="ttt-energy", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for counter, (begin, since) in zip(self._found.counters, self._begin, strict=True):
            try:
                self.joules[counter.name] = counter.joules() - begin
                self.seconds[counter.name] = time.perf_counter() - since
            except (OSError, ValueError) as reason:
                self._found.absent.append(
                    f"{counter.source}: {counter.name} stopped telling ({_reason(reason)})"
                )

    def _sample(self) -> None:
        while not self._stop.wait(self._sample_seconds):
            for counter in self._found.counters:
                # One reading that fails is bridged by the next; the last one is reported.
                with contextlib.suppress(OSError, ValueError):
                    counter.joules()

    def document(self, turns: int, audio_seconds: float) -> dict[str, Any]:
        """Return the energy of so many turns and so much speech; `available` false with reasons."""
        rails = [
            {
                "name": counter.name,
                "source": counter.source,
                "joules": round(self.joules[counter.name], 3),
                "watts": round(self.joules[counter.name] / self.seconds[counter.name], 3),
                "joules_a_turn": round(self.joules[counter.name] / max(turns, 1), 4),
                "joules_a_second_of_speech": round(self.joules[counter.name] / audio_seconds, 4)
                if audio_seconds
                else None,
            }
            for counter in self._found.counters
            if counter.name in self.joules
        ]
        return {"available": bool(rails), "rails": rails, "absent": self._found.absent}
