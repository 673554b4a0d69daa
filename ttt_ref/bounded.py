"""Files from anywhere, read within limits: plain files only, so many bytes, values and levels.

A bundle, a checkpoint or a training file may be a pipe that never ends, a device, a link to
itself, or JSON nested a million deep. Whatever reads such a file reads it here and gets either its
contents or one line that names the file. Standard library only: every package may import it.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from ttt_ref.errors import DataError, TttError
from ttt_ref.toml import tomllib

MIB: Final = 1 << 20
CONFIG_BYTES: Final = 4 * MIB  # config.json and other small tables, TOML, run.json
TOKENIZER_BYTES: Final = 64 * MIB  # the largest published tokenizers have 35 MB
RECORDS_BYTES: Final = 1024 * MIB  # a file of training records that is read whole
LINE_BYTES: Final = 64 * MIB
MOST_DEPTH: Final = 64
MOST_VALUES: Final = 200_000  # each may become an object of its own, of up to 100 bytes
TOKENIZER_VALUES: Final = 2_000_000
_SHOWN: Final = 60
_CHUNK: Final = 1 << 16

_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
# A UTF-32 mark begins with the UTF-16 one, so it is looked for first.
_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
# The standard reader's time grows with the square of a dotted key's length.
_LONG_KEY: Final = re.compile(
    r"""(?<![\w-])(?:(?:"[^"\n]*"|'[^'\n]*'|[\w-]+)[ \t]*\.[ \t]*){33}""", re.ASCII
)


class Unreadable(ValueError):
    """Text that is not JSON or TOML within the limits; the message is a short reason."""


class NotText(Unreadable):
    """Bytes that are no text; the message goes on after the file's name and "is"."""


def shown(value: object, width: int = _SHOWN) -> str:
    """Return a value for a message: on one line, without control characters, cut to `width`."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 256:
        return f"a whole number of {value.bit_length()} bits"
    text = repr(value)  # repr escapes control characters and lone surrogates
    return text if len(text) <= width else text[: width - 3] + "..."


def open_plain(path: str | os.PathLike[str], error: type[TttError] = DataError) -> BinaryIO:
    """Open a plain file for reading; it never waits, as a pipe's open would.

    Raises:
        FileNotFoundError, PermissionError: as `open` does.
        TttError: of class `error`: no plain file, a link that leads to itself, a name that no
            file can have.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        number = os.open(path, flags | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, PermissionError):
        raise
    except (OSError, ValueError) as reason:  # ValueError: a name with a zero or a surrogate
        why = reason.strerror if isinstance(reason, OSError) else str(reason)
        raise error(f"{_name(path)} cannot be opened ({why}); expected a plain file") from None
    try:
        mode = os.fstat(number).st_mode
        if not stat.S_ISREG(mode):
            seen = next((name for is_kind, name in _KINDS if is_kind(mode)), "no file")
            raise error(f"{_name(path)} is {seen}; expected a plain file")
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def check_plain(path: str | os.PathLike[str], error: type[TttError] = DataError) -> int:
    """Return the size in bytes of a plain file that a library will open; errors as `open_plain`."""
    with open_plain(path, error) as file:
        return os.fstat(file.fileno()).st_size


