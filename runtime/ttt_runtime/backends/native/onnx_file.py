"""Read the nodes and weights of an ONNX file with numpy alone.

An ONNX file is one protobuf message; field numbers and element types are those of the onnx
package's onnx.proto. The file may come from anywhere: every length is compared with what is left
before anything is taken, nothing outside the file's folder is opened, and whatever is wrong is a
BundleError. Messages are read to the depth written down here (model, graph, node, attribute), so
nothing recurses. Graphs inside nodes, functions and sparse initializers are passed over.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ttt_ref.errors import BundleError

MAX_FILE_BYTES: Final = 2**31 - 1  # protobuf's own limit
_MAX_RANK: Final = 32  # numpy 1.26's
_OFFSET: Final = re.compile("[0-9]{1,19}")  # int() takes signs, spaces and other digits too

# Wire types of protobuf. A list of numbers comes packed into one piece or as one field a number:
# strung together, the bytes are the same.
_VARINT, _PIECE = 0, 2
_WIDTHS: Final = {1: 8, 5: 4}  # wire type -> bytes
_TEXT, _INT, _FLOAT, _INTS, _FLOATS = (_PIECE,), (_VARINT,), (5,), (_VARINT, _PIECE), (5, _PIECE)

# The fields of each message that are read: number -> wire types that it may have.
_Kinds = Mapping[int, tuple[int, ...]]
_MODEL: Final[_Kinds] = {7: _TEXT}  # graph
_GRAPH: Final[_Kinds] = {1: _TEXT, 5: _TEXT}  # node, initializer
_NODE: Final[_Kinds] = dict.fromkeys((1, 2, 4, 5, 7), _TEXT)  # input output op attribute domain
_ATTRIBUTE: Final[_Kinds] = {1: _TEXT, 2: _FLOAT, 3: _INT, 20: _INT}  # name, f, i, type
_ENTRY: Final[_Kinds] = {1: _TEXT, 2: _TEXT}  # key, value
_TENSOR: Final[_Kinds] = {
    1: _INTS,  # dims
    2: _INT,  # data_type
    3: _TEXT,  # segment
    4: _FLOATS,  # float_data
    5: _INTS,  # int32_data: the smaller types and float16's bits too
    7: _INTS,  # int64_data
    8: _TEXT,  # name
    9: _TEXT,  # raw_data
    13: _TEXT,  # external_data
    14: _INT,  # data_location
}
_DTYPES: Final = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2"}

_Fields = dict[int, list[memoryview]]
_Place = tuple[Path, int, int | None]  # external data's file, offset, and length if it is said
_Tensor = tuple[_Fields, _Place | None]


class _FaultError(Exception):
    """What was seen and what was expected; :func:`_told` adds the file and what to do."""


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except _FaultError as fault:
        reason = str(fault)
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error}), expected a file that can"
    else:
        return
    raise BundleError(f"graph {path.name!r}: {reason}; export the bundle again") from None


@dataclass(frozen=True)
class Node:
    """One operation. `attributes` holds those of its attributes that are a single number."""

    op_type: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, int | float]


class OnnxFile:
    """Nodes in the file's order, and initializers that become arrays when they are asked for.

    `data_files` are the files beside the graph that hold weights: absolute, links followed.
    """

    def __init__(self, path: Path, nodes: tuple[Node, ...], tensors: dict[str, _Tensor]) -> None:
        self.path = path
        self.nodes = nodes
        self._tensors = tensors
        files = dict.fromkeys(place[0] for _, place in tensors.values() if place is not None)
        self.data_files: tuple[Path, ...] = tuple(files)

    @classmethod
    def read(cls, path: Path) -> OnnxFile:
        """Read a graph; BundleError if it is damaged or names a data file that it may not."""
        with _told(path):
            if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
                raise _FaultError("no file or one over 2 GiB, expected an ONNX file")
            graphs = _fields(memoryview(path.read_bytes()), _MODEL)[7]
            if len(graphs) != 1:
                raise _FaultError(f"{len(graphs)} graphs in the file, expected one")
            graph = _fields(graphs[0], _GRAPH)
            folder = Path(os.path.realpath(path.parent))
            tensors: dict[str, _Tensor] = {}
            for data in graph[5]:
                fields = _fields(data, _TENSOR)
                name = _text(fields[8])
                if not name or name in tensors:
                    raise _FaultError(f"initializer {name[:80]!r} again, expected a new name")
                external = _number(fields[14]) == 1
                tensors[name] = fields, _place(fields[13], folder) if external else None
            return cls(path, tuple(_node(data) for data in graph[1]), tensors)

    def names(self) -> list[str]:
        """Return the initializers' names in the file's order."""
        return list(self._tensors)

    def tensor(self, name: str) -> NDArray[Any]:
        """Return an initializer in its own shape, read-only.

        float32, float16, uint8, int8, int32, int64 or bool. Data beside the graph is a memmap,
        aligned as its offset in the file is; data inside the graph lies in memory.

        Raises:
            BundleError: no such initializer, another element type (4-bit ones too), or data that
                does not fit the shape.
        """
        with _told(self.path):
            if name not in self._tensors:
                raise _FaultError(f"no initializer {name[:80]!r}, expected one of this name")
            try:
                return _array(*self._tensors[name])
            except _FaultError as fault:
                raise _FaultError(f"initializer {name[:80]!r} has {fault}") from None


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return the unsigned number that begins at `at`, and where it ends."""
    value = 0
    for index, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80 and value < 1 << 64:
            return value, at + index + 1
    raise _FaultError("a number cut short or too long, expected 64 bits in up to 10 bytes")


