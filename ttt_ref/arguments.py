"""Checks of what a program hands to the Python API, before anything is changed because of it.

Files are held to `schema` and `ranges`; these are for single arguments. Every error is one line.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from math import inf
from numbers import Integral, Real
from typing import Any, Final

from ttt_ref.errors import ConfigError

MOST_SEED: Final = (1 << 64) - 1
_SHORT = reprlib.Repr()


def shown(value: object) -> str:
    """Return a value as one short line, however large it is and whatever its repr does."""
    try:
        return " ".join(_SHORT.repr(value).split())
    except ValueError:  # Python prints no whole number of more than 4,300 digits
        return "a number too long to print"


def is_whole(value: object) -> bool:
    """Tell whether a value is a whole number of Python's or numpy's; True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return a whole number within its range.

    Raises:
        ConfigError: another type (1.5 is never cut to 1), or outside the range.
    """
    if not is_whole(value) or value < least or (most is not None and value > most):
        limits = f"{least} or more" if most is None else f"{least} .. {most}"
        raise ConfigError(f"{name} is {shown(value)}; expected a whole number, {limits}")
    return int(value)


def seed_of(value: Any) -> int:
    """Return a seed, 0 .. 2^64 - 1; ConfigError for anything else."""
    return whole("seed", value, 0, MOST_SEED)


def token_ids(name: str, values: Any, vocab_size: int) -> list[int]:
    """Return the ids of one row of tokens [L] of a model that knows `vocab_size`.

    Raises:
        ConfigError: no sequence of one dimension, an id that is no whole number, or one that the
            model does not know.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise ConfigError(f"{name} is {shown(values)}; expected token ids [L]")
    try:
        given = list(values)
    except TypeError:  # an array without dimensions
        raise ConfigError(f"{name} is {shown(values)}; expected token ids [L]") from None
    ids: list[int] = []
    for place, value in enumerate(given):
        if not is_whole(value):
            raise ConfigError(
                f"{name} holds {shown(value)} at place {place}; expected whole numbers [L]"
            )
        if not 0 <= value < vocab_size:
            raise ConfigError(
                f"{name} holds the id {shown(value)}; this model knows 0 .. {vocab_size - 1}"
            )
        ids.append(int(value))
    return ids


def seconds(name: str, value: Any) -> float:
    """Return a finite time of 0 or more; ConfigError for anything else."""
    if isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < inf:
        return float(value)
    raise ConfigError(f"{name} is {shown(value)}; expected 0 or more")
