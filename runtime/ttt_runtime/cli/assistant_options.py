"""The options that all commands of `ttt-assistant` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer


@dataclass(frozen=True)
class Options:
    """Options that all commands share."""

    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", "-b", help="Bundle folder; default: the one shipped inside."),
    ] = None
    preset: Annotated[
        str | None, typer.Option(help="Generation preset; default: the bundle's first.")
    ] = None
    device: Annotated[
        str,
        typer.Option(help="cpu, cuda, tensorrt or rtx (cpu+onnxruntime, cuda:1+graphs, rtx/cpu)."),
    ] = "cpu"
    exactness: Annotated[str, typer.Option(help="reference, exact or fast.")] = "exact"
    fast: Annotated[
        list[str] | None,
        typer.Option(
            "--fast",
            help="An approximation, NAME or NAME=VALUE (needs --exactness fast); repeatable.",
        ),
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="CPU threads; default: the CPUs it may use, which is also the most."
        ),
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="Seed of random draws.")] = 0
    system: Annotated[
        str | None, typer.Option(help="System text in place of the bundle's, for this task.")
    ] = None
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line instead of text.")
    ] = False
    overlap: Annotated[
        bool, typer.Option("--overlap", help="Run model and codec side by side, in two threads.")
    ] = False
