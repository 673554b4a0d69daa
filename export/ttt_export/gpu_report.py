"""Everything that a machine with a GPU should report, in one command.

    python -m ttt_export.gpu_report OUT.json [--sizes 0.5b,1.5b,3b] [--devices cuda,rtx]

For every device that loads: the ids and logits of a tiny random checkpoint in fp32 and fp16 against
the CPU and the causal-leak probe, then the times of every graph at the sizes asked for, in fp16 and
(engines) int4. Random weights in the released format; nothing is downloaded. Ends with Markdown on
stdout and a JSON file.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import typer

from ttt_ref.command_line import run_app
from ttt_ref.errors import ConfigError, DeviceError, TttError
from ttt_ref.outputs import write_whole
from ttt_runtime.backends.base import Runner
from ttt_runtime.backends.load import load_runner
from ttt_runtime.backends.probe import check_engine
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.graph_spec import DECODER
from ttt_runtime.machine.device import Device
from ttt_runtime.machine.gpu import GpuReport, probe_gpus
from ttt_runtime.profiler import device_parity, device_times

if TYPE_CHECKING:
    from ttt_export.cases import Case
    from ttt_export.executors import Float32Array

SIZES: Final = ("0.5b", "1.5b", "3b")
DEVICES: Final = ("cuda", "tensorrt", "rtx")
PARITY_PRECISIONS: Final = ("fp32", "fp16")
PACKAGES: Final = ("onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13", "cuda-bindings", "numpy")

Load = Callable[[Bundle, str], Runner]
Say = Callable[[str], None]


def usable_devices(requested: Sequence[str], gpus: GpuReport) -> list[str]:
    """Return the devices that load here.

    Raises:
        DeviceError: there is no GPU, or none of the devices loads; the line says why.
    """
    if not gpus.gpus:
        raise DeviceError(f"this report needs a GPU: {gpus.problem}")
    good, reasons = [], []
    for text in requested:
        line = check_engine(Device.parse(text).name, gpus=gpus).line()
        if line is None:
            good.append(text)
        else:
            reasons.append(f"{text}: {line}")
    if not good:
        raise DeviceError(f"none of the devices loads; {'; '.join(reasons)}")
    return good


def precisions_of(device: str) -> tuple[str, ...]:
    """Return the precisions whose times are taken on a device."""
    return ("fp16",) if Device.parse(device).name == "cuda" else ("fp16", "int4")


def report(
    sizes: Sequence[str],
    devices: Sequence[str],
    folder: Path,
    *,
    load: Load = load_runner,
    repeats: int = 20,
    prompts: int = 40,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Run parity and times; a device that fails at one point is reported there and goes on.

    Args:
        sizes: of `ttt-random --like`, without their family (`0.5b`), or `tiny`.
        devices: where to run.
        folder: for checkpoints and bundles; each is removed after its use.
        load: loads a bundle on a device.
        repeats: runs of each time.
        prompts: prompts of each parity.
        say: called with one line before each stage.
    """
    parity: list[dict[str, Any]] = []
    times: list[dict[str, Any]] = []
    checkpoint = _checkpoint("tiny", folder)
    for device in devices:
        for precision in PARITY_PRECISIONS:
            say(f"parity on {device} in {precision}")
            parity.append(
                _tried(
                    {"device": device, "precision": precision},
                    partial(_parity, device=device, load=load, prompts=prompts),
                    checkpoint,
                    folder,
                )
            )
    for size in sizes:
        checkpoint = _checkpoint(size, folder)
        for device in devices:
            for precision in precisions_of(device):
                say(f"times of {size} on {device} in {precision}")
                times.append(
                    _tried(
                        {"size": size, "device": device, "precision": precision},
                        partial(_times, device=device, load=load, repeats=repeats),
                        checkpoint,
                        folder,
                    )
                )
        shutil.rmtree(checkpoint)
    return {"machine": machine(), "parity": parity, "times": times}


def _tried(
    row: dict[str, Any], work: Callable[[Path], dict[str, Any]], checkpoint: Path, folder: Path
) -> dict[str, Any]:
    """Export, work, remove; an error becomes part of the row."""
    path = folder / "bundle"
    try:
        _export(checkpoint, path, row["precision"], Device.parse(row["device"]).name)
        return {**row, **work(path)}
    except TttError as error:
        return {**row, "error": str(error)}
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _checkpoint(size: str, folder: Path) -> Path:
    from ttt_ref.random_weights import random_checkpoint

    path = folder / f"random-{size}"
    if not path.exists():
        random_checkpoint(path, "tiny" if size == "tiny" else f"qwen2.5-{size}")
    return path


