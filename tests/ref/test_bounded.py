"""Files that are no files, and texts beyond every limit: one line, little memory, no waiting."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from ttt_ref.bounded import (
    Unreadable,
    check_plain,
    parse_json,
    parse_toml,
    read_bytes,
    read_json,
    read_text,
    read_toml,
    shown,
)
from ttt_ref.errors import BundleError, DataError


def fifo(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def link_to(target: str):
    return lambda path: path.symlink_to(target)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (fifo, "is a pipe"),
        (loop, "cannot be opened"),
        (link_to("/dev/zero"), "is a device"),
        (link_to("/dev/null"), "is a device"),
        (link_to("/proc/self/mem"), "cannot be read"),
        (Path.mkdir, "is a folder"),
    ],
)
@pytest.mark.parametrize("read", [read_bytes, read_json, read_toml, read_text])
def test_only_plain_files_are_read(tmp_path, make, word, read):
    path = tmp_path / "config.json"
    make(path)
    with pytest.raises(BundleError, match=word) as error:
        read(path, 1000, BundleError)
    assert str(path) in str(error.value)


def test_a_pipe_is_refused_before_a_library_waits_for_it(tmp_path):
    fifo(tmp_path / "x")
    with pytest.raises(DataError, match="a pipe"):
        check_plain(tmp_path / "x")


@pytest.mark.parametrize("size", [0, 1, 999, 1000])
def test_whole_files_up_to_the_limit(tmp_path, size):
    (tmp_path / "x").write_bytes(b"7" * size)
    assert read_bytes(tmp_path / "x", 1000) == b"7" * size
    assert check_plain(tmp_path / "x") == size


def test_larger_files_are_refused_without_being_read(tmp_path):
    with (tmp_path / "x").open("wb") as file:
        file.truncate(1 << 33)
    tracemalloc.start()
    with pytest.raises(DataError, match="larger than 1 MiB"):
        read_bytes(tmp_path / "x", 1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ("[" * 65 + "]" * 65, "deeper than 64"),
        ('{"a": ' * 65 + "1" + "}" * 65, "deeper than 64"),
        ("1" * 5_000, "thousands of digits"),
        ('{"a": -' + "9" * 9_999 + "}", "thousands of digits"),
        ('{"a": NaN}', "NaN is no JSON"),
        ("[-Infinity]", "-Infinity is no JSON"),
        (b"\xff{}", r"not UTF-8 text \(byte 0xff\)"),
        (b'{"a": "\xc3"}', "not UTF-8"),
        (b"\xff\xfe\x00", "not UTF-16"),
        ("[" + "1," * 200_001 + "1]", "more than 200000 values"),
        ("[" + "[]," * 150_000 + "1]", "more than 200000 values"),
        ('{"a": 1', "column"),
        ("", "Expecting value"),
    ],
)
def test_json_beyond_the_limits(text, word):
    with pytest.raises(Unreadable, match=word) as error:
        parse_json(text)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a = " + "[" * 50_000, "nested too deep"),
        ("a = " + "[" * 70 + "]" * 70, "deeper than 64"),
        ("a = " + "{b = " * 70 + "1" + "}" * 70, "deeper than 64"),
        ("a" + ".a" * 30_000 + " = 1", "more than 32 parts"),
        ("[" + '"b" . ' * 40 + "c]", "more than 32 parts"),
        ("a = " + "1" * 5_000, "digits"),
        (b"a = '\xe9'", r"not UTF-8 text \(byte 0xe9\)"),
        ("a = 1\na = 2", "overwrite"),
        ("a = 1\n" * 1 + "b" + "\n" * 200_001, "more than 200000"),
    ],
)
def test_toml_beyond_the_limits(text, word):
    with pytest.raises(Unreadable, match=word) as error:
        parse_toml(text)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marked_encodings_are_read(tmp_path, encoding):
    (tmp_path / "x").write_bytes('{"a": "\N{SNOWMAN}"}\r\n'.encode(encoding))
    assert read_json(tmp_path / "x") == {"a": "\N{SNOWMAN}"}
    assert read_text(tmp_path / "x").endswith("}\n")


def test_values_in_messages_are_short_and_on_one_line():
    assert shown(10**5000) == "a whole number of 16610 bits"
    assert len(shown("x" * 10_000)) == 60
    assert shown("a\n\x1b[2J\ud800") == r"'a\n\x1b[2J\ud800'"
