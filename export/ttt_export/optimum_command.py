"""`optimum-cli export ttt`: ttt-export under optimum's command line, with the same options.

optimum-cli speaks argparse and ttt-export typer. The options are read off the typer command, so
there is one list of them; values go on as they were typed, and typer checks them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Final

import typer.main
from optimum.commands.base import BaseOptimumCLICommand, CommandInfo

from ttt_export.cli import app
from ttt_ref.command_line import run_app

_WORDS: Final = "ttt_words"


class _Pass(argparse.Action):
    """Collects an option as it was typed."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        words: list[str] = list(getattr(namespace, _WORDS, None) or [])
        if option_string is not None:
            words.append(option_string)
        words += [values] if isinstance(values, str) else map(str, values or ())
        setattr(namespace, _WORDS, words)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a parser the options and arguments of ttt-export."""
    parser.set_defaults(**{_WORDS: None})
    for parameter in typer.main.get_command(app).params:
        if parameter.param_type_name == "argument":
            text = getattr(parameter, "help", None)
            parser.add_argument(str(parameter.name), nargs="?", action=_Pass, help=_plain(text))
            continue
        flags = [*parameter.opts, *parameter.secondary_opts]
        if flags == ["--help"]:
            continue
        is_flag = bool(getattr(parameter, "is_flag", False))
        parser.add_argument(
            *flags,
            action=_Pass,
            dest=argparse.SUPPRESS if is_flag else str(parameter.name),
            nargs=0 if is_flag else None,
            default=argparse.SUPPRESS,
            help=_plain(getattr(parameter, "help", None)),
        )


def _plain(text: str | None) -> str:
    return (text or "").replace("%", "%%")  # argparse formats help texts


class TttExportCommand(BaseOptimumCLICommand):  # type: ignore[misc]
    """The subcommand that optimum-cli registers."""

    COMMAND = CommandInfo(
        name="ttt",
        help="Export a Text-to-Talk checkpoint to a validated ttt-edge bundle (ttt-export).",
    )

    @staticmethod
    def parse_args(parser: argparse.ArgumentParser) -> None:
        """See `add_options`."""
        add_options(parser)

    def run(self) -> None:
        """Run ttt-export with the words that were given."""
        sys.argv = ["optimum-cli export ttt", *(getattr(self.args, _WORDS) or [])]
        run_app(app)
