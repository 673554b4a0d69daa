"""Read a tagged YAML configuration as plain data.

The decoder's `config.yaml` is full of tags that ask a loader to import classes, call functions
and follow references. Here a tag is only a mark: a tagged mapping becomes a dict, a tagged list a
list, a tagged scalar its text. The one tag that is honoured is `!ref <name>`, which is replaced
by the plain top-level value of that name. Nothing is imported or called.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ttt_ref.bounded import read_bytes
from ttt_ref.errors import CodecError

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
_REFERENCE = re.compile(r"<([A-Za-z_][A-Za-z0-9_]*)>")


class _Reference(str):
    """The name inside a `!ref <name>`, not yet looked up."""

    __slots__ = ()


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader for which an unknown tag is no instruction."""


def _plain(loader: _PlainLoader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    text = str(loader.construct_scalar(node))
    match = _REFERENCE.fullmatch(text.strip())
    return _Reference(match.group(1)) if node.tag == "!ref" and match else text


_PlainLoader.add_constructor(None, _plain)


_OPENING = (
    yaml.BlockSequenceStartToken,
    yaml.BlockMappingStartToken,
    yaml.FlowSequenceStartToken,
    yaml.FlowMappingStartToken,
)
_CLOSING = (yaml.BlockEndToken, yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken)


def _check_tokens(path: Path, text: str) -> None:
    """Refuse what makes a small file take endless time or memory, before it is parsed."""
    depth = 0
    for token in yaml.scan(text):
        depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
        if depth > MAX_DEPTH:
            raise CodecError(f"{path} nests deeper than {MAX_DEPTH} levels; it is no codec config")
        if isinstance(token, yaml.AliasToken):
            raise CodecError(f"{path} uses YAML aliases, which no codec config does")


def _resolve(value: Any, top: dict[str, Any]) -> Any:
    if isinstance(value, _Reference):
        target = top.get(str(value))
        if target is None or isinstance(target, dict | list | _Reference):
            raise CodecError(
                f"the YAML file refers to <{value}>, which is no plain top-level value"
            )
        return target
    if isinstance(value, dict):
        return {key: _resolve(item, top) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, top) for item in value]
    return value


def read_yaml(path: Path, sections: tuple[str, ...]) -> dict[str, Any]:
    """Return the named top-level sections of a tagged YAML file as plain data.

    Args:
        path: the file.
        sections: keys that must be there; everything else in the file is ignored.

    Raises:
        CodecError: the file is no YAML, too large, or lacks a section.
    """
    content = read_bytes(path, MAX_BYTES, CodecError)
    try:
        text = content.decode("utf-8")
        _check_tokens(path, text)
        data = yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CodecError(f"{path} is not readable YAML: {reason}") from None
    if not isinstance(data, dict):
        raise CodecError(f"{path} holds no table at its top level; expected a codec config")
    missing = [name for name in sections if name not in data]
    if missing:
        raise CodecError(f"{path} has no section {missing[0]!r}; expected {', '.join(sections)}")
    return {name: _resolve(data[name], data) for name in sections}
