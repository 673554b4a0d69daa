"""Options that several commands share, stated once.

A command takes one argument `options` of a dataclass whose fields are annotated for typer; on the
command line it has an option for each field.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints


def with_options(
    options: type, *, without: tuple[str, ...] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that spreads a dataclass over the options of a command.

    Args:
        options: a dataclass; every field has a default and a type that typer understands.
        without: fields that make no sense for the command; they keep their default.
    """
    hints = get_type_hints(options, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(options)
        if field.name not in without
    ]

    def spread(command: Callable[..., None]) -> Callable[..., None]:
        # Python 3.10's get_type_hints hides an option's description where its default is None.
        own_hints = inspect.get_annotations(command, eval_str=True)
        own = [
            parameter.replace(annotation=own_hints[name])
            for name, parameter in inspect.signature(command).parameters.items()
            if name != "options"
        ]

        @functools.wraps(command)
        def run(**values: Any) -> None:
            chosen = {p.name: values.pop(p.name) for p in shared}
            command(options=options(**chosen), **values)

        keywords = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        # What typer looks at.
        run.__signature__ = inspect.Signature([*keywords, *shared])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in (*keywords, *shared)}
        return run

    return spread
