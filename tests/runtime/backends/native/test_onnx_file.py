"""ONNX files read with numpy alone: as the onnx package reads them, and only what they may hold."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.runtime.onnx_graphs import (
    SHIPPED,
    WEIGHTS,
    assert_same,
    external,
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
