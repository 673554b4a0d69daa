"""ttt-doctor: what can this machine run, and can it run this bundle?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttt_ref.command_line import run_app
from ttt_ref.errors import ConfigError
from ttt_ref.outputs import write_whole

if TYPE_CHECKING:
    from ttt_runtime.doctor.report import Report

EXIT_CANNOT_RUN = 1
NO_GPU_BUNDLE = (
    "no bundle for the GPU was given; export one (ttt-export --target {}) and say ttt-doctor "
    "BUNDLE --report FILE"
)

app = typer.Typer(name="ttt-doctor", add_completion=False, pretty_exceptions_enable=False)


@app.command()
def doctor(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle to hold this machine against.")] = (
        None
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    report_file: Annotated[
        Path | None,
        typer.Option(
            "--report",
            help="Also measure this machine's limits, and parity and times of the shipped bundle "
            "and the one given in every way that runs here; write all to this file.",
        ),
    ] = None,
) -> None:
    """Say what this machine can run, and what a bundle needs that is not there.

    Exit code 0: the bundle can run here (without one: some engine loads). 1: it cannot.
    2: the bundle cannot be read.
    """
    from rich.console import Console

    from ttt_runtime.doctor.report import collect, print_report

    report = collect(bundle)
    if report_file is not None:
        _write_report(report, bundle, report_file)
    if as_json:
        json.dump(report.to_dict(), sys.stdout, indent=1, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        print_report(report, Console())
    if not report.good:
        raise typer.Exit(EXIT_CANNOT_RUN)


def _write_report(report: Report, bundle: Path | None, file: Path) -> None:
    """Write machine, limits, parity and times as one JSON document."""
    from ttt_runtime.bundle.folder import Bundle
    from ttt_runtime.cli.assistant_run import shipped_or
    from ttt_runtime.profiler.board_report import board_report

    def say(line: str) -> None:
        typer.echo(f"... {line}", err=True)

    if not file.absolute().parent.is_dir():  # said now, not after minutes of work
        raise ConfigError(f"the report cannot be written to {file}: there is no such folder")
    shipped = shipped_or(None)
    bundles = [Bundle.open(shipped)]
    if bundle is not None and bundle.resolve() != shipped.resolve():
        bundles.append(Bundle.open(bundle))
    measured = board_report(bundles, say)
    if report.gpus.gpus and all(opened.config.engine == "cpu" for opened in bundles):
        # The shipped bundle is the CPU's.
        measured["ways"].append({"device": "gpu", "error": NO_GPU_BUNDLE.format(report.target)})
    text = json.dumps({"machine": report.to_dict(), **measured}, indent=1, ensure_ascii=False)
    try:
        write_whole(file, text + "\n")
    except OSError as error:
        raise ConfigError(f"the report cannot be written to {file}: {error.strerror}") from None
    typer.echo(f"... report: {file}", err=True)


def main() -> None:
    """Run `ttt-doctor`."""
    run_app(app)


if __name__ == "__main__":
    main()
