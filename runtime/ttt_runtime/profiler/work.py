"""How much each phase computes and reads: counted from the graphs as they ran, not guessed.

One short turn is run with onnxruntime's own record of every node (see `recording`). Operations
are those of products (matrix products, convolutions, attention), two for each multiply-and-add.
Bytes are what a call cannot avoid reading: weights as they are stored, and cached keys and values;
activations stay in the processor's caches.
"""

from __future__ import annotations

import dataclasses
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ttt_runtime.backends.ort.node_profile import NodeProfile, NodeRun
from ttt_runtime.dialogue.timeline import PHASES, Slice
from ttt_runtime.profiler.bench import Bench, ProfileOptions
from ttt_runtime.profiler.limits import Limits
from ttt_runtime.profiler.workload import TurnShape

# Products of 8-bit numbers. MatMulNBits computes so at the accuracy level that bundles ask for.
_WHOLE: Final = frozenset(
    {
        "ConvInteger",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QAttention",
        "QGemm",
        "QLinearConv",
        "QLinearMatMul",
    }
)
_CONVOLUTIONS: Final = frozenset(
    {"Conv", "ConvInteger", "FusedConv", "NhwcFusedConv", "QLinearConv"}
)
_ATTENTIONS: Final = frozenset({"Attention", "MultiHeadAttention"})
_GROUPED: Final = "GroupQueryAttention"


@dataclass(frozen=True)
class Work:
    """What one call of a phase reads and computes, on average."""

    bytes: float
    float_ops: float
    int8_ops: float

    def floor_ms(self, limits: Limits) -> float:
        """Return the least time that this machine needs: its reading or its computing."""
        reading = self.bytes / limits.weights_gbps
        computing = self.float_ops / limits.float_gops + self.int8_ops / limits.int8_gops
        return max(reading, computing) / 1e6


def count_work(options: ProfileOptions) -> dict[str, Work]:
    """Run one short turn and return the work of one call of each phase that ran."""
    shape = options.shape
    short = dataclasses.replace(
        options,
        device="cpu+onnxruntime",  # whatever runs the bundle, the graphs say what is to be done
        question=None,
        overlap=False,
        shape=TurnShape(shape.question_seconds, 1, min(shape.text_tokens, 2), shape.blocks),
    )
    with tempfile.TemporaryDirectory() as folder:
        with NodeProfile(Path(folder)) as recording:
            bench = Bench(short)
        bench.turn()  # what is made once (the constant row of guidance) is no call's own work
        slices = bench.turn().timeline.slices
        return work_of(recording.finish(), slices)


def work_of(nodes: Iterable[NodeRun], slices: Sequence[Slice]) -> dict[str, Work]:
    """Sum up the nodes that began inside slices; return the mean of each phase's calls."""
    ordered = sorted(slices, key=lambda piece: piece.begin_ns)
    begins = [piece.begin_ns for piece in ordered]
    sums: dict[str, list[float]] = {}
    for node in nodes:
        at = bisect_right(begins, node.begin_ns) - 1
        if at < 0 or node.begin_ns > ordered[at].end_ns:
            continue  # of a turn that is not counted
        total = sums.setdefault(ordered[at].phase, [0.0, 0.0, 0.0])
        total[0] += read_bytes(node)
        total[2 if node.operator in _WHOLE else 1] += operations(node)
    calls = {phase: sum(piece.phase == phase for piece in ordered) for phase in PHASES}
    return {
        phase: Work(*(value / calls[phase] for value in sums[phase]))
        for phase in PHASES
        if phase in sums
    }


def operations(node: NodeRun) -> int:
    """Return the operations of a node's products; 0 for a node without any."""
    name, inputs = node.operator, node.inputs
    if not inputs or not node.outputs or not inputs[0].shape:
        return 0
    if "MatMul" in name or "Gemm" in name:
        return 2 * node.outputs[0].size * inputs[0].shape[-1]
    if name in _CONVOLUTIONS:
        weight = inputs[3 if name == "QLinearConv" else 1]
        return 2 * node.outputs[0].size * (weight.size // max(weight.shape[0], 1))
    if name == "ConvTranspose":
        return 2 * inputs[0].size * (inputs[1].size // max(inputs[1].shape[0], 1))
    if name in _ATTENTIONS and len(inputs) > 1:
        return 4 * inputs[0].size * inputs[1].shape[-2]  # Q K^T, then the weights times V
    if name == _GROUPED:
        return 4 * node.outputs[0].size * _grouped_context(node)[0]
    return 0


def _grouped_context(node: NodeRun) -> tuple[int, int]:
    """Return the rows that a GroupQueryAttention attends to, and the bytes of a row of K and V.

    Its cache [1, kv heads, C, D] has more rows than are written; its mask [1, 1, Q, T] tells.
    """
    fours = [tensor for tensor in node.inputs if len(tensor.shape) == 4]
    if len(fours) < 2:
        return 0, 0
    past = fours[0]
    rows = fours[2].shape[-1] if len(fours) > 2 else past.shape[-2]
    return rows, 2 * past.bytes // max(past.shape[-2], 1)


def read_bytes(node: NodeRun) -> int:
    """Return the bytes of weights, keys and values that a node reads."""
    if node.operator == _GROUPED:
        rows, row_bytes = _grouped_context(node)
        return rows * row_bytes  # of its tables of rotary angles only a few rows are read
    if node.operator in _ATTENTIONS:
        return node.parameter_bytes + sum(tensor.bytes for tensor in node.inputs[1:3])
    if "MatMul" in node.operator and node.parameter_bytes == 0:
        return sum(tensor.bytes for tensor in node.inputs[1:2])  # keys or values as a factor
    return node.parameter_bytes if operations(node) else 0


def against_limits(
    work: Mapping[str, Work], limits: Limits, p50_ms: Mapping[str, float | None]
) -> dict[str, dict[str, float | None]]:
    """Hold each phase's median time against what the machine could do at best.

    Returns:
        for each phase MB and mega-operations of a call, the floor in ms, how much of the machine's
        bandwidth and of its peak the median call uses (1 is all), and median / floor.
    """
    found: dict[str, dict[str, float | None]] = {}
    for phase, one in work.items():
        ms = p50_ms.get(phase)
        floor = one.floor_ms(limits)
        computing = one.float_ops / limits.float_gops + one.int8_ops / limits.int8_gops
        found[phase] = {
            "megabytes": round(one.bytes / 1e6, 3),
            "mega_ops": round((one.float_ops + one.int8_ops) / 1e6, 3),
            "int8_share": round(one.int8_ops / ((one.float_ops + one.int8_ops) or 1.0), 3),
            "floor_ms": round(floor, 4),
            "of_bandwidth": round(one.bytes / limits.weights_gbps / 1e6 / ms, 4) if ms else None,
            "of_peak": round(computing / 1e6 / ms, 4) if ms else None,
            "times_floor": round(ms / floor, 2) if ms and floor else None,
        }
    return found
