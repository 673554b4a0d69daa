"""The one door of every command line: parse, run, and turn errors into one line and a code."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Annotated, Any

import typer
import typer.main

from ttt_ref.errors import EXIT_USER_ERROR, exit_on_error
from ttt_ref.package import print_version

# The error that typer raises for arguments it cannot parse (its click is vendored since 0.26).
_ParseError: type[Exception] = typer.BadParameter.__mro__[2]  # ClickException
EXIT_TERMINATED = 143


def _terminate(signum: int, frame: FrameType | None) -> None:
    # Unwinds the stack, so that half-written files are removed as with Ctrl-C.
    raise SystemExit(EXIT_TERMINATED)


def _open_closed_streams() -> None:
    # Of a stream that the shell closed (`>&-`) Python keeps nothing: whatever prints would fail.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (it lives as long as we do)


def _drop_unwritable_output() -> None:
    # What still waits to be written would fail once more at the interpreter's end, with a message
    # of its own and the exit code 120 in place of ours.
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _version(
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
) -> None:
    """Carry the option that every command gets."""


def command_of(app: typer.Typer) -> Any:
    """Return the click command of a typer application, with the option `--version`."""
    carrier = typer.Typer(add_completion=False)
    carrier.command()(_version)
    command: Any = typer.main.get_command(app)
    command.params += typer.main.get_command(carrier).params
    return command


def run_app(app: typer.Typer) -> None:
    """Run a typer application, with the option `--version`, and leave the process.

    Exit codes: 0, 2 for errors of the user (one line on stderr), 130 for Ctrl-C, 143 for TERM.
    """
    signal.signal(signal.SIGTERM, _terminate)
    _open_closed_streams()
    try:
        with exit_on_error():
            try:
                code = command_of(app)(standalone_mode=False)
            except _ParseError as error:
                message = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
                print(f"error: {message or 'nothing to do'}; see --help", file=sys.stderr)
                raise SystemExit(EXIT_USER_ERROR) from None
            except typer.Abort:
                raise KeyboardInterrupt from None
            # Output that cannot be written (a full disk, a closed pipe) must be an error too.
            sys.stdout.flush()
    finally:
        _drop_unwritable_output()
    raise SystemExit(code if isinstance(code, int) else 0)
