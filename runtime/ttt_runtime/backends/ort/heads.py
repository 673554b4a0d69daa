"""The heads of a bundle on onnxruntime, bound once: best ids or logits of hidden rows.

A standard head's graph makes the choice itself. A logits-only head gives logits and nothing more:
the choice is made here, where numpy finds the best of 150,000 logits ten times faster than the
graph would, and where the sum of exponentials, which no text step reads, is left
undone until asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ttt_ref.config import TokenLayout
from ttt_runtime.backends.base import Floats, Head, HeadBest
from ttt_runtime.backends.ort.bindings import NUMPY_TYPES, run_bound
from ttt_runtime.backends.ort.session import GraphSession
from ttt_runtime.bundle.graph_spec import TEXT_HEAD

FORBIDDEN: Final = -1e30  # added to a logit: exp() of it is 0, and no NaN comes of it
_BEST: Final = ("best_id", "best_logit", "sum_exp")


class _Bound:
    """A graph's bindings by number of rows, for some of its outputs."""

    def __init__(self, session: GraphSession, outputs: Sequence[str]) -> None:
        self._session = session
        self._outputs = outputs
        self._bound: dict[int, tuple[Any, Floats, list[NDArray[Any]]]] = {}
        self._end_bias = np.zeros(1, np.float32)

    def run(self, hidden: Floats, forbid_end: bool) -> list[NDArray[Any]]:
        """Run hidden rows [N, hidden]; return the outputs asked for."""
        rows = hidden.shape[0]
        bound = self._bound.get(rows)
        if bound is None:
            bound = self._bound[rows] = self._bind(rows)
        binding, head_input, results = bound
        head_input[...] = hidden
        self._end_bias[0] = FORBIDDEN if forbid_end else 0.0
        run_bound(self._session, binding)
        return results

    def _bind(self, rows: int) -> tuple[Any, Floats, list[NDArray[Any]]]:
        spec = self._session.spec
        binding = self._session.ort_session.io_binding()
        tensor = spec.input("hidden")
        head_input = np.zeros(tensor.resolve({"N": rows}), NUMPY_TYPES[tensor.dtype])
        arrays = {"hidden": head_input, "end_bias": self._end_bias}
        for tensor in spec.inputs:
            array = arrays[tensor.name]
            binding.bind_input(
                tensor.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data
            )
        results = []
        for name in self._outputs:
            tensor = spec.output(name)
            array = np.zeros(tensor.resolve({"N": rows}), NUMPY_TYPES[tensor.dtype])
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            results.append(array)
        return binding, head_input, results


class StandardHead:
    """A head whose graph chooses."""

    def __init__(self, session: GraphSession) -> None:
        self._best = _Bound(session, _BEST)
        self._logits = _Bound(session, ("logits",))

    def best(self, hidden: Floats, *, forbid_end: bool = False) -> HeadBest:
        """See `Head.best`."""
        return HeadBest(*self._best.run(hidden, forbid_end))

    def logits(self, hidden: Floats, *, forbid_end: bool = False) -> Floats:
        """See `Head.logits`."""
        return self._logits.run(hidden, forbid_end)[0]


def _bind(binding: Any, hidden: Floats, logits: Floats) -> None:
    for put, name, array in (
        (binding.bind_input, "hidden", hidden),
        (binding.bind_output, "logits", logits),
    ):
        put(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)


class LogitsOnlyHead:
    """A head whose graph gives logits only.

    Args:
        session: the head.
        first_id: token id of its first row.
        end_row: row of `<|im_end|>`, or None where it is in another head.
    """

    def __init__(
        self,
        session: GraphSession,
        first_id: int,
        end_row: int | None,
    ) -> None:
        self._session = session
        self._first_id = first_id
        self._end_row = end_row
        self._width = int(session.spec.output("logits").shape[1])
        # One buffer for all: the logits of a block over the whole vocabulary take 16 MB.
        self._room = np.zeros((0, self._width), np.float32)
        self._binding: Any = session.ort_session.io_binding()
        # A text step's single row is bound once and for all.
        self._row = np.zeros((1, int(session.spec.input("hidden").shape[1])), np.float32)
        self._row_logits = np.zeros((1, self._width), np.float32)
        self._row_binding: Any = session.ort_session.io_binding()
        _bind(self._row_binding, self._row, self._row_logits)

    def best(self, hidden: Floats, *, forbid_end: bool = False) -> HeadBest:
        """See `Head.best`."""
        logits = self.logits(hidden, forbid_end=forbid_end)
        columns = logits.argmax(axis=1)
        best = np.arange(len(logits)), columns
        top = logits[best]

        def sum_exp() -> Floats:
            relative = np.subtract(logits, top[:, None], out=logits)
            total: Floats = np.exp(relative, out=relative).sum(axis=1)
            return total

        return HeadBest(columns + self._first_id, top, sum_exp)

    def logits(self, hidden: Floats, *, forbid_end: bool = False) -> Floats:
        """See `Head.logits`."""
        rows = hidden.shape[0]
        if rows == 1:
            logits = self._row_logits
            self._row[...] = hidden
            run_bound(self._session, self._row_binding)
        else:
            if rows > len(self._room):
                self._room = np.zeros((rows, self._width), np.float32)
            logits = self._room[:rows]
            held = np.ascontiguousarray(hidden, np.float32)
            _bind(self._binding, held, logits)
            run_bound(self._session, self._binding)
        if forbid_end and self._end_row is not None:
            logits[:, self._end_row] = FORBIDDEN
        return logits


def head_for(session: GraphSession, layout: TokenLayout) -> Head:
    """Return what runs a head of this form."""
    if len(session.spec.outputs) > 1:
        return StandardHead(session)
    is_text = session.spec.name == TEXT_HEAD
    return LogitsOnlyHead(
        session,
        0 if is_text else layout.audio_start,
        layout.im_end_id if is_text else None,
    )