def _varints(data: memoryview) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value - (value >> 63 << 64)  # two's complement


def _fields(data: memoryview, kinds: _Kinds) -> _Fields:
    """Return the bytes of every field that `kinds` names; other fields are passed over."""
    found: _Fields = {number: [] for number in kinds}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        expected = kinds.get(number, (_VARINT, _PIECE, *_WIDTHS))
        # No groups (3 and 4): only they would nest without a length, and ONNX has none.
        if wire not in expected or not 1 <= number < 1 << 29:
            raise _FaultError(
                f"field {number} of wire type {wire}, expected one above 0 of {expected}"
            )
        if wire == _VARINT:
            end = _varint(data, at)[1]
        elif wire == _PIECE:
            length, at = _varint(data, at)
            end = at + length
        else:
            end = at + _WIDTHS[wire]
        if end > len(data):
            raise _FaultError(f"{len(data) - at} bytes left for a field, expected {end - at}")
        if number in kinds:
            found[number].append(data[at:end])
        at = end
    return found


def _number(found: list[memoryview]) -> int:
    """Return an int64: 0 if it is not there, the last if it is there twice, as protobuf does."""
    return next(_varints(found[-1])) if found else 0


def _text(found: list[memoryview]) -> str:
    try:
        return str(found[-1], "utf-8") if found else ""
    except UnicodeDecodeError:
        raise _FaultError("a name that is no text, expected UTF-8") from None


def _node(data: memoryview) -> Node:
    fields = _fields(data, _NODE)
    attributes: dict[str, int | float] = {}
    for piece in fields[5]:
        attribute = _fields(piece, _ATTRIBUTE)
        name, kind, f = _text(attribute[1]), _number(attribute[20]), attribute[2]
        if name in attributes:
            raise _FaultError(f"attribute {name[:80]!r} twice in a node, expected once")
        if kind == 1:
            attributes[name] = struct.unpack("<f", f[-1])[0] if f else 0.0
        elif kind == 2:
            attributes[name] = _number(attribute[3])
    inputs, outputs = (tuple(_text([name]) for name in fields[n]) for n in (1, 2))
    return Node(_text(fields[4]), _text(fields[7]), inputs, outputs, attributes)


