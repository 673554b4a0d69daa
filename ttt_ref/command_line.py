"""Run a typer application: parse, run, and turn errors into one line and a code."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any, NoReturn

import typer
import typer.main

from ttt_ref.errors import DEBUG, EXIT_USER_ERROR, report
from ttt_ref.launch import guarded
from ttt_ref.package import print_version

# The error that typer raises for arguments it cannot parse (its click is vendored since 0.26).
_ParseError: type[Exception] = typer.BadParameter.__mro__[2]  # ClickException


def _choose_debug(chosen: bool) -> None:
    if chosen:
        os.environ[DEBUG] = "1"


def _carry(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,  # before arguments are missed
            expose_value=False,
            callback=print_version,
            help="Show the version and exit.",
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            is_eager=True,
            expose_value=False,
            callback=_choose_debug,
            help=f"Print the traceback of an error (or {DEBUG}=1).",
        ),
    ] = False,
) -> None:
    """Carry the options that every command gets."""


def command_of(app: typer.Typer) -> Any:
    """Return the click command of a typer application, with `--version` and `--debug`."""
    carrier = typer.Typer(add_completion=False)
    carrier.command()(_carry)
    command: Any = typer.main.get_command(app)
    options = typer.main.get_command(carrier).params
    command.params += options
    for below in getattr(command, "commands", {}).values():
        below.params += [option for option in options if option.name == "debug"]
    return command


def run_app(app: typer.Typer) -> NoReturn:
    """Run a typer application and leave the process; exit codes: see `ttt_ref.launch`."""
    with guarded():
        try:
            code = command_of(app)(standalone_mode=False)
        except _ParseError as error:
            message = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
            report(f"{message or 'nothing to do'}; see --help")
            raise SystemExit(EXIT_USER_ERROR) from None
        except typer.Abort:
            raise KeyboardInterrupt from None
        # Output that cannot be written (a full disk, a closed pipe) must be an error too.
        sys.stdout.flush()
    raise SystemExit(code if isinstance(code, int) else 0)
