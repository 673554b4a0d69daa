"""What a draw needs of 150,000 logits, found by one small graph instead of by numpy.

Right behind a head that has filled the caches, numpy's passes over all logits take longer than
the choice itself. The graph (`graphs/top_k.onnx`, written by `ttt_export.runtime_graphs`) is the
same for every model: logits folded into rows of 256 go in where they lie, the largest of them,
their places and one sum come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from pathlib import Path
from typing import Any, Final

import numpy as np

from ttt_runtime.backends.base import Floats, Ids
from ttt_runtime.backends.ort.bindings import run_bound
from ttt_runtime.backends.ort.session import GraphSession, SessionSettings
from ttt_runtime.bundle.graph_spec import GraphSpec, TensorSpec

ROW: Final = 256  # logits folded into one row
WORTH_IT: Final = 65_536  # logits; below, numpy is done before a graph has begun

GRAPH: Final = Path(__file__).with_name("graphs") / "top_k.onnx"
SPEC: Final = GraphSpec(
    "top_k",
    (
        TensorSpec("logits", "float32", ("N", ROW)),
        TensorSpec("per_unit", "float32", (1,)),
        TensorSpec("count", "int64", (1,)),
    ),
    (
        TensorSpec("values", "float32", ("K",)),
        TensorSpec("ids", "int64", ("K",)),
        TensorSpec("sum_exp", "float32", (1,)),
    ),
)


class _Part:
    """The bindings of one part of the logits: its folded rows, and what does not fill a row.

    Attributes:
        values: the largest, then the rest [K + R].
        ids: where they stand in all parts together [K + R].
        sum_exp: of the folded rows, relative to their largest [1].
    """

    def __init__(
        self, session: GraphSession, logits: Floats, first: int, per_unit: Floats, count: Ids
    ) -> None:
        self._session = session
        self._first = first
        wanted, rows = int(count[0]), len(logits) // ROW
        folded = logits[: rows * ROW].reshape(rows, ROW)
        self._rest = logits[rows * ROW :]
        self._wanted = wanted
        self.values = np.zeros(wanted + len(self._rest), np.float32)
        self.ids = np.zeros(len(self.values), np.int64)
        self.ids[wanted:] = np.arange(first + folded.size, first + len(logits))
        self.sum_exp = np.zeros(1, np.float32)
        self._binding: Any = session.ort_session.io_binding()
        for put, name, array in (
            (self._binding.bind_input, "logits", folded),
            (self._binding.bind_input, "per_unit", per_unit),
            (self._binding.bind_input, "count", count),
            (self._binding.bind_output, "values", self.values[:wanted]),
            (self._binding.bind_output, "ids", self.ids[:wanted]),
            (self._binding.bind_output, "sum_exp", self.sum_exp),
        ):
            put(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self._keep = (folded, per_unit, count)  # the binding holds only addresses

    def run(self) -> None:
        """Look at the logits as they are now."""
        run_bound(self._session, self._binding)
        self.ids[: self._wanted] += self._first
        self.values[self._wanted :] = self._rest


class TopKFinder:
    """Finds the largest logits and the sum of all exponentials.

    Args:
        settings: threads of the graph.
    """

    def __init__(self, settings: SessionSettings) -> None:
        self._settings = settings
        self._session: GraphSession | None = None  # greedy turns never need it
        self._per_unit = np.ones(1, np.float32)
        # The heads keep their buffers, so there are few of them.
        self._parts: dict[tuple[int, ...], _Part] = {}

    def is_worthwhile(self, parts: Sequence[Floats], count: int) -> bool:
        """Tell whether these logits are long enough, and few enough of them wanted."""
        sizes = [len(part) for part in parts]
        return 0 < count <= min(sizes) // ROW and sum(sizes) >= WORTH_IT

    def find(
        self, parts: Sequence[Floats], count: int, per_unit: np.float32
    ) -> tuple[Ids, Floats, float]:
        """Go over logits [V], which come in parts, one behind the other.

        Returns:
            indices and values of the `count` largest, largest first, of equals the first; and the
            sum of exp((logit - largest) * per_unit) over all logits.
        """
        self._per_unit[0] = per_unit
        found, first = [], 0
        for logits in parts:
            found.append(self._part(logits, first, count))
            first += len(logits)
        for part in found:
            part.run()
        values = np.concatenate([part.values for part in found])
        ids = np.concatenate([part.ids for part in found])
        order = np.argsort(-values, kind="stable")[:count]
        best = values[order[0]]
        total = 0.0
        for part in found:
            total += float(part.sum_exp[0]) * exp((float(part.values[0]) - best) * per_unit)
            total += float(np.exp((part.values[count:] - best) * per_unit).sum())
        return ids[order], values[order], total

    def _part(self, logits: Floats, first: int, count: int) -> _Part:
        if self._session is None:
            self._session = GraphSession(GRAPH, SPEC, self._settings)
        key = (logits.ctypes.data, len(logits), first, count)
        part = self._parts.get(key)
        if part is None:
            if len(self._parts) > 8:  # buffers that no head keeps any more
                self._parts.clear()
            wanted = np.array([count], np.int64)
            part = _Part(self._session, logits, first, self._per_unit, wanted)
            self._parts[key] = part
        return part
