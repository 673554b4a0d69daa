"""One reader of strict tables: every kind of wrong value is named by its path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from ttt_ref.errors import ConfigError
from ttt_ref.schema import Length, OneOf, Printable, Range, build, check


@dataclass(frozen=True)
class Inner:
    count: Annotated[int, Range(1, 9)]
    share: Annotated[float, Range(0, below=1)] = 0.5


@dataclass(frozen=True)
class Outer:
    inner: Inner
    name: Annotated[str, Length(1, 5), Printable()] = "x"
    way: Annotated[str, OneOf("up", "down")] = "up"
    kind: Literal["a", "b"] = "a"
    on: bool = False
    many: tuple[Inner, ...] = ()
    table: Mapping[str, Inner] = field(default_factory=dict)
    size: int | Annotated[str, Length(1, 2)] | None = None
    heat: Annotated[float, Range(0.5, 2, or_zero=True)] = 0.0
    free: Any = None

    def __post_init__(self) -> None:
        check(self, "outer")


GOOD = {"inner": {"count": 3}}


def test_tables_become_dataclasses():
    made = build(
        Outer,
        GOOD
        | {
            "many": [{"count": 1, "share": 0}],
            "table": {"k": {"count": 2}},
            "size": "ab",
            "heat": 1,
        },
    )
    assert made == Outer(
        Inner(3), many=(Inner(1, 0.0),), table={"k": Inner(2)}, size="ab", heat=1.0
    )
    assert type(made.many[0].share) is float


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"inner": {"count": 0}}, ["inner.count is 0", "at least 1 and at most 9"]),
        ({"inner": {"count": 10**5000}}, ["inner.count", "bits"]),
        ({"inner": {"count": True}}, ["inner.count is True", "whole number"]),
        ({"inner": {"count": 1.0}}, ["inner.count is 1.0", "whole number"]),
        ({"inner": {}}, ["missing key 'inner.count'"]),
        ({"inner": [1]}, ["inner is [1]", "a table"]),
        ({"inner": {"count": 1, "shar": 1}}, ["unknown key 'inner.shar'", "mean 'share'"]),
        ({"inner": {"count": 1, "share": 1.0}}, ["inner.share", "below 1"]),
        ({"inner": {"count": 1, "share": float("nan")}}, ["inner.share is nan"]),
        ({"inner": {"count": 1, "share": 10**400}}, ["inner.share"]),
        ({"name": ""}, ["name is ''", "1 to 5"]),
        ({"name": "a\x1b"}, ["control characters"]),
        ({"name": "\ud800"}, ["surrogates"]),
        ({"name": 5}, ["name is 5", "text"]),
        ({"way": "left"}, ["one of up, down"]),
        ({"kind": "c"}, ["one of a, b"]),
        ({"on": 1}, ["on is 1", "true or false"]),
        ({"many": {"count": 1}}, ["many is", "a list"]),
        ({"many": [{"count": 1}, {"count": -1}]}, ["many[1].count is -1"]),
        ({"table": [1]}, ["table is [1]", "a table"]),
        ({"table": {"k": {"count": 99}}}, ["table.k.count is 99"]),
        ({"table": {7: {"count": 9}}}, ["table is 7", "text"]),
        ({"size": 1.5}, ["size is 1.5", "a whole number or text"]),
        ({"heat": 0.1}, ["heat is 0.1", "0, or at least 0.5"]),
        ({"x" * 500: 1}, ["unknown key", "..."]),
    ],
)
def test_wrong_values_are_named(change, words):
    with pytest.raises(ConfigError, match=r"^file: ") as error:
        build(Outer, GOOD | change, "file")
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_instances_are_held_to_the_same_rules():
    with pytest.raises(ConfigError, match=r"outer: heat is 0.1"):
        Outer(Inner(1), heat=0.1)


def test_whole_tables_need_every_key_but_those_of_partial_classes():
    whole = {"inner": {"count": 1}} | {
        "name": "x", "way": "up", "kind": "a", "on": True, "many": [], "table": {}, "size": None,
        "heat": 0, "free": 1,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"missing key 'inner.share'"):
        build(Outer, whole, complete=True)
    assert build(Outer, whole, complete=True, partial=(Inner,)).inner == Inner(1)
