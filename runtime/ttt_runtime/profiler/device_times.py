"""Times of each graph on a device, by rows and context: what a turn is made of.

    python -m ttt_runtime.profiler.device_times BUNDLE --device cuda

Every figure is the median of repeated runs after warm-up, from giving the inputs to the device
having finished, copies included. The work is real, what is said does not matter.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Final

import typer

from ttt_ref.command_line import run_app
from ttt_ref.config import TokenLayout
from ttt_ref.errors import ConfigError
from ttt_runtime.backends.base import Runner
from ttt_runtime.backends.load import load_runner
from ttt_runtime.bundle.folder import Bundle

TEXT_ROWS: Final = 1
BLOCK_ROWS: Final = (27, 32)  # a span with one block of each preset, its opening token included
PREFILL_ROWS: Final = 512
CONTEXTS: Final = (64, 512, 2048)
_WARM_UP: Final = 3


@dataclass(frozen=True)
class GraphTime:
    """One figure: a graph (or a step made of several), its rows and context, and milliseconds."""

    what: str
    rows: int
    context: int
    median_ms: float
    least_ms: float


def measure(
    runner: Runner,
    layout: TokenLayout,
    *,
    repeats: int = 20,
    contexts: Sequence[int] = CONTEXTS,
) -> list[GraphTime]:
    """Time decoder, heads and the two steps of generation on a loaded bundle.

    Args:
        runner: of any device.
        layout: which id means what.
        repeats: runs of each figure.
        contexts: tokens in the cache; those that the cache cannot hold are left out.
    """
    found = []
    longest = max(*BLOCK_ROWS, TEXT_ROWS)
    usable = [c for c in contexts if c + longest <= runner.capacity]
    for context in usable:
        _fill(runner, layout, context)
        for rows in (TEXT_ROWS, *BLOCK_ROWS):
            ids = _rows(layout, rows)
            step = _step(runner, ids, context)
            forward = partial(_run, runner, ids, context)
            found.append(_time("decoder", rows, context, forward, repeats))
            name = "text step" if rows == TEXT_ROWS else "block pass"
            found.append(_time(name, rows, context, step, repeats))
    for rows in (TEXT_ROWS, *BLOCK_ROWS):
        hidden = runner.forward(_rows(layout, rows), 0)
        text = partial(runner.text_best, hidden, forbid_end=False)
        found.append(_time("text head", rows, 0, text, repeats))
        found.append(_time("speech head", rows, 0, partial(runner.speech_best, hidden), repeats))
    prefill = min(PREFILL_ROWS, runner.capacity)
    ids = _rows(layout, prefill, text=True)
    found.append(_time("decoder", prefill, 0, partial(_run, runner, ids, 0), repeats))
    return found


def table(times: Sequence[GraphTime]) -> str:
    """Return the figures as Markdown."""
    lines = [
        "| graph or step | rows | context | median ms | least ms |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {t.what} | {t.rows} | {t.context or '-'} | {t.median_ms:.3f} | {t.least_ms:.3f} |"
        for t in times
    ]
    return "\n".join(lines)


def _rows(layout: TokenLayout, rows: int, *, text: bool = False) -> list[int]:
    """Return text ids, or one text id and a block of masks behind it."""
    if text or rows == TEXT_ROWS:
        return [i * 7919 % layout.audio_start for i in range(rows)]
    return [0] + [layout.mask_id] * (rows - 1)


def _fill(runner: Runner, layout: TokenLayout, context: int) -> None:
    ids = _rows(layout, context, text=True)
    for start in range(0, context, PREFILL_ROWS):
        _run(runner, ids[start : start + PREFILL_ROWS], start)


def _run(runner: Runner, ids: list[int], start: int) -> None:
    runner.forward(ids, start)
    wait = getattr(runner, "wait", None)  # a runner of the CPU has finished when it returns
    if wait is not None:
        wait()


def _step(runner: Runner, ids: list[int], start: int) -> Callable[[], object]:
    """Return a forward with the choice behind it: of the last row's id, or of a block's."""
    if len(ids) == TEXT_ROWS:

        def text_step() -> object:
            hidden = runner.forward(ids, start)[-1:]
            return runner.text_best(hidden, forbid_end=False), runner.speech_best(hidden)

        return text_step

    def block_pass() -> object:
        hidden = runner.forward(ids, start)[1:]
        return runner.text_best(hidden, forbid_end=True), runner.speech_best(hidden)

    return block_pass


def _time(
    what: str, rows: int, context: int, work: Callable[[], object], repeats: int
) -> GraphTime:
    for _ in range(_WARM_UP):
        work()
    times = []
    for _ in range(repeats):
        begin = perf_counter()
        work()
        times.append((perf_counter() - begin) * 1e3)
    return GraphTime(what, rows, context, round(statistics.median(times), 4), round(min(times), 4))


def document(bundle: Bundle, device: str, times: Sequence[GraphTime]) -> dict[str, Any]:
    """Return the figures with what they were taken of."""
    return {
        "bundle": bundle.config.name,
        "precision": bundle.config.precision,
        "engine": bundle.config.engine,
        "device": device,
        "times": [asdict(t) for t in times],
    }


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.command()
def command(
    bundle: Annotated[Path, typer.Argument(help="Bundle to time.")],
    device: Annotated[str, typer.Option(help="cpu, cuda, tensorrt or rtx (cuda:1+graphs).")] = (
        "cuda"
    ),
    repeats: Annotated[int, typer.Option("--repeats", "-r", min=1, help="Runs a figure.")] = 20,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Time decoder, heads and steps of a bundle on a device."""
    opened = Bundle.open(bundle, verify="sizes")
    runner = load_runner(opened, device, threads=threads)
    times = measure(runner, opened.config.layout, repeats=repeats)
    if not times:
        raise ConfigError(f"the cache of {runner.capacity} rows is too short for any figure")
    print(json.dumps(document(opened, device, times)) if as_json else table(times))


if __name__ == "__main__":
    run_app(app)
