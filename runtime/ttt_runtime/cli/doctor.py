"""ttt-doctor: what can this machine run, and can it run this bundle?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ttt_runtime.terminal.entry import run_app

EXIT_CANNOT_RUN = 1

app = typer.Typer(name="ttt-doctor", add_completion=False, pretty_exceptions_enable=False)


@app.command()
def doctor(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle to hold this machine against.")] = (
        None
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what this machine can run, and what a bundle needs that is not there.

    Exit code 0: the bundle can run here (without one: some engine loads). 1: it cannot.
    2: the bundle cannot be read.
    """
    from rich.console import Console

    from ttt_runtime.doctor.report import collect, print_report

    report = collect(bundle)
    if as_json:
        json.dump(report.to_dict(), sys.stdout, indent=1, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        print_report(report, Console())
    if not report.good:
        raise typer.Exit(EXIT_CANNOT_RUN)


def main() -> None:
    """Run `ttt-doctor`."""
    run_app(app)


if __name__ == "__main__":
    main()
