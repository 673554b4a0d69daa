"""What Python and scheduling add to the engine's own time, over a scripted turn.

    python -m benchmarks.overhead BUNDLE [--turns 5] [--threads 2] [--fast NAME=VALUE ...]

The clock runs inside every run of a graph or of the kernels and around every step; what lies
between is ours: scheduler, masks, embedding rows, choices of ids.
Prints a table, then one JSON document.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ttt_ref.errors import exit_on_error
from ttt_runtime.backends.native.kernels import Kernels
from ttt_runtime.backends.ort.session import GraphSession, SessionSettings, share_thread_pool
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.graph_spec import GraphSpec
from ttt_runtime.decode.approximations import exactness_named, parse_approximations
from ttt_runtime.decode.scheduler import Step
from ttt_runtime.dialogue.assistant import pick_preset
from ttt_runtime.profiler.workload import (
    DEFAULT_FRAME_RATE_HZ,
    ScriptedEngine,
    TurnShape,
    scripted_config,
)


class Clock:
    """Nanoseconds spent inside the engine's runs."""

    inside_ns = 0


class TimedSession:
    """An onnxruntime session whose bound runs are timed."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run_with_iobinding(self, binding: Any) -> None:
        """Run, and note how long it took."""
        begin = time.perf_counter_ns()
        self._inner.run_with_iobinding(binding)
        Clock.inside_ns += time.perf_counter_ns() - begin


def time_sessions() -> None:
    """Let every session that is made from now on be timed."""
    made = GraphSession.__init__

    def timed(
        session: GraphSession, path: Path, spec: GraphSpec, settings: SessionSettings
    ) -> None:
        made(session, path, spec, settings)
        session.ort_session = TimedSession(session.ort_session)

    setattr(GraphSession, "__init__", timed)  # noqa: B010 (a plain assignment is refused by mypy)


def time_kernels() -> None:
    """Let the kernels be timed."""

    def timed(run: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*arguments: Any) -> None:
            begin = time.perf_counter_ns()
            run(*arguments)
            Clock.inside_ns += time.perf_counter_ns() - begin

        return wrapped

    for name in ("forward", "choose", "look", "sum_up"):
        setattr(Kernels, name, timed(getattr(Kernels, name)))


def _command(
    bundle: Annotated[Path, typer.Argument(help="A bundle; random weights will do.")],
    turns: Annotated[int, typer.Option(min=1, help="Turns after the first.")] = 5,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    preset: Annotated[str, typer.Option(help="Generation preset.")] = "script",
    fast: Annotated[list[str] | None, typer.Option(help="Options of exactness fast.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cpu+native or cpu+onnxruntime.")] = "cpu",
    shared_pool: Annotated[bool, typer.Option(help="One pool of threads for all graphs.")] = False,
) -> None:
    """Measure the share of Python and scheduling, and the speech's real-time factor."""
    if shared_pool:
        share_thread_pool()
    time_sessions()
    time_kernels()
    exactness = exactness_named("fast" if fast else "exact")
    opened = Bundle.open(bundle)
    engine = ScriptedEngine.from_bundle(
        opened,
        device,
        exactness=exactness,
        fast=parse_approximations(fast or [], exactness),
        threads=threads,
    )
    shape = TurnShape()
    assert isinstance(engine, ScriptedEngine)
    engine.shape = shape
    block = pick_preset(opened, preset)
    config = scripted_config(block, shape)
    layout = engine.layout
    codes = [layout.code_to_id(i * 7919 % layout.num_codes) for i in range(38)]
    around, inside, count = Counter[str](), Counter[str](), Counter[str]()
    speech_ns = 0
    for turn in range(turns + 1):
        engine.reset()
        Clock.inside_ns = 0
        before = 0

        def note(step: Step, begin_ns: int, end_ns: int, turn: int = turn) -> None:
            nonlocal before, speech_ns
            if turn:
                name = step.state.value
                around[name] += end_ns - begin_ns
                inside[name] += Clock.inside_ns - before
                count[name] += 1
                speech_ns += (end_ns - begin_ns) * (name != "prefill")
            before = Clock.inside_ns

        prompt = [layout.im_start_id, 5, layout.begin_of_audio_id, *codes]
        prompt += [layout.end_of_audio_id, layout.im_end_id, layout.im_start_id]
        for _ in engine.generate(prompt, config, observer=note):
            pass
    rows = {
        name: {
            "steps": count[name],
            "ms": round(around[name] / count[name] / 1e6, 3),
            "python_share": round(1 - inside[name] / around[name], 4),
        }
        for name in around
    }
    seconds = shape.spans * (shape.blocks * block.block_length - 1) / DEFAULT_FRAME_RATE_HZ
    result = {
        "bundle": bundle.name,
        "runs_in": engine.runner.runs_in,
        "preset": preset,
        "fast": fast or [],
        "shared_pool": shared_pool,
        "phases": rows,
        "python_share": round(1 - sum(inside.values()) / sum(around.values()), 4),
        "speech_rtf": round(speech_ns / 1e9 / turns / seconds, 3),
    }
    print("| phase | steps | ms | of it Python and scheduling |\n| --- | ---: | ---: | ---: |")
    for name, row in rows.items():
        print(f"| {name} | {row['steps']} | {row['ms']:.2f} | {row['python_share']:.1%} |")
    print(f"in all {result['python_share']:.1%}; speech RTF {result['speech_rtf']}")
    print(json.dumps(result))


if __name__ == "__main__":
    with exit_on_error():
        typer.run(_command)