def read_bytes(
    path: str | os.PathLike[str], most: int = CONFIG_BYTES, error: type[TttError] = DataError
) -> bytes:
    """Return a plain file's contents of at most `most` bytes; errors as `open_plain`.

    The limit holds for what is read, not for what the file says of its size: /proc says 0.
    """
    with open_plain(path, error) as file:
        try:
            # Growing by pieces: one read of `most` bytes would take that much memory at once.
            pieces, left = [], most + 1
            while left and (piece := file.read(min(left, max(_CHUNK, most // 64)))):
                pieces.append(piece)
                left -= len(piece)
        except OSError as reason:
            raise error(f"{_name(path)} cannot be read ({reason.strerror})") from None
    if not left:
        raise error(f"{_name(path)} is larger than {_size(most)}; that is not what belongs there")
    return b"".join(pieces)


def decode(data: bytes) -> str:
    """Return text: UTF-8, or UTF-8, -16 or -32 with a mark at its beginning; else Unreadable."""
    name = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(name)
    except UnicodeDecodeError as error:
        raise NotText(_not_text(name, error)) from None


def parse_json(
    text: str | bytes,
    most_values: int = MOST_VALUES,
    most_depth: int = MOST_DEPTH,
    *,
    strict: bool = True,
) -> Any:
    """Return what a JSON text says.

    Args:
        text: the text, or its bytes (see `decode`).
        most_values: most values in it, counted by what separates them.
        most_depth: deepest nesting of tables and lists.
        strict: refuse NaN and Infinity, which are no JSON though Python writes them.

    Raises:
        Unreadable: with a short reason.
    """
    if isinstance(text, bytes):
        text = decode(text)
    if sum(map(text.count, ",[{")) > most_values:
        raise Unreadable(f"more than {most_values} values")
    try:
        value = json.loads(text, parse_constant=_no_constant if strict else None)
    except json.JSONDecodeError as error:
        raise Unreadable(f"{error.msg}: line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise Unreadable("nested too deep") from None
    except Unreadable:
        raise
    except ValueError:  # the one other that `json` raises
        raise Unreadable("a whole number with thousands of digits") from None
    _check_depth(value, most_depth)
    return value


def parse_toml(text: str | bytes, most_depth: int = MOST_DEPTH) -> dict[str, Any]:
    """Return what a TOML text says, read like JSON; Unreadable with a short reason."""
    if isinstance(text, bytes):
        text = decode(text)
    if _LONG_KEY.search(text):
        raise Unreadable("a key of more than 32 parts")
    if sum(map(text.count, ",[{\n")) > MOST_VALUES:
        raise Unreadable(f"more than {MOST_VALUES} values")
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Unreadable(str(error)) from None
    except RecursionError:
        raise Unreadable("nested too deep") from None
    except ValueError as error:  # thousands of digits, a date that is none
        raise Unreadable(str(error).split(";")[0][:_SHOWN]) from None
    _check_depth(value, most_depth)
    return value


def read_json(
    path: str | os.PathLike[str],
    most: int = CONFIG_BYTES,
    error: type[TttError] = DataError,
    *,
    most_values: int = MOST_VALUES,
    advice: str = "",
    strict: bool = True,
) -> Any:
    """Return what a JSON file says; FileNotFoundError, or `error` in one line with `advice`."""
    try:
        return parse_json(read_bytes(path, most, error), most_values, strict=strict)
    except NotText as reason:
        raise error(f"{_name(path)} is {reason}") from None
    except Unreadable as reason:
        raise error(f"{_name(path)} is not valid JSON ({reason}){_after(advice)}") from None


def read_toml(
    path: str | os.PathLike[str],
    most: int = CONFIG_BYTES,
    error: type[TttError] = DataError,
    *,
    advice: str = "",
) -> dict[str, Any]:
    """Return what a TOML file says; errors as `read_json`."""
    try:
        return parse_toml(read_bytes(path, most, error))
    except NotText as reason:
        raise error(f"{_name(path)} is {reason}") from None
    except Unreadable as reason:
        raise error(f"{_name(path)} is not valid TOML ({reason}){_after(advice)}") from None


def read_text(
    path: str | os.PathLike[str], most: int = CONFIG_BYTES, error: type[TttError] = DataError
) -> str:
    """Return a text file's contents with plain line ends; errors as `read_json`."""
    try:
        text = decode(read_bytes(path, most, error))
    except Unreadable as reason:
        raise error(f"{_name(path)} is {reason}") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(
    path: str | os.PathLike[str], most_line: int = LINE_BYTES, error: type[TttError] = DataError
) -> Iterator[str]:
    """Yield a text file's lines, which may be longer together than memory, none above `most_line`.

    Raises:
        TttError: as `read_text`; the line's number is named.
    """
    with open_plain(path, error) as file:
        begin = file.read(4)
        file.seek(0)
        name = next((name for mark, name in _MARKS if begin.startswith(mark)), "utf-8")
        number = 1
        try:
            with io.TextIOWrapper(file, encoding=name) as text:
                while line := text.readline(most_line):
                    if len(line) == most_line:
                        raise error(
                            f"{_name(path)} line {number} is longer than {_size(most_line)}"
                        )
                    yield line
                    number += 1
        except UnicodeDecodeError as reason:
            raise error(f"{_name(path)} is {_not_text(name, reason)}") from None


def _name(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    return name if name.isprintable() else shown(name, 200)


def _not_text(encoding: str, error: UnicodeDecodeError) -> str:
    plain = encoding.removesuffix("-sig").upper()
    return f"not {plain} text (byte 0x{error.object[error.start]:02x}); save it as UTF-8"


def _after(advice: str) -> str:
    return f"; {advice}" if advice else ""


def _size(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size} bytes"


def _no_constant(name: str) -> Any:
    raise Unreadable(f"{name} is no JSON")


def _check_depth(value: object, most: int) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(most):
        if not level:
            return
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
    if level:
        raise Unreadable(f"nested deeper than {most} levels")