def _place(entries: list[memoryview], folder: Path) -> _Place:
    values: dict[str, str] = {}
    for entry in entries:
        fields = _fields(entry, _ENTRY)
        key = _text(fields[1])
        if key in values:
            raise _FaultError(f"external data with two of {key[:80]!r}, expected one")
        values[key] = _text(fields[2])
    name = values.get("location", "")
    if name in ("", ".", "..") or set(name) & set("/\\:\0"):
        raise _FaultError(f"external data in {name[:80]!r}, expected a file beside the graph")
    file = Path(os.path.realpath(folder / name, strict=True))
    if not file.is_relative_to(folder) or not file.is_file():
        raise _FaultError(f"external data in {name!r}, expected a plain file, no link out")
    for key in ("offset", "length"):
        if key in values and not _OFFSET.fullmatch(values[key]):
            raise _FaultError(f"external data with {key} {values[key][:80]!r}, expected a number")
    length = int(values["length"]) if "length" in values else None
    return file, int(values.get("offset", "0")), length


def _array(fields: _Fields, place: _Place | None) -> NDArray[Any]:
    kind = _number(fields[2])
    if kind not in _DTYPES or fields[3]:
        raise _FaultError(f"element type {kind} or segments, expected one of {list(_DTYPES)} whole")
    dtype = np.dtype(_DTYPES[kind])
    dims = tuple(_varints(_joined(fields[1])[: 10 * _MAX_RANK + 1]))
    # numpy refuses such shapes even where another dimension is 0.
    largest = math.prod(max(dim, 1) for dim in dims) * dtype.itemsize
    if len(dims) > _MAX_RANK or min(dims, default=0) < 0 or largest >= 2**63:
        raise _FaultError(f"shape {dims[:8]}, expected up to {_MAX_RANK} sizes, below 2^63 bytes")
    need = math.prod(dims) * dtype.itemsize
    typed = {1: 4, 7: 7}.get(kind, 5)
    have = [number for number in (4, 5, 7, 9) if any(fields[number])]
    if have not in ([], [9], [typed]) or (have and place is not None):
        raise _FaultError(f"data in fields {have}, expected {typed}, 9 or external data alone")
    if place is not None:
        array = _mapped(place, dtype, dims, need)
    elif have == [typed] and typed != 4:
        array = _integers(_joined(fields[typed]), dtype, math.prod(dims)).reshape(dims)
    else:
        data = _joined(fields[typed] if have == [typed] else fields[9][-1:])
        if len(data) != need:
            raise _FaultError(f"{len(data)} bytes of data, expected {need}")
        array = np.ndarray(dims, dtype, data)
    if kind == 9 and (array.view(np.uint8) > 1).any():
        raise _FaultError("a bool above 1, expected 0 or 1")
    return array


def _joined(pieces: list[memoryview]) -> memoryview:
    return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))


def _integers(data: memoryview, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    """Return `count` numbers [count]; float16 is kept as the bits, bool as 0 or 1."""
    ends = int(np.count_nonzero(np.frombuffer(data, np.uint8) < 0x80))
    if ends != count:  # before any memory is taken for them
        raise _FaultError(f"{ends} numbers, expected {count}")
    values = np.fromiter(_varints(data), np.int64)
    carrier = np.dtype(f"<u{dtype.itemsize}") if dtype.kind in "fb" else dtype
    limits = np.iinfo(carrier)
    if ((values < limits.min) | (values > limits.max)).any():
        raise _FaultError(f"a number that is no {dtype}, expected {limits.min} to {limits.max}")
    array = values.astype(carrier).view(dtype)
    array.setflags(write=False)
    return array


def _mapped(place: _Place, dtype: np.dtype[Any], dims: tuple[int, ...], need: int) -> NDArray[Any]:
    path, offset, length = place
    with path.open("rb") as file:
        there = os.fstat(file.fileno()).st_size  # of what is mapped, whatever the name becomes
        if length not in (None, need) or offset + need > there:
            seen = f"{length} bytes at {offset} in the {there} of {path.name!r}"
            raise _FaultError(f"{seen}, expected {need} inside it")
        if need:
            return np.memmap(file, dtype, "r", offset, dims)
    return np.ndarray(dims, dtype, b"")  # no system maps 0 bytes
