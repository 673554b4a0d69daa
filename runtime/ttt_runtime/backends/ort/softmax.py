"""The softmax of a block's long logits, by one small graph instead of by numpy.

Under `exact` the confidence of every masked position of a block is a softmax over the whole
vocabulary: 26 x 168,072 exponentials a pass at the released size. The graph
(`graphs/softmax.onnx`, written by `ttt_export.runtime_graphs`) takes half of numpy's time for
them, on one thread, and shares the rows among the threads that there are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

from ttt_runtime.backends.base import Floats
from ttt_runtime.backends.ort.bindings import run_bound
from ttt_runtime.backends.ort.session import GraphSession, SessionSettings
from ttt_runtime.bundle.graph_spec import GraphSpec, TensorSpec

WORTH_IT: Final = 262_144  # logits; below, numpy is done before a graph has begun

GRAPH: Final = Path(__file__).with_name("graphs") / "softmax.onnx"
SPEC: Final = GraphSpec(
    "softmax",
    (TensorSpec("logits", "float32", ("N", "V")),),
    (TensorSpec("probabilities", "float32", ("N", "V")),),
)


class Softmax:
    """Turns logits into probabilities where they lie.

    Args:
        settings: threads of the graph.
    """

    def __init__(self, settings: SessionSettings) -> None:
        self._settings = settings
        self._session: GraphSession | None = None  # what never asks for confidences needs none
        self._binding: Any = None

    def is_worthwhile(self, logits: Floats) -> bool:
        """Tell whether there are so many logits [N, V] that it is worth its while."""
        return logits.size >= WORTH_IT

    def in_place(self, logits: Floats) -> None:
        """Replace contiguous logits [N, V] by the softmax of each row.

        A row is read before it is written, value by value, so input and output may be one buffer;
        a second one would take 16 MB, and the time to fill them.
        """
        if self._session is None:
            self._session = GraphSession(GRAPH, SPEC, self._settings)
            self._binding = self._session.ort_session.io_binding()
        for put, tensor in (
            (self._binding.bind_input, SPEC.inputs[0]),
            (self._binding.bind_output, SPEC.outputs[0]),
        ):
            put(tensor.name, "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        run_bound(self._session, self._binding)
