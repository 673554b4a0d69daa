"""The `ttt-train` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttt_ref.command_line import run_app
from ttt_ref.errors import exit_on_error
from ttt_ref.train.config import read_config

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def command(
    config: Annotated[Path, typer.Argument(help="TOML file that describes the run.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the newest checkpoint of the run.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Pass over records that cannot be used; count them.")
    ] = False,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Replace one value, e.g. seed=2."),
    ] = None,
) -> None:
    """Train a Text-to-Talk model.

    Several processes: `accelerate launch -m ttt_ref.train.cli CONFIG.toml`.
    """
    with exit_on_error():
        settings = read_config(
            config, [*(override or []), *(["skip_bad=true"] if skip_bad else [])]
        )
        # Imported late: a mistake in the file should be reported before torch has loaded.
        from ttt_ref.train.trainer import train

        train(settings, resume)


def main() -> None:
    """Entry point of the console script."""
    run_app(app)


if __name__ == "__main__":
    main()
