"""Command-line options from the fields of flat dataclasses."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any, TypeVar


def add_options(parser: argparse.ArgumentParser, *defaults: Any) -> None:
    """Add one option per field of each dataclass instance, its value as default."""
    for default in defaults:
        for field in fields(default):
            value = getattr(default, field.name)
            option = "--" + field.name.replace("_", "-")
            if isinstance(value, bool):
                parser.add_argument(option, action=argparse.BooleanOptionalAction, default=value)
            else:
                parser.add_argument(option, type=type(value), default=value)


T = TypeVar("T")


def read_options(values: dict[str, Any], kind: type[T]) -> T:
    """Build the dataclass ``kind`` from parsed options."""
    return kind(**{f.name: values[f.name] for f in fields(kind)})  # type: ignore[arg-type]
