"""What a draw needs of 150,000 logits, found by one small graph instead of by numpy.

Right behind a head that has filled the caches, numpy's passes over all logits take longer than
the choice itself. The graph (`graphs/survey.onnx`, written by `ttt_export.survey_graph`) is the
same for every model: logits folded into rows of 256 go in where they lie, the peak of each row and
one sum come out. What is left to numpy are the few rows that hold a candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from ttt_runtime.bindings import run_bound
from ttt_runtime.graph_spec import GraphSpec, TensorSpec
from ttt_runtime.sampler import Floats, Ids
from ttt_runtime.session import GraphSession, SessionSettings

ROW: Final = 256  # logits folded into one row
WORTH_IT: Final = 65_536  # logits; below, numpy is done before a graph has begun

GRAPH: Final = Path(__file__).with_name("graphs") / "survey.onnx"
SPEC: Final = GraphSpec(
    "survey",
    (TensorSpec("logits", "float32", ("N", ROW)), TensorSpec("per_unit", "float32", (1,))),
    (TensorSpec("peaks", "float32", ("N",)), TensorSpec("sum_exp", "float32", (1,))),
)


class _Part:
    """The bindings of one part of the logits: its folded rows, and what does not fill a row."""

    def __init__(self, session: GraphSession, logits: Floats, per_unit: Floats) -> None:
        rows = len(logits) // ROW
        self.rows = logits[: rows * ROW].reshape(rows, ROW)
        self.rest = logits[rows * ROW :]
        self.peaks = np.zeros(rows, np.float32)
        self.sum_exp = np.zeros(1, np.float32)
        self.binding: Any = session.ort_session.io_binding()
        for put, name, array in (
            (self.binding.bind_input, "logits", self.rows),
            (self.binding.bind_input, "per_unit", per_unit),
            (self.binding.bind_output, "peaks", self.peaks),
            (self.binding.bind_output, "sum_exp", self.sum_exp),
        ):
            put(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)


class Survey:
    """Finds the largest logits and the sum of all exponentials.

    Args:
        settings: threads of the graph.
    """

    def __init__(self, settings: SessionSettings) -> None:
        self._settings = settings
        self._session: GraphSession | None = None  # greedy turns never need it
        self._per_unit = np.ones(1, np.float32)
        # By address and length. The heads keep their buffers, so there are as many as heads.
        self._parts: dict[tuple[int, int], _Part] = {}

    def serves(self, parts: Sequence[Floats], count: int) -> bool:
        """Tell whether these logits are long enough, and few enough of them wanted."""
        sizes = [len(part) for part in parts]
        return 0 < count < ROW <= min(sizes) and sum(sizes) >= WORTH_IT

    def look(
        self, parts: Sequence[Floats], count: int, per_unit: np.float32
    ) -> tuple[Ids, Floats, float]:
        """Go over logits [V], which come in parts, one behind the other.

        Returns:
            indices and values of the `count` largest, largest first, of equals the first; and the
            sum of exp((logit - largest) * per_unit) over all logits.
        """
        self._per_unit[0] = per_unit
        found = [self._run(part) for part in parts]
        tops = np.concatenate([side for part in found for side in (part.peaks, part.rest)])
        bound = np.float32(-np.inf)
        if count < len(tops):
            bound = np.partition(tops, len(tops) - count)[len(tops) - count]
        best = tops.max()
        ids, values, total, first = [], [], 0.0, 0
        for part in found:
            holds = np.flatnonzero(part.peaks >= bound)
            near = part.rows[holds]
            row, column = np.nonzero(near >= bound)
            ids.append(first + holds[row] * ROW + column)
            values.append(near[row, column])
            total += float(part.sum_exp[0] * np.exp((part.peaks.max() - best) * per_unit))
            first += part.rows.size
            last = np.flatnonzero(part.rest >= bound)
            ids.append(first + last)
            values.append(part.rest[last])
            total += float(np.exp((part.rest - best) * per_unit).sum())
            first += len(part.rest)
        all_ids, all_values = np.concatenate(ids), np.concatenate(values)
        order = np.argsort(-all_values, kind="stable")[:count]
        return all_ids[order], all_values[order], total

    def _run(self, logits: Floats) -> _Part:
        if self._session is None:
            self._session = GraphSession(GRAPH, SPEC, self._settings)
        key = (logits.ctypes.data, len(logits))
        part = self._parts.get(key)
        if part is None:
            if len(self._parts) > 8:  # buffers that no head keeps any more
                self._parts.clear()
            part = self._parts[key] = _Part(self._session, logits, self._per_unit)
        run_bound(self._session, part.binding)
        return part
