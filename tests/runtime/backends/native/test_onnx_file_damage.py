"""ONNX files that are broken, cut or hostile: a BundleError, and never anything worse."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.onnx_graphs import (
    assert_same,
    field,
    inside,
    packed,
    refused,
    save,
    write_graph,
    write_raw,
)
from ttt_ref.errors import BundleError
from ttt_runtime.backends.native.onnx_file import OnnxFile


@pytest.mark.parametrize(
    ("graph", "word"),
    [
        (b"\x80" * 10 + b"\x01", "64 bits"),
        (b"\x18" + b"\xff" * 9 + b"\x02", "64 bits"),
        (b"\x18" + b"\x80" * 10 + b"\x00", "64 bits"),
        (b"\x0a", "cut short"),
        (b"\x0a\x05abcd", "4 bytes left"),
        (b"\x0a" + packed(2**63), "0 bytes left"),
        (b"\x0a" + packed(2**64 - 1), "0 bytes left"),
        (b"\x51abcdefg", "7 bytes left"),
        (b"\x55abc", "3 bytes left"),
        (b"\x00\x00", "field 0"),
        (packed(2**32), "field 536870912"),
        (b"\x53\x54", "wire type 3"),
        (b"\x54", "wire type 4"),
        (b"\x56", "wire type 6"),
        (b"\x57", "wire type 7"),
        (field(1, 5), "wire type 0"),
        (field(1, field(4, b"\xff")), "UTF-8"),
        (field(1, field(4, b"\xed\xa0\x80")), "UTF-8"),
        (field(1, field(1, b"\xff")), "UTF-8"),
        (field(5, field(2, 1)), "''"),
    ],
)
def test_messages_that_break_the_wire_format(tmp_path: Path, graph: bytes, word: str) -> None:
    assert word in refused(write_raw(tmp_path, graph))


def test_files_that_are_no_model(tmp_path: Path) -> None:
    path = tmp_path / "toy.onnx"
    assert "no file" in refused(path)
    assert "no file" in refused(tmp_path)
    path.write_bytes(b"")
    assert "0 graphs" in refused(path)
    path.write_bytes(2 * field(7, b""))
    assert "2 graphs" in refused(path)
    path.write_bytes(field(7, b""))
    assert OnnxFile.read(path).nodes == ()
    with path.open("wb") as file:
        file.truncate(2**31)  # a hole: takes no room
    assert "over 2 GiB" in refused(path)


def test_names_twice(tmp_path: Path) -> None:
    tensor = inside([1], bytes(4))
    assert "'w' again" in refused(save(tmp_path, tensor, tensor))
    attribute = field(5, field(1, b"k") + field(3, 1) + field(20, 2))
    assert "'k' twice" in refused(write_raw(tmp_path, field(1, 2 * attribute)))


def test_long_names_make_no_long_lines(tmp_path: Path) -> None:
    tensor = inside([1], b"")
    tensor.name = "n" * 10**5 + "\n"
    path = save(tmp_path, tensor)
    assert len(refused(path, tensor.name)) < 300
    assert len(refused(save(tmp_path, tensor, tensor))) < 300


def test_graphs_in_graphs_do_not_recurse(tmp_path: Path) -> None:
    graph = b""
    for _ in range(3000):  # an If in an If in an If ...
        graph = field(1, field(4, b"If") + field(5, field(1, b"g") + field(6, graph)))
    (node,) = OnnxFile.read(write_raw(tmp_path, graph)).nodes
    assert (node.op_type, node.attributes) == ("If", {})


def read_all(path: Path) -> OnnxFile | None:
    """Read everything; None if it is refused. Any other exception fails the test."""
    try:
        file = OnnxFile.read(path)
        for name in file.names():
            file.tensor(name)
    except BundleError:
        return None
    return file


def test_cut_anywhere(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "toy.onnx")
    data = path.read_bytes()
    read = []
    for length in range(len(data)):
        path.write_bytes(data[:length])
        if read_all(path) is not None:
            read.append(length)
    # Only what stands after the graph (the opset) may be missing.
    assert len(data) - min(read) < 32


def test_data_file_cut_anywhere(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "toy.onnx")
    size = (tmp_path / "toy.onnx.data").stat().st_size
    for length in {0, 1, 47, 48, 4096, 8192, size - 1}:
        os.truncate(tmp_path / "toy.onnx.data", length)
        assert read_all(path) is None


@pytest.mark.filterwarnings("ignore:Ignoring unknown external data:UserWarning")
def test_changed_bytes(tmp_path: Path) -> None:
    """What is still read is read as protobuf reads it."""
    path = write_graph(tmp_path / "toy.onnx")
    data = path.read_bytes()
    chance = random.Random(7)
    for _ in range(1000):
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 8))):
            changed[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(changed)
        file = read_all(path)
        if file is not None:
            # onnx refuses damage in what is passed over, and takes a place without a length to
            # reach to the end of the file.
            with contextlib.suppress(DecodeError, ValueError):
                assert_same(path, onnx.load(path, load_external_data=False), file)


@settings(max_examples=200, deadline=None)
@given(graph=st.binary(max_size=64), whole=st.booleans())
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, graph: bytes, whole: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "any.onnx"
    path.write_bytes(field(7, graph) if whole else graph)
    read_all(path)
