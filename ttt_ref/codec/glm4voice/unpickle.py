"""Read a torch zip archive (`*.pt`) as a table of tensors, without running its pickle.

A pickle is a program. This one is not run: its opcodes are walked one by one by a small machine
that knows text, numbers, tuples, dicts, `OrderedDict()`, storages and the rebuilding of a tensor
from a storage. Any other opcode or name is refused before anything else is looked at. All sizes
are checked against the archive before memory is taken for a tensor.
"""

from __future__ import annotations

import pickletools
import zipfile
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch

from ttt_ref.bounded import check_plain
from ttt_ref.errors import CodecError

MAX_PICKLE_BYTES = 64 << 20
_STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
}
_LITERALS = frozenset(
    [
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "BINFLOAT",
    ]
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


@dataclass(frozen=True)
class _Name:
    """A global that the pickle mentions; only a mark, never looked up."""

    module: str
    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass
class _Mark:
    items: list[Any] = field(default_factory=list)


class _Refused(Exception):
    """The pickle holds something that a table of tensors does not need."""


def _counts(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > 8:
        raise _Refused("a tensor shape that is no short tuple")
    if any(isinstance(n, bool) or not isinstance(n, int) or not 0 <= n < 1 << 40 for n in value):
        raise _Refused("a tensor shape that holds no plain counts")
    return value


def _rebuild(callee: Any, args: Any) -> Any:
    """Stand-in for calling `callee(*args)`: builds a description, or refuses."""
    if not isinstance(callee, _Name) or not isinstance(args, tuple):
        raise _Refused("a call of something that is no name")
    if (callee.module, callee.name) == ("collections", "OrderedDict"):
        if args:
            raise _Refused("an OrderedDict with arguments")
        return {}
    if (callee.module, callee.name) == ("torch._utils", "_rebuild_tensor_v2"):
        if len(args) < 4 or not isinstance(args[0], _Storage):
            raise _Refused("a tensor without a storage")
        (offset,) = _counts((args[1],))
        shape, stride = _counts(args[2]), _counts(args[3])
        if len(shape) != len(stride):
            raise _Refused("a tensor with unequal shape and stride")
        return _Tensor(args[0], offset, shape, stride)
    if (callee.module, callee.name) == ("torch._utils", "_rebuild_parameter"):
        if not args or not isinstance(args[0], _Tensor):
            raise _Refused("a parameter without a tensor")
        return args[0]
    raise _Refused(f"a call of {callee.module}.{callee.name}")


def _persistent(pid: Any) -> _Storage:
    match pid:
        case ("storage", _Name("torch", kind), str(key), str(), int(numel)) if kind in _STORAGES:
            return _Storage(key, _STORAGES[kind], numel)
    raise _Refused("a storage of unknown form")


def _update(target: Any, pairs: list[Any]) -> None:
    if not isinstance(target, dict) or len(pairs) % 2:
        raise _Refused("items set on something that is no dict")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        if not isinstance(key, str):
            raise _Refused("a dict key that is no text")
        target[key] = value


def _walk(data: bytes) -> Any:
    """Return what the pickle describes, with `_Tensor` for tensors."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def to_mark() -> list[Any]:
        items: list[Any] = []
        while not isinstance(item := stack.pop(), _Mark):
            items.append(item)
        return items[::-1]

    for opcode, arg, _ in pickletools.genops(data):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case name if name in _LITERALS:
                stack.append(arg)
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case "MARK":
                stack.append(_Mark())
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "BINPUT" | "LONG_BINPUT":
                memo[int(arg or 0)] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[int(arg or 0)])
            case "GLOBAL":
                module, _, name = str(arg).partition(" ")
                stack.append(_Name(module, name))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                # Texts only: marks of marks of marks would double their length each time.
                if not isinstance(module, str) or not isinstance(name, str):
                    raise _Refused("a name that is no text")
                stack.append(_Name(module, name))
            case "BINPERSID":
                stack.append(_persistent(stack.pop()))
            case "REDUCE":
                args = stack.pop()
                stack.append(_rebuild(stack.pop(), args))
            case "SETITEMS":
                pairs = to_mark()
                _update(stack[-1], pairs)
            case "SETITEM":
                pairs = [stack.pop(), stack.pop()][::-1]
                _update(stack[-1], pairs)
            case "BUILD":
                # State of an OrderedDict is its `_metadata`: module versions, of no use here.
                if not isinstance(stack.pop(), dict) or not isinstance(stack[-1], dict):
                    raise _Refused("state for something that is no dict")
            case "STOP":
                return stack.pop()
            case name:
                raise _Refused(f"the pickle instruction {name}")
    raise _Refused("no end")


class _Archive:
    """The zip file: its pickle and its storages, sizes checked before anything is read."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._zip = archive
        self._members = {info.filename: info for info in archive.infolist()}
        total = sum(info.file_size for info in archive.infolist())
        # Torch stores members uncompressed; whatever claims more than the file is a bomb.
        if total > path.stat().st_size or any(
            info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()
        ):
            raise _Refused("compressed or overlapping members")
        roots = [name[: -len("data.pkl")] for name in self._members if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise _Refused("no data.pkl; is it an old torch file? save it again with torch >= 1.6")
        self._root = roots[0]
        order = f"{self._root}byteorder"
        if order in self._members and archive.read(order).strip() != b"little":
            raise _Refused("big-endian storages")

    def pickle(self) -> bytes:
        info = self._members[f"{self._root}data.pkl"]
        if info.file_size > MAX_PICKLE_BYTES:
            raise _Refused("a pickle of more than 64 MiB")
        return self._zip.read(info)

    def storage(self, storage: _Storage) -> torch.Tensor:
        info = self._members.get(f"{self._root}data/{storage.key}")
        size = storage.numel * storage.dtype.itemsize
        if info is None or info.file_size != size:
            raise _Refused(f"storage {storage.key!r:.20} without its {size} bytes")
        if not size:
            return torch.empty(0, dtype=storage.dtype)
        return torch.frombuffer(bytearray(self._zip.read(info)), dtype=storage.dtype)


def _tensor(what: _Tensor, storage: torch.Tensor) -> torch.Tensor:
    numel = prod(what.shape)
    if numel == 0:
        return torch.empty(what.shape, dtype=storage.dtype)
    last = what.offset + sum((n - 1) * s for n, s in zip(what.shape, what.stride, strict=True))
    # More elements than the storage has would take memory that the file does not account for.
    if last >= storage.numel() or numel > storage.numel():
        raise _Refused("a tensor that reaches beyond its storage")
    return storage.as_strided(what.shape, what.stride, what.offset).contiguous()


def load_torch_zip(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a flat state dict saved by `torch.save`.

    Raises:
        CodecError: not such a file, damaged, or holding anything but tensors. Nothing of the
            file's pickle has been executed.
    """
    check_plain(path, CodecError)
    try:
        with zipfile.ZipFile(path) as archive:
            reader = _Archive(path, archive)
            table = _walk(reader.pickle())
            if not isinstance(table, dict):
                raise _Refused("no table at its top level")
            if len(table) == 1 and isinstance(inner := next(iter(table.values())), dict):
                table = inner  # {"state_dict": {...}}
            storages: dict[_Storage, torch.Tensor] = {}
            out: dict[str, torch.Tensor] = {}
            budget = 2 * path.stat().st_size  # strided views of one storage must not multiply it
            for name, value in table.items():
                if not isinstance(value, _Tensor):
                    raise _Refused(f"{name!r:.60}, which is no tensor")
                budget -= prod(value.shape) * value.storage.dtype.itemsize
                if budget < 0:
                    raise _Refused("tensors larger than the file")
                if value.storage not in storages:
                    storages[value.storage] = reader.storage(value.storage)
                out[name] = _tensor(value, storages[value.storage])
            return out
    except _Refused as error:
        raise CodecError(
            f"{path} holds {error}; only plain tensors are read and nothing was executed: "
            "use the released file or convert it to safetensors"
        ) from None
    except (
        zipfile.BadZipFile,
        ValueError,
        IndexError,
        KeyError,
        RuntimeError,
        OverflowError,
        NotImplementedError,
        EOFError,
        UnicodeError,
    ) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise CodecError(
            f"{path} is no readable torch archive ({reason}); fetch it again"
        ) from None
