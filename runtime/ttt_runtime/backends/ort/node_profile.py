"""What onnxruntime itself records of each node, for sessions made inside a `with NodeProfile(...)`.

For counting work, not for timing: weights stay as they are stored (no prepacking), so that the
record tells the shape and size of everything that a node reads.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any

_ITEM_BYTES: Mapping[str, int] = {
    "float": 4, "float16": 2, "bfloat16": 2, "double": 8, "int64": 8, "uint64": 8, "int32": 4,
    "uint32": 4, "int16": 2, "uint16": 2, "int8": 1, "uint8": 1, "bool": 1, "int4": 1, "uint4": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """Element type and shape of what a node read or wrote."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return self.size * _ITEM_BYTES.get(self.dtype, 1)


@dataclass(frozen=True, slots=True)
class NodeRun:
    """One run of one node: its operator, when it began (perf_counter_ns), what it touched."""

    operator: str
    begin_ns: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameter_bytes: int


class NodeProfile:
    """Records every session that is made inside its `with` block.

    Args:
        folder: where onnxruntime may put its records.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sessions: list[Any] = []
        self._token: Token[NodeProfile | None] | None = None
        # onnxruntime stamps its records with the wall clock.
        self._wall_minus_perf_ns = time.time_ns() - time.perf_counter_ns()

    def __enter__(self) -> NodeProfile:
        self._token = _active.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._token is not None
        _active.reset(self._token)

    def prepare(self, options: Any) -> None:
        """Switch recording on in the options of a session that is about to be made."""
        options.enable_profiling = True
        options.profile_file_prefix = str(self._folder / f"graph{len(self._sessions)}")
        options.add_session_config_entry("session.disable_prepacking", "1")

    def add(self, session: Any) -> None:
        """Take note of a session made with prepared options."""
        self._sessions.append(session)

    def finish(self) -> list[NodeRun]:
        """End recording and return the runs of all nodes, by session, in order."""
        runs: list[NodeRun] = []
        for session in self._sessions:
            start_ns = session.get_profiling_start_time_ns() - self._wall_minus_perf_ns
            events = json.loads(Path(session.end_profiling()).read_text())
            runs += [
                _node_run(event, start_ns)
                for event in events
                if event.get("cat") == "Node" and "input_type_shape" in event.get("args", {})
            ]
        self._sessions.clear()
        return runs


_active: ContextVar[NodeProfile | None] = ContextVar("recording", default=None)


def active_profile() -> NodeProfile | None:
    """Return the recording whose `with` block the caller is in."""
    return _active.get()


def _node_run(event: Mapping[str, Any], start_ns: int) -> NodeRun:
    arguments = event["args"]
    return NodeRun(
        arguments.get("op_name", ""),
        start_ns + int(event["ts"]) * 1000,
        _tensors(arguments["input_type_shape"]),
        _tensors(arguments.get("output_type_shape", [])),
        int(arguments.get("parameter_size", 0)),
    )


def _tensors(listed: list[Mapping[str, list[int]]]) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(dtype, tuple(max(dim, 0) for dim in shape))
        for item in listed
        for dtype, shape in item.items()
    )
