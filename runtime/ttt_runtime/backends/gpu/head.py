"""A head on device memory: hidden rows where they lie, ids and scores (or logits) to the host.

Row numbers are rounded up to a few sizes, so that few shapes exist: each is a set of bindings, for
some libraries kernels of its own. What the head makes of the rows behind the last is not read.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ttt_runtime.backends.base import Floats, HeadBest
from ttt_runtime.backends.gpu.graph import Graph, Launch
from ttt_runtime.backends.gpu.memory import Memory, Packed, write_floats
from ttt_runtime.backends.gpu.rows import DeviceRows
from ttt_runtime.backends.ort.heads import FORBIDDEN
from ttt_runtime.bundle.graph_spec import TensorSpec

ROW_BUCKET: Final = 16
BEST: Final = ("best_id", "best_logit", "sum_exp")
_KEPT_BINDINGS: Final = 32
_END_BIAS: Final = TensorSpec("end_bias", "float32", (1,))


class DeviceHead:
    """One head: best ids or logits of hidden rows."""

    def __init__(self, graph: Graph, memory: Memory) -> None:
        self._graph = graph
        self._memory = memory
        self._bound: OrderedDict[tuple[int, int, bool, tuple[str, ...]], Launch] = OrderedDict()
        self._results: dict[tuple[int, tuple[str, ...]], tuple[Packed, Packed | None]] = {}
        self._staged: dict[int, Packed] = {}
        # Two constants rather than one that is rewritten: the ban costs no copy.
        self._biases: dict[bool, Packed] = {}
        if any(t.name == "end_bias" for t in graph.spec.inputs):
            for forbid, value in ((False, 0.0), (True, FORBIDDEN)):
                bias = self._biases[forbid] = Packed(memory, [_END_BIAS], {})
                bias.arrays["end_bias"][0] = value
                bias.block.upload()

    def best(self, hidden: Floats | DeviceRows, *, forbid_end: bool = False) -> HeadBest:
        """Return best ids, their logits and the sums of exponentials of hidden rows [N, hidden]."""
        return HeadBest(*self._run(hidden, BEST, forbid_end))

    def logits(self, hidden: Floats | DeviceRows, *, forbid_end: bool = False) -> Floats:
        """Return the logits of hidden rows [N, hidden]."""
        return self._run(hidden, ("logits",), forbid_end)[0]

    def forget(self) -> None:
        """Drop the bindings: hidden rows lie elsewhere from now on."""
        self._bound.clear()

    def _run(
        self, hidden: Floats | DeviceRows, names: tuple[str, ...], forbid: bool
    ) -> list[NDArray[Any]]:
        most = self._graph.most_rows
        count = len(hidden)
        if most is not None and count > most:
            parts = [self._run(hidden[i : i + most], names, forbid) for i in range(0, count, most)]
            return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]
        if isinstance(hidden, DeviceRows):
            hidden.check()
            first, last = int(hidden.rows.min()), int(hidden.rows.max())
            if most is None or last - first < most:
                rows = self._rounded(last - first + 1)
                found = self._launch(hidden.source.address(first), rows, names, forbid)
                return [values[hidden.rows - first] for values in found]
            hidden = np.asarray(hidden)
        rows = self._rounded(count)
        staged = self._stage(hidden, rows)
        found = self._launch(staged, rows, names, forbid)
        return [values[:count].copy() for values in found]

    def _rounded(self, count: int) -> int:
        if count == 1:
            return 1
        rows = -(-count // ROW_BUCKET) * ROW_BUCKET
        most = self._graph.most_rows
        return rows if most is None else min(rows, most)

    def _stage(self, hidden: Floats, rows: int) -> int:
        """Send hidden rows of the host to the device; return their address."""
        tensor = self._graph.spec.input("hidden")
        staged = self._staged.get(rows)
        if staged is None:
            staged = self._staged[rows] = Packed(self._memory, [tensor], {"N": rows})
        write_floats(hidden, staged.arrays["hidden"][: len(hidden)], tensor.dtype)
        staged.block.upload()
        return staged.addresses["hidden"]

    def _launch(
        self, address: int, rows: int, names: tuple[str, ...], forbid: bool
    ) -> list[NDArray[Any]]:
        results, _ = outputs = self._outputs(rows, names)
        key = (address, rows, forbid, names)
        launch = self._bound.get(key)
        if launch is None:
            if len(self._bound) >= _KEPT_BINDINGS:
                self._bound.popitem(last=False)
            addresses = {"hidden": address}
            for packed in (*outputs, self._biases.get(forbid)):
                if packed is not None:
                    addresses.update(packed.addresses)
            launch = self._bound[key] = self._graph.bind({"N": rows}, addresses)
        else:
            self._bound.move_to_end(key)
        launch()
        results.block.download()
        return [results.arrays[name] for name in names]

    def _outputs(self, rows: int, names: tuple[str, ...]) -> tuple[Packed, Packed | None]:
        """Return room for the outputs asked for, and for those that must be written anyway."""
        found = self._results.get((rows, names))
        if found is None:
            spec, dims = self._graph.spec, {"N": rows}
            asked = Packed(self._memory, [spec.output(name) for name in names], dims)
            others = [t for t in spec.outputs if t.name not in names]
            rest = Packed(self._memory, others, dims) if self._graph.all_outputs else None
            found = self._results[rows, names] = (asked, rest)
        return found
