"""ttt-profile: where the time of a turn goes."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ttt_ref.command_line import run_app

app = typer.Typer(
    name="ttt-profile", add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True
)


class Form(str, Enum):  # StrEnum came with Python 3.11
    """Forms of the report."""

    MD = "md"
    JSON = "json"
    CSV = "csv"


@app.command()
def profile(
    bundles: Annotated[
        list[Path],
        typer.Argument(help="Bundle folder, with or without a codec; several make a sweep."),
    ],
    repeats: Annotated[
        int, typer.Option("--repeats", "-r", min=1, max=100_000, help="Turns that are measured.")
    ] = 10,
    output: Annotated[Form, typer.Option("--output", "-o", help="Form of the report.")] = Form.MD,
    trace: Annotated[Path | None, typer.Option(help="Write a Chrome trace (Perfetto).")] = None,
    question: Annotated[
        str | None,
        typer.Option(help="Answer this sound file instead of a scripted turn."),
    ] = None,
    question_seconds: Annotated[float, typer.Option(help="Scripted question, in seconds.")] = 3.0,
    spans: Annotated[int, typer.Option(help="Scripted spans of speech.")] = 3,
    text_tokens: Annotated[int, typer.Option(help="Scripted text tokens before each span.")] = 13,
    blocks: Annotated[int, typer.Option(help="Scripted blocks in a span.")] = 1,
    preset: Annotated[str | None, typer.Option(help="Generation preset.")] = None,
    steps: Annotated[
        str | None, typer.Option(help="Passes a block; a list such as 1,2,4 makes a sweep.")
    ] = None,
    block: Annotated[str | None, typer.Option(help="Tokens a block; a list makes a sweep.")] = None,
    threads: Annotated[
        str | None,
        typer.Option(help="CPU threads (default: the CPUs it may use); a list makes a sweep."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, tensorrt or rtx (cpu+onnxruntime, cuda:1+graphs).")
    ] = "cpu",
    exactness: Annotated[str, typer.Option(help="reference, exact or fast.")] = "exact",
    fast: Annotated[
        list[str] | None,
        typer.Option("--fast", help="An approximation, NAME or NAME=VALUE; repeatable."),
    ] = None,
    overlap: Annotated[
        bool, typer.Option("--overlap", help="Run model and codec side by side, in two threads.")
    ] = False,
    plot: Annotated[
        list[Path] | None,
        typer.Option(help="Draw the sweep: .png, .svg or .html (extra plot); repeatable."),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Compare two bundles, or one with itself changed by --b."),
    ] = False,
    b: Annotated[
        list[str] | None,
        typer.Option(
            "--b",
            help="With --compare: what B does otherwise, NAME=VALUE of exactness, fast, device, "
            "threads, overlap, steps, block, preset; repeatable.",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(help="Report of an earlier run; exit code 3 if this one is slower."),
    ] = None,
    max_regression: Annotated[
        str | None,
        typer.Option(help="How much slower is allowed, 0.1 or 10% (default); with --baseline."),
    ] = None,
    warm_up: Annotated[int, typer.Option(help="Turns after the first that do not count.")] = 1,
    cold_starts: Annotated[int, typer.Option(help="Fresh processes to time a start with.")] = 3,
    limits: Annotated[
        bool,
        typer.Option(help="Measure the machine's bandwidth and peak, and count each phase's work."),
    ] = True,
) -> None:
    """Measure a bundle: cold starts, one first turn, then warm ones, by phase.

    The turn is scripted (all work is done, what is said is fixed), so bundles of random weights
    measure like trained ones. The last line of stdout is always one JSON document.

    Exit codes: 0; 2 for a wrong option or input; 3 for a regression against --baseline.
    """
    from ttt_runtime.cli.profile_run import Request, run_profile

    run_profile(
        Request(
            bundles=tuple(bundles),
            repeats=repeats,
            form=output.value,
            trace=trace,
            question=question,
            shape=(question_seconds, spans, text_tokens, blocks),
            preset=preset,
            steps=steps,
            block=block,
            threads=threads,
            device=device,
            exactness=exactness,
            fast=tuple(fast or ()),
            overlap=overlap,
            plots=tuple(plot or ()),
            compare=compare,
            b=tuple(b or ()),
            baseline=baseline,
            max_regression=max_regression,
            warm_up=warm_up,
            cold_starts=cold_starts,
            limits=limits,
        )
    )


def main() -> None:
    """Run `ttt-profile` as a program."""
    run_app(app)
