"""ttt-engines: build the TensorRT engines of a bundle on the machine that will run them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ttt_ref.command_line import run_app

BundleFolder = Annotated[Path, typer.Argument(help="Bundle made with -e tensorrt or -e rtx.")]
Engine = Annotated[
    str | None,
    typer.Option("--engine", "-e", help="tensorrt or rtx (default: what the bundle is for)."),
]
Workspace = Annotated[
    int | None, typer.Option("--workspace", help="Most scratch memory of a kernel, MiB.")
]
Level = Annotated[
    int | None, typer.Option("--builder-optimization-level", help="0 (fast) .. 5 (thorough).")
]
Architectures = Annotated[
    list[str] | None,
    typer.Option("--architecture", help="Limit an rtx engine to this GPU (sm_75); repeatable."),
]


def _command(
    bundle: BundleFolder,
    engine: Engine = None,
    workspace: Workspace = None,
    builder_optimization_level: Level = None,
    architecture: Architectures = None,
) -> None:
    """Build the engines of a bundle; those that fit already are kept.

    TensorRT builds for the GPU of this machine. TensorRT-RTX needs no GPU and builds for all from
    compute capability 8.6 on.
    """
    from ttt_export.tensorrt.engines import build_engines
    from ttt_export.tensorrt.request import BuildOptions

    options = BuildOptions(workspace, builder_optimization_level, tuple(architecture or ()))
    build_engines(bundle, engine, options=options, say=_say, show_progress=sys.stderr.isatty())


def _say(line: str) -> None:
    print(line, file=sys.stderr)


app = typer.Typer(
    name="ttt-engines", add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True
)
app.command()(_command)


def main() -> None:
    """Run `ttt-engines`."""
    run_app(app)


if __name__ == "__main__":
    main()
