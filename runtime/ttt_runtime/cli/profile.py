"""ttt-profile: where the time of a turn goes."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ttt_runtime.cli.entry import run_app
from ttt_runtime.session import share_thread_pool

app = typer.Typer(
    name="ttt-profile", add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True
)


class Form(StrEnum):
    """Forms of the report."""

    MD = "md"
    JSON = "json"
    CSV = "csv"


@app.command()
def profile(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder, with or without a codec.")],
    repeats: Annotated[
        int, typer.Option("--repeats", "-r", min=1, max=100_000, help="Warm turns.")
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
    device: Annotated[str, typer.Option(help="cpu, cuda, tensorrt or rtx.")] = "cpu",
    exactness: Annotated[str, typer.Option(help="reference, exact or fast.")] = "exact",
    fast: Annotated[
        list[str] | None,
        typer.Option("--fast", help="An approximation, NAME or NAME=VALUE; repeatable."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Measure a bundle: one cold turn, then warm ones, by phase.

    The turn is scripted (all work is done, what is said is fixed), so bundles of random weights
    measure like trained ones. The last line of `-o json` is one JSON document.
    """
    from ttt_runtime.cli.profile_run import run_profile

    run_profile(
        bundle,
        repeats=repeats,
        form=output.value,
        trace=trace,
        question=question,
        shape=(question_seconds, spans, text_tokens, blocks),
        preset=preset,
        device=device,
        exactness=exactness,
        threads=threads,
        fast=tuple(fast or ()),
    )


def main() -> None:
    """Run `ttt-profile` as a program."""
    share_thread_pool()
    run_app(app)