def _export(checkpoint: Path, out: Path, precision: str, engine: str) -> None:
    from ttt_export.export import export_checkpoint
    from ttt_export.options import ExportOptions

    # Random weights choose at random: their quality gates say nothing.
    options = ExportOptions(precision=precision, engine=engine, max_kl=1e9, min_agreement=0.0)
    export_checkpoint(checkpoint, out, options=options)


class RunnerExecutor:
    """Passes of the leak probe on a runner of any device; see `executors.Executor`."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def hidden(self, cases: Sequence[Case]) -> list[list[Float32Array]]:
        """Return the hidden rows of every pass of every case."""
        run = self._runner.forward
        return [
            [np.array(run(p.rows, p.start), dtype=np.float32) for p in case.passes]
            for case in cases
        ]


def _parity(path: Path, device: str, load: Load, prompts: int) -> dict[str, Any]:
    from ttt_export.leak_probe import probe_leaks

    bundle = Bundle.open(path)
    runner = load(bundle, device)
    leaks = probe_leaks(RunnerExecutor(runner), bundle.config.layout)
    found = device_parity.compare(
        runner,
        device_parity.on_the_cpu(bundle),
        bundle.config.layout,
        bundle.graph(DECODER).spec.input("embeds").dtype,
        prompts=prompts,
    )
    line = "; ".join([found.line(), *(check.line() for check in leaks)])
    passed = found.passed and all(check.passed for check in leaks)
    return {**asdict(found), "passed": passed, "line": line}


def _times(path: Path, device: str, load: Load, repeats: int) -> dict[str, Any]:
    bundle = Bundle.open(path, verify="sizes")
    runner = load(bundle, device)
    found = device_times.measure(
        runner, bundle.config.layout, repeats=repeats, contexts=device_times.CONTEXTS
    )
    return {"times": [asdict(t) for t in found]}


def machine() -> dict[str, Any]:
    """Return what a reader must know of the machine to compare figures."""
    gpus = probe_gpus()
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {**asdict(gpus), "packages": packages}


def markdown(found: dict[str, Any]) -> str:
    """Return the report for people."""
    gpus = found["machine"]["gpus"]
    name = ", ".join(gpu["name"] for gpu in gpus) or "no GPU"
    driver, cuda = found["machine"]["driver"], found["machine"]["cuda"]
    lines = [f"# {name}, driver {driver}, CUDA {cuda}", "", "## Parity with the CPU", ""]
    for row in found["parity"]:
        text = row.get("line") or f"not run: {row['error']}"
        lines.append(f"- {row['device']} {row['precision']}: {text}")
    for row in found["times"]:
        lines += ["", f"## {row['size']} {row['precision']} on {row['device']}", ""]
        if "error" in row:
            lines.append(f"not run: {row['error']}")
        else:
            lines.append(device_times.table([device_times.GraphTime(**t) for t in row["times"]]))
    return "\n".join(lines)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.command()
def command(
    out: Annotated[Path, typer.Argument(help="JSON file to write.")],
    sizes: Annotated[str, typer.Option(help="Sizes, by commas.")] = ",".join(SIZES),
    devices: Annotated[
        str, typer.Option(help="Devices, by commas; those that do not load are left out.")
    ] = ",".join(DEVICES),
    repeats: Annotated[int, typer.Option("--repeats", "-r", min=1, help="Runs a figure.")] = 20,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts of each parity check.")] = 40,
    work: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints and bundles (20 GB for 3b).")
    ] = None,
) -> None:
    """Hold GPU devices to the CPU and time every graph on them."""
    named = [size.strip() for size in sizes.split(",") if size.strip()]
    wrong = [size for size in named if size not in (*SIZES, "tiny")]
    if wrong or not named:
        raise ConfigError(f"unknown size {sizes!r}; known: {', '.join(SIZES)}, tiny")
    requested = [device.strip() for device in devices.split(",") if device.strip()]
    if not requested:
        raise ConfigError(f"--devices is {devices!r}; name some of {', '.join(DEVICES)}")
    for device in requested:
        Device.parse(device)
    for path in (out.absolute().parent, *([] if work is None else [work])):
        path.stat()  # reported now rather than after an hour
    usable = usable_devices(requested, probe_gpus())
    with tempfile.TemporaryDirectory(dir=work) as folder:
        found = report(named, usable, Path(folder), repeats=repeats, prompts=prompts, say=_say)
    write_whole(out, json.dumps(found, indent=1) + "\n")
    print(markdown(found))


def _say(line: str) -> None:
    print(f"... {line}", file=sys.stderr)


if __name__ == "__main__":
    run_app(app)
