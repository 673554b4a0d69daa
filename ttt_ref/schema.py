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
from collections.abc import Callable, Mapping
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
    return _build(kind, table, _Place(_File(where, complete, partial)))


def check(instance: Any, where: str = "") -> None:
    """Raise ConfigError for the first field of a dataclass that its rules do not allow."""
    place = _Place(_File(where))
    for name, convert in _converters(typing.cast("Any", type(instance))).items():
        convert(getattr(instance, name), _Place(place.file, place, name))


@dataclass(frozen=True)
class _File:
    where: str
    complete: bool = False
    partial: tuple[type[Any], ...] = ()


class _Place:
    """Where a value stands; its path is put together only for a message."""

    __slots__ = ("above", "file", "key")

    def __init__(self, file: _File, above: _Place | None = None, key: str | int = "") -> None:
        self.file, self.above, self.key = file, above, key

    def path(self) -> str:
        if self.above is None:
            return ""
        before = self.above.path()
        if isinstance(self.key, int):
            return f"{before}[{self.key}]"
        return f"{before}.{self.key}" if before else self.key

    def error(self, message: str) -> ConfigError:
        return ConfigError(f"{self.file.where}: {message}" if self.file.where else message)

    def wrong(self, value: object, expected: object) -> ConfigError:
        path = self.path() or "it"
        path = path if path.isprintable() and len(path) < 200 else shown(path, 200)
        return self.error(f"{path} is {shown(value)}; expected {expected}")


# Takes a value and where it stands; returns it as a field's type wants it, or raises ConfigError.
_Convert = Callable[[Any, _Place], Any]


@functools.cache
def _converters(kind: Any) -> dict[str, _Convert]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: _converter(hints[field.name]) for field in dataclasses.fields(kind)}


@functools.cache
def _needed(kind: Any) -> frozenset[str]:
    return frozenset(
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )


def _build(kind: type[T], table: object, place: _Place) -> T:
    if not isinstance(table, Mapping):
        raise place.wrong(table, "a table")
    converters = _converters(typing.cast("Any", kind))
    built: dict[str, Any] = {}
    for key, value in table.items():
        here = _Place(place.file, place, str(key))
        if key not in converters:
            near = difflib.get_close_matches(str(key)[:80], converters, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(converters)}"
            raise place.error(f"unknown key {shown(here.path())}; {advice}")
        built[key] = converters[key](value, here)
    whole = place.file.complete and kind not in place.file.partial
    for name in converters if whole else _needed(typing.cast("Any", kind)):
        if name not in built:
            raise place.error(f"missing key {_Place(place.file, place, name).path()!r}")
    return kind(**built)


def _converter(hint: Any) -> _Convert:
    """Return what reads values of a type hint."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return lambda value, place: value
    if origin is Annotated:
        return _ruled(_converter(args[0]), args[1:])
    if origin in (typing.Union, types.UnionType):
        return _one_type(args)
    if origin is Literal:
        return _ruled(_plain(str), (OneOf(*args),))
    if origin is tuple:
        return _list(_converter(args[0]))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _table(_converter(args[1]))
    if dataclasses.is_dataclass(hint):
        kind = typing.cast("type[Any]", hint)
        return lambda value, place: value if isinstance(value, kind) else _build(kind, value, place)
    return _plain(hint)


def _ruled(convert: _Convert, rules: tuple[Any, ...]) -> _Convert:
    def ruled(value: Any, place: _Place) -> Any:
        value = convert(value, place)
        for rule in rules:
            if value is not None and not rule.holds(value):
                raise place.wrong(value, rule)
        return value

    return ruled


def _list(convert: _Convert) -> _Convert:
    def items(value: Any, place: _Place) -> Any:
        if not isinstance(value, list | tuple):
            raise place.wrong(value, "a list")
        return tuple(convert(v, _Place(place.file, place, i)) for i, v in enumerate(value))

    return items


def _table(convert: _Convert) -> _Convert:
    text = _plain(str)

    def entries(value: Any, place: _Place) -> Any:
        if not isinstance(value, Mapping):
            raise place.wrong(value, "a table")
        return {
            text(k, place): convert(v, _Place(place.file, place, str(k))) for k, v in value.items()
        }

    return entries


def _one_type(kinds: tuple[Any, ...]) -> _Convert:
    others = [kind for kind in kinds if kind is not type(None)]
    converters = [(_types_of(kind), _converter(kind)) for kind in others]
    expected = " or ".join(map(_said, others))

    def choose(value: Any, place: _Place) -> Any:
        if value is None and type(None) in kinds:
            return None
        if len(converters) == 1:
            return converters[0][1](value, place)
        for types_of, convert in converters:
            if not isinstance(value, types_of):
                continue  # not an error made and thrown away
            with contextlib.suppress(ConfigError):
                return convert(value, place)
        raise place.wrong(value, expected)

    return choose


def _types_of(kind: Any) -> type[Any] | tuple[type[Any], ...]:
    """Return what a value of this kind can be an instance of."""
    plain = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
    if plain is float:
        return (int, float)
    return plain if isinstance(plain, type) else object


def _said(kind: Any) -> str:
    if typing.get_origin(kind) is Annotated:
        plain, *rules = typing.get_args(kind)
        return ", ".join([_said(plain), *map(str, rules)])
    return _NAMES.get(kind, str(kind))


_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _plain(kind: Any) -> _Convert:
    expected = _NAMES.get(kind, getattr(kind, "__name__", kind))

    def plain(value: Any, place: _Place) -> Any:
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            # What a float cannot hold is outside of every range, and would raise OverflowError.
            value = float(value) if value.bit_length() < 1000 else math.inf
        fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if not fits or (kind is float and not math.isfinite(value)):
            raise place.wrong(value, expected)
        if kind is str and not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise place.wrong(value, "text without lone surrogates") from None
        return value

    return plain
