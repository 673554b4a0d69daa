"""ONNX files read with numpy alone: as the onnx package reads them, and never anything worse."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import ttt_runtime
from ttt_export.writer import GraphWriter
from ttt_ref.errors import BundleError
from ttt_runtime.graph_spec import GraphSpec, TensorSpec
from ttt_runtime.onnx_file import OnnxFile

SHIPPED = Path(ttt_runtime.__file__).parent / "bundles" / "tiny"
WEIGHTS: dict[str, NDArray[Any]] = {
    "float32": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "float16": np.linspace(-2, 2, 5, dtype=np.float16),
    "uint8": np.arange(250, 256, dtype=np.uint8).reshape(2, 1, 3),
    "int8": np.array([-128, 0, 127], np.int8),
}
CONSTANTS: dict[str, NDArray[Any]] = {
    "scalar": np.array(-3, np.int64),
    "rows": np.array([[1, -2], [3, 2**31 - 1]], np.int32),
    "flags": np.array([True, False, True]),
    "nothing": np.zeros((0, 3), np.float32),
}


def write_graph(path: Path) -> Path:
    """A graph with every kind of weight and attribute, written as exports are."""
    with GraphWriter(path) as writer:
        for dtype, value in WEIGHTS.items():
            writer.weight(f"w.{dtype}", dtype, value.shape, [value[:1], value[1:]])
        writer.weight("w.empty", "float32", (0, 7), [])
        for name, value in CONSTANTS.items():
            writer.constant(name, value)
        writer.node("Add", ["x", "w.float32"], "y", domain="com.toy", bits=4, k=-1, scale=0.5)
        writer.nodes("Split", ["y", ""], ["a", "b"], axis=0, sizes=[1, 2], mode="half", zero=0.0)
        spec = TensorSpec("x", "float32", ("N", 4))
        writer.finish(GraphSpec("toy", (spec,), (TensorSpec("y", "float32", ("N", 4)),)))
    return path


def save(folder: Path, *initializers: TensorProto, nodes: Iterable[onnx.NodeProto] = ()) -> Path:
    """Write a graph of these initializers."""
    graph = helper.make_graph(list(nodes), "toy", [], [], initializer=list(initializers))
    path = folder / "toy.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def external(
    dims: Iterable[int] = (2,), kind: int = TensorProto.FLOAT, **at: object
) -> TensorProto:
    """An initializer `w` beside the graph."""
    proto = TensorProto(name="w", data_type=kind, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in at.items():
        proto.external_data.add(key=key, value=str(value))
    return proto


def inside(dims: Iterable[int], raw: bytes, kind: int = TensorProto.FLOAT) -> TensorProto:
    return TensorProto(name="w", data_type=kind, dims=dims, raw_data=raw)


def refused(path: Path, name: str | None = None) -> str:
    """The one line that refuses the file, or its initializer of this name."""
    if name is None:
        with pytest.raises(BundleError) as caught:
            OnnxFile.read(path)
    else:
        file = OnnxFile.read(path)
        with pytest.raises(BundleError) as caught:
            file.tensor(name)
    line = str(caught.value)
    assert "\n" not in line
    assert path.name in line
    assert "expected" in line
    assert line.endswith("; export the bundle again")
    return line


def assert_same(path: Path, proto: onnx.ModelProto, file: OnnxFile) -> None:
    assert len(file.nodes) == len(proto.graph.node)
    for node, other in zip(file.nodes, proto.graph.node, strict=True):
        assert (node.op_type, node.domain) == (other.op_type, other.domain)
        assert node.inputs == tuple(other.input)
        assert node.outputs == tuple(other.output)
        single = (onnx.AttributeProto.FLOAT, onnx.AttributeProto.INT)
        kept = [a for a in other.attribute if a.type in single]
        expected = {a.name: helper.get_attribute_value(a) for a in kept}
        assert node.attributes == expected
        assert {k: type(v) for k, v in node.attributes.items()} == {
            k: type(v) for k, v in expected.items()
        }
    assert file.names() == [t.name for t in proto.graph.initializer]
    for tensor in proto.graph.initializer:
        array = file.tensor(tensor.name)
        expected_array = numpy_helper.to_array(tensor, str(path.parent))
        assert array.dtype == expected_array.dtype
        assert array.shape == expected_array.shape
        assert array.tobytes() == expected_array.tobytes()
        assert not array.flags.writeable


def test_reads_what_the_exporter_writes(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "toy.onnx")
    file = OnnxFile.read(path)
    assert_same(path, onnx.load(path, load_external_data=False), file)
    assert file.data_files == (tmp_path.resolve() / "toy.onnx.data",)
    for dtype, value in WEIGHTS.items():
        array = file.tensor(f"w.{dtype}")
        assert isinstance(array, np.memmap)
        assert array.flags.aligned
        np.testing.assert_array_equal(array, value)
    assert file.nodes[0].attributes == {"bits": 4, "k": -1, "scale": 0.5}


@pytest.mark.parametrize("path", sorted(SHIPPED.rglob("*.onnx")), ids=lambda path: path.stem)
def test_reads_the_shipped_graphs(path: Path) -> None:
    file = OnnxFile.read(path)
    assert_same(path, onnx.load(path, load_external_data=False), file)
    assert all(data.is_file() for data in file.data_files)


def test_a_path_relative_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_graph(tmp_path / "toy.onnx")
    monkeypatch.chdir(tmp_path)
    file = OnnxFile.read(Path("toy.onnx"))
    assert file.data_files[0].is_absolute()
    monkeypatch.chdir("/")
    assert file.tensor("w.int8").tolist() == [-128, 0, 127]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (TensorProto.FLOAT, [0.5, -1.25, 3e38]),
        (TensorProto.FLOAT16, [0.5, -1.25, 65504.0]),
        (TensorProto.UINT8, [0, 1, 255]),
        (TensorProto.INT8, [-128, -1, 127]),
        (TensorProto.INT32, [-(2**31), 0, 2**31 - 1]),
        (TensorProto.INT64, [-(2**63), 300, 2**63 - 1]),
        (TensorProto.BOOL, [True, False, True]),
    ],
)
def test_numbers_in_typed_fields(tmp_path: Path, kind: int, values: list[Any]) -> None:
    tensor = helper.make_tensor("w", kind, [3, 1], values)
    assert not tensor.HasField("raw_data")
    path = save(tmp_path, tensor)
    assert_same(path, onnx.load(path), OnnxFile.read(path))
    seen = "12 bytes" if kind == TensorProto.FLOAT else "3 numbers"
    for count in (0, 2, 4):
        tensor.dims[0] = count
        assert f"has {seen}" in refused(save(tmp_path, tensor), "w")


def test_numbers_in_one_field_each(tmp_path: Path) -> None:
    """protobuf lets a writer leave lists unpacked; dims always come that way."""
    ints = field(1, 2) + field(2, 7) + field(8, b"w") + field(7, 5) + field(7, 2**64 - 9)
    floats = field(1, packed(2, 1)) + field(2, 1) + field(8, b"v")
    floats += b"\x25" + np.float32(1.5).tobytes() + b"\x25" + np.float32(-2).tobytes()
    path = write_raw(tmp_path, field(5, ints) + field(5, floats))
    file = OnnxFile.read(path)
    assert_same(path, onnx.load(path), file)
    assert file.tensor("w").tolist() == [5, -9]
    assert file.tensor("v").tolist() == [[1.5], [-2.0]]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (TensorProto.UINT8, 256),
        (TensorProto.UINT8, -1),
        (TensorProto.INT8, 128),
        (TensorProto.BOOL, 2),
        (TensorProto.FLOAT16, 65536),
        (TensorProto.INT32, 2**31),
    ],
)
def test_a_number_that_its_type_cannot_hold(tmp_path: Path, kind: int, value: int) -> None:
    tensor = field(1, 1) + field(2, kind) + field(8, b"w") + field(5, packed(value))
    assert "expected" in refused(write_raw(tmp_path, field(5, tensor)), "w")


def test_bool_bytes_are_0_or_1(tmp_path: Path) -> None:
    path = save(tmp_path, inside([2], b"\x01\x02", TensorProto.BOOL))
    assert "expected 0 or 1" in refused(path, "w")


@pytest.mark.parametrize(
    "kind", [TensorProto.INT4, TensorProto.UINT4, TensorProto.BFLOAT16, TensorProto.STRING, 0, 99]
)
def test_other_element_types(tmp_path: Path, kind: int) -> None:
    """Such a weight is refused when it is asked for; the graph and its other weights are read."""
    other = TensorProto(name="v", data_type=TensorProto.INT8, dims=[1], raw_data=b"\5")
    tensor = field(1, 2) + field(2, kind) + field(8, b"w") + field(9, b"\1")
    path = write_raw(tmp_path, field(5, tensor) + field(5, other.SerializeToString()))
    assert f"element type {kind}" in refused(path, "w")
    assert OnnxFile.read(path).tensor("v").tolist() == [5]


def test_segments_and_unknown_names(tmp_path: Path) -> None:
    tensor = inside([1], bytes(4))
    tensor.segment.begin = 0
    path = save(tmp_path, tensor)
    assert "segments" in refused(path, "w")
    assert "no initializer 'v'" in refused(path, "v")


@pytest.mark.parametrize("raw", [b"", bytes(7), bytes(9), bytes(16)])
def test_raw_data_of_another_size(tmp_path: Path, raw: bytes) -> None:
    path = save(tmp_path, inside([2], raw))
    assert f"{len(raw)} bytes of data, expected 8" in refused(path, "w")


@pytest.mark.parametrize("where", ["float_data", "int32_data", "external_data"])
def test_two_sources_of_data(tmp_path: Path, where: str) -> None:
    tensor = inside([2], bytes(8))
    if where == "external_data":
        (tmp_path / "data").write_bytes(bytes(8))
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="data")
    else:
        getattr(tensor, where).extend([1, 2])
    assert "alone" in refused(save(tmp_path, tensor), "w")


@pytest.mark.parametrize(
    "dims",
    [
        [-1],
        [2**62, 2**62],
        [2**63 - 1, 2**63 - 1, 0],
        [2**62, 4, 2**62],
        [2**61],
        [1] * 33,
        [1] * 1000,
    ],
)
def test_shapes_that_nothing_can_have(tmp_path: Path, dims: list[int]) -> None:
    (tmp_path / "data").write_bytes(bytes(4))
    for tensor in (inside(dims, bytes(4)), external(dims, location="data")):
        assert "shape" in refused(save(tmp_path, tensor), "w")


def test_large_shapes_without_data_take_no_memory(tmp_path: Path) -> None:
    for kind, seen in ((TensorProto.INT64, "0 bytes"), (TensorProto.FLOAT, "0 bytes")):
        assert seen in refused(save(tmp_path, inside([2**50], b"", kind)), "w")
    typed = TensorProto(name="w", data_type=TensorProto.INT64, dims=[2**50], int64_data=[1, 2])
    assert "2 numbers" in refused(save(tmp_path, typed), "w")


def test_most_dimensions_and_none(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(np.float32(3).tobytes())
    for dims in ([], [1] * 32):
        file = OnnxFile.read(save(tmp_path, external(dims, location="data")))
        assert file.tensor("w").shape == tuple(dims)
        assert float(file.tensor("w").reshape(())) == 3


# External data


def test_offset_and_length_may_be_left_out(tmp_path: Path) -> None:
    data = np.arange(5, dtype=np.float32)
    (tmp_path / "data").write_bytes(data.tobytes())
    for at, expected in (({}, [0, 1]), ({"offset": 12}, [3, 4]), ({"length": 8}, [0, 1])):
        file = OnnxFile.read(save(tmp_path, external(location="data", **at)))
        assert file.tensor("w").tolist() == expected


def test_an_offset_may_be_odd(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"\0" + np.arange(2, dtype=np.float32).tobytes())
    file = OnnxFile.read(save(tmp_path, external(location="data", offset=1)))
    assert not file.tensor("w").flags.aligned
    assert file.tensor("w").tolist() == [0, 1]


@pytest.mark.parametrize(
    "at",
    [
        {"offset": 9},
        {"offset": 9, "length": 8},
        {"length": 7},
        {"length": 16},
        {"offset": 16},
        {"offset": 10**19 - 1},
        {"offset": 0, "length": 10**19 - 1},
    ],
)
def test_a_place_that_does_not_fit(tmp_path: Path, at: dict[str, int]) -> None:
    (tmp_path / "data").write_bytes(bytes(16))
    assert "expected 8 inside" in refused(save(tmp_path, external(location="data", **at)), "w")


@pytest.mark.parametrize("text", ["-1", "+1", " 1", "1_0", "٣", "0x8", "1.0", "", "9" * 5000])
@pytest.mark.parametrize("key", ["offset", "length"])
def test_a_place_that_is_no_number(tmp_path: Path, key: str, text: str) -> None:
    (tmp_path / "data").write_bytes(bytes(16))
    line = refused(save(tmp_path, external(**{"location": "data", key: text})))
    assert key in line
    assert len(line) < 300


@pytest.mark.parametrize(
    "location",
    ["", ".", "..", "../data", "/etc/passwd", "a/data", "a\\data", "c:data", "da\0ta", "./data"],
)
def test_a_location_that_is_no_plain_name(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "bundle"
    (folder / "a").mkdir(parents=True)
    for place in (tmp_path / "data", folder / "data", folder / "a" / "data"):
        place.write_bytes(bytes(8))
    assert "beside the graph" in refused(save(folder, external(location=location)))
    assert "beside the graph" in refused(save(folder, external(offset=0)))


def test_links(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (tmp_path / "outside").write_bytes(bytes(8))
    (folder / "inside").write_bytes(bytes(8))
    (folder / "out").symlink_to("../outside")
    (folder / "in").symlink_to("inside")
    (folder / "loop").symlink_to("loop")
    (folder / "up").symlink_to("..")
    os.mkfifo(folder / "pipe")
    assert "no link out" in refused(save(folder, external(location="out")))
    for name in ("up", "pipe"):
        assert "expected a plain file" in refused(save(folder, external(location=name)))
    for name in ("loop", "missing", "n" * 5000):
        assert "cannot be read" in refused(save(folder, external(location=name)))
    file = OnnxFile.read(save(folder, external(location="in")))
    assert file.data_files == ((folder / "inside").resolve(),)
    assert file.tensor("w").tolist() == [0, 0]


def test_a_folder_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_graph(tmp_path / "real" / "toy.onnx")
    file = OnnxFile.read(tmp_path / "link" / "toy.onnx")
    assert file.data_files == ((tmp_path / "real").resolve() / "toy.onnx.data",)


def test_data_that_is_cut_or_gone_after_reading(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(bytes(8))
    file = OnnxFile.read(save(tmp_path, external(location="data")))
    data.write_bytes(bytes(7))
    with pytest.raises(BundleError, match="in the 7 of 'data', expected 8"):
        file.tensor("w")
    data.unlink()
    with pytest.raises(BundleError, match="cannot be read"):
        file.tensor("w")


def test_one_key_twice(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(8))
    tensor = external(location="data")
    tensor.external_data.add(key="location", value="data")
    assert "two of 'location'" in refused(save(tmp_path, tensor))


# Damaged files


def packed(*values: int) -> bytes:
    """Numbers as varints."""
    out = bytearray()
    for number in values:
        value = number % 2**64
        while value >= 0x80:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out)


def field(number: int, value: int | bytes) -> bytes:
    """One field of a message."""
    if isinstance(value, bytes):
        return packed(number << 3 | 2, len(value)) + value
    return packed(number << 3, value)


def write_raw(folder: Path, graph: bytes) -> Path:
    path = folder / "raw.onnx"
    path.write_bytes(field(7, graph))
    return path


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
