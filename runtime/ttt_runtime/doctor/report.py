"""Everything that ttt-doctor found out, as one object: JSON for programs, tables for people."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ttt_runtime.backends.native.library import best_variant, missing
from ttt_runtime.backends.probe import EngineStatus, check_engines
from ttt_runtime.backends.requirements import Need, bundle_needs, cannot_run, gib
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.doctor.audio_devices import AudioDevices, list_audio_devices
from ttt_runtime.machine.gpu import GpuReport, probe_gpus
from ttt_runtime.machine.host import Cpu, Memory, free_disk, read_cpu, read_jetson, read_memory
from ttt_runtime.machine.power import Power, read_power
from ttt_runtime.machine.recognise import recognise
from ttt_runtime.machine.targets import find_target

PACKAGES: Final = (
    "ttt-edge",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "cuda-bindings",
    "sounddevice",
)


@dataclass(frozen=True)
class Report:
    """The findings. `needs` and `bundle` are empty without a bundle."""

    python: str
    system: str
    packages: dict[str, str]
    cpu: Cpu
    memory: Memory | None
    power: Power
    disk_free_bytes: int | None
    jetson: str | None
    target: str | None
    gpus: GpuReport
    engines: list[EngineStatus]
    kernels: str
    audio: AudioDevices
    bundle: str | None
    needs: list[Need]

    @property
    def good(self) -> bool:
        """True if the bundle can run here; without a bundle, if any engine loads."""
        if self.bundle is None:
            return any(engine.loads for engine in self.engines)
        return all(need.met for need in self.needs)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {**asdict(self), "good": self.good}


def collect(bundle_path: Path | None = None) -> Report:
    """Examine this machine, and a bundle if one is given.

    Raises:
        BundleError: the bundle cannot be read.
    """
    bundle = None if bundle_path is None else Bundle.open(bundle_path, verify="sizes")
    gpus, memory = probe_gpus(), read_memory()
    engines = check_engines(gpus)
    needs: list[Need] = []
    if bundle is not None:
        status = next(engine for engine in engines if engine.name == bundle.config.engine)
        needs = bundle_needs(bundle, status, gpus, memory)
    return Report(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        packages=installed_packages(),
        cpu=read_cpu(),
        memory=memory,
        power=read_power(),
        disk_free_bytes=free_disk(bundle_path or Path.cwd()),
        jetson=read_jetson(),
        target=name_target(gpus, engines),
        gpus=gpus,
        engines=engines,
        kernels=describe_kernels(),
        audio=list_audio_devices(),
        bundle=None if bundle is None else bundle.config.name,
        needs=needs,
    )


def name_target(gpus: GpuReport, engines: list[EngineStatus]) -> str | None:
    """Return the export target that this machine is, None if it is in no row of the table."""
    loaded = frozenset(engine.name for engine in engines if engine.loads)
    tensorrt = next((e.version for e in engines if e.name == "tensorrt"), None)
    target = recognise(gpus, loaded, tensorrt)
    return None if target is None else target.name


def describe_kernels() -> str:
    """Return which of our CPU kernels run 4- and 8-bit bundles here, or why onnxruntime does."""
    reason = missing()
    return best_variant() if reason is None else f"none, onnxruntime runs all bundles: {reason}"


def describe_power(power: Power) -> str:
    """Return clocks, power mode and temperature for people, as far as they are known."""
    parts = []
    if power.mode is not None:
        parts.append(f"mode {power.mode} of nvpmodel")
    if power.governor is not None:
        parts.append(f"governor {power.governor}")
    if power.clock_mhz is not None:
        parts.append(f"up to {power.clock_mhz} MHz of {power.most_mhz or '?'}")
    if power.warmest_c is not None:
        parts.append(f"{power.warmest_c:.0f} °C")
    return ", ".join(parts)


def installed_packages() -> dict[str, str]:
    """Return the versions of the packages that matter and are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def print_report(report: Report, console: Console) -> None:
    """Draw the report."""
    console.print(_machine_table(report))
    console.print(_engine_table(report))
    if report.bundle is None:
        return
    console.print(_needs_table(report))
    missing = [need for need in report.needs if not need.met]
    if missing:
        text = cannot_run(report.bundle, missing[0])
        console.print(text, style="red", soft_wrap=True, markup=False, highlight=False)
    else:
        text = f"bundle {report.bundle} can run on this machine"
        console.print(text, style="green", soft_wrap=True, markup=False, highlight=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title), title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0, overflow="fold")
    return table


def _machine_table(report: Report) -> Table:
    table = _table("machine", "what", "found")
    _row(table, "system", report.system)
    if report.jetson:
        _row(table, "board", report.jetson)
    if report.target is None:
        _row(table, "target", "none of the table's; export with -p and -e")
    else:
        title = find_target(report.target).title
        _row(table, "target", f"{report.target} ({title}): ttt-export --target {report.target}")
    features = ", ".join(report.cpu.features) or "none of those our kernels use"
    _row(table, "cpu", f"{report.cpu.name}, {report.cpu.threads} threads; {features}")
    _row(table, "kernels", report.kernels)
    memory = report.memory
    if memory is not None:
        text = f"{gib(memory.available_bytes)} available of {gib(memory.total_bytes)}"
        _row(table, "memory", f"{text}, swap {gib(memory.swap_bytes)}")
    if report.power != Power():
        _row(table, "power", describe_power(report.power))
    if report.disk_free_bytes is not None:
        _row(table, "disk", f"{gib(report.disk_free_bytes)} free")
    for gpu in report.gpus.gpus:
        total, free = gpu.memory_total_bytes, gpu.memory_free_bytes
        size = "" if total is None else f", {gib(total)}"
        size += "" if free is None else f" ({gib(free)} free)"
        _row(table, f"gpu {gpu.index}", f"{gpu.name}, {gpu.architecture}{size}")
    if report.gpus.gpus:
        driver, cuda = report.gpus.driver or "unknown", report.gpus.cuda or "unknown"
        _row(table, "driver", f"{driver}, CUDA {cuda} (asked: {report.gpus.source})")
    else:
        _row(table, "gpu", report.gpus.problem or "none")
    _row(table, "microphones", ", ".join(report.audio.inputs) or "none")
    _row(table, "loudspeakers", ", ".join(report.audio.outputs) or "none")
    if report.audio.problem:
        _row(table, "audio", report.audio.problem)
    packages = ", ".join(f"{name} {number}" for name, number in report.packages.items())
    _row(table, "python", f"{report.python}; {packages}")
    return table


def _engine_table(report: Report) -> Table:
    table = _table("engines", "engine", "loads", "version", "what is missing")
    for engine in report.engines:
        text = engine.line() or ""
        if engine.builds and not engine.loads:
            text += " (engine files can be built here)"
        loads = _yes(engine.loads)
        _row(table, engine.name, loads, engine.version or "-", text)
    return table


def _needs_table(report: Report) -> Table:
    table = _table(f"bundle {report.bundle or ''}", "need", "met", "detail")
    for need in report.needs:
        met = _yes(need.met)
        _row(table, need.name, met, need.detail)
    return table


def _row(table: Table, *cells: str | Text) -> None:
    """Add a row of plain text: a string would be read as markup, and `[mic]` in it vanish."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def _yes(met: bool) -> Text:
    return Text("yes", style="green") if met else Text("no", style="red")
