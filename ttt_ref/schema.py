"""Tables from files made into frozen dataclasses: types, ranges and choices stand at the fields.

    @dataclass(frozen=True)
    class Batch:
        rows: Annotated[int, Range(1, 4096)] = 64
        order: Annotated[str, OneOf("sorted", "drawn")] = "drawn"

`build` reads a table into such a class: unknown and missing keys, other types and values outside
their range are a ConfigError of one line that names the key by its path. `check` holds an instance
to the same rules, for a class's `__post_init__`. This is the one reader of strict tables: of
manifests, recipes of quantisation and training files. Standard library only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from ttt_ref.bounded import shown
from ttt_ref.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`; `above` and `below` leave the limit itself out."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    or_zero: bool = False

    def holds(self, value: Any) -> bool:
        """Tell whether a number lies in the range."""
        return (self.or_zero and value == 0) or (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        parts = [
            f"{word} {limit}"
            for word, limit in (
                ("at least", self.least),
                ("above", self.above),
                ("at most", self.most),
                ("below", self.below),
            )
            if limit is not None
        ]
        return ("0, or " if self.or_zero else "") + " and ".join(parts)


@dataclass(frozen=True)
class OneOf:
    """One of these texts."""

    options: tuple[str, ...]

    def __init__(self, *options: str) -> None:
        object.__setattr__(self, "options", options)

    def holds(self, value: Any) -> bool:
        """Tell whether a text is one of them."""
        return value in self.options

    def __str__(self) -> str:
        return f"one of {', '.join(self.options)}"


@dataclass(frozen=True)
class Printable:
    """Text that changes nothing on a terminal."""

    def holds(self, value: Any) -> bool:
        """Tell whether every letter can be shown."""
        return bool(value.isprintable())

    def __str__(self) -> str:
        return "text without control characters"


@dataclass(frozen=True)
class Length:
    """Texts, lists and tables of so many letters or entries."""

    least: int
    most: int

    def holds(self, value: Any) -> bool:
        """Tell whether a value has such a length."""
        return self.least <= len(value) <= self.most

    def __str__(self) -> str:
        return f"{self.least} to {self.most} letters or entries"


def build(
    kind: type[T],
    table: object,
    where: str = "",
    *,
    complete: bool = False,
    partial: tuple[type[Any], ...] = (),
) -> T:
    """Make a dataclass of a table.

    Args:
        kind: the dataclass.
        table: what a file says.
        where: what messages begin with, such as the file's name.
        complete: keys with a default must be there too ...
        partial: ... but for these classes.

    Raises:
        ConfigError: the first key that is unknown, missing or wrong.
    """
    return _build(kind, table, _Place(where, "", complete, partial))


def check(instance: Any, where: str = "") -> None:
    """Raise ConfigError for the first field of a dataclass that its rules do not allow."""
    place = _Place(where)
    for name, hint in _hints(typing.cast("Any", type(instance))).items():
        _convert(getattr(instance, name), hint, place.below(name))


@dataclass(frozen=True)
class _Place:
    where: str
    path: str = ""
    complete: bool = False
    partial: tuple[type[Any], ...] = ()

    def below(self, key: str) -> _Place:
        return dataclasses.replace(self, path=f"{self.path}.{key}" if self.path else key)

    def item(self, index: int) -> _Place:
        return dataclasses.replace(self, path=f"{self.path}[{index}]")

    def error(self, message: str) -> ConfigError:
        return ConfigError(f"{self.where}: {message}" if self.where else message)

    def wrong(self, value: object, expected: object) -> ConfigError:
        return self.error(f"{self.path or 'it'} is {shown(value)}; expected {expected}")


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _build(kind: type[T], table: object, place: _Place) -> T:
    if not isinstance(table, Mapping):
        raise place.wrong(table, "a table")
    hints = _hints(typing.cast("Any", kind))
    built: dict[str, Any] = {}
    for key, value in table.items():
        if key not in hints:
            near = difflib.get_close_matches(str(key)[:80], hints, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(hints)}"
            raise place.error(f"unknown key {shown(place.below(str(key)).path)}; {advice}")
        built[key] = _convert(value, hints[key], place.below(key))
    for field in dataclasses.fields(typing.cast("Any", kind)):
        needed = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if (needed or (place.complete and kind not in place.partial)) and field.name not in built:
            raise place.error(f"missing key {place.below(field.name).path!r}")
    return kind(**built)


def _convert(value: Any, hint: Any, place: _Place) -> Any:
    """Return the value as a field's type takes it; ConfigError if it does not."""
    if hint is Any:
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        value = _convert(value, args[0], place)
        for rule in args[1:]:
            if value is not None and not rule.holds(value):
                raise place.wrong(value, rule)
        return value
    if origin in (typing.Union, types.UnionType):
        return _one_type(value, args, place)
    if origin is Literal:
        if not isinstance(value, str) or value not in args:
            raise place.wrong(value, f"one of {', '.join(args)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise place.wrong(value, "a list")
        return tuple(_convert(v, args[0], place.item(i)) for i, v in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise place.wrong(value, "a table")
        return {
            _convert(k, str, place): _convert(v, args[1], place.below(str(k)))
            for k, v in value.items()
        }
    if dataclasses.is_dataclass(hint):
        if isinstance(value, typing.cast("type[Any]", hint)):
            return value
        return _build(typing.cast("type[Any]", hint), value, place)
    return _plain(value, hint, place)


def _one_type(value: Any, kinds: tuple[Any, ...], place: _Place) -> Any:
    if value is None and type(None) in kinds:
        return None
    others = [kind for kind in kinds if kind is not type(None)]
    if len(others) == 1:
        return _convert(value, others[0], place)
    for kind in others:
        with contextlib.suppress(ConfigError):
            return _convert(value, kind, place)
    raise place.wrong(value, " or ".join(map(_said, others)))


def _said(kind: Any) -> str:
    if typing.get_origin(kind) is Annotated:
        plain, *rules = typing.get_args(kind)
        return ", ".join([_said(plain), *map(str, rules)])
    return _NAMES.get(kind, str(kind))


_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _plain(value: Any, kind: Any, place: _Place) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        # What a float cannot hold is outside of every range, and would raise OverflowError.
        value = float(value) if value.bit_length() < 1000 else math.inf
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not fits or (kind is float and not math.isfinite(value)):
        raise place.wrong(value, _NAMES.get(kind, getattr(kind, "__name__", kind)))
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise place.wrong(value, "text without lone surrogates") from None
    return value
