"""Say how much memory and disk an export takes, before it begins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add

import psutil

from ttt_export.executors import WHOLE_BYTES
from ttt_export.linear import COLUMN_CHUNK
from ttt_export.quality import CHUNK_ROWS
from ttt_export.source import Checkpoint, expected_shapes
from ttt_export.validate import HEAD_ROWS
from ttt_quant.algorithms import CALIBRATED
from ttt_quant.recipe import Recipe
from ttt_quant.scheme import Scheme
from ttt_ref.errors import ExportError

# Interpreter, torch, onnx and onnxruntime at work on a model of no size, with their libraries'
# pages, measured: 560 MB (`python -m ttt_export.measure` on a tiny checkpoint).
BASE_BYTES = 560 * 2**20
# Sessions, sequences, hidden states and allocator slack.
MARGIN = 1.15


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that an export takes.

    Attributes:
        peak_bytes: largest resident memory expected.
        stage: which stage sets the peak.
        bundle_bytes: size of the model's part of the bundle.
        available_bytes: memory that the machine can give without swapping.
    """

    peak_bytes: int
    stage: str
    bundle_bytes: int
    available_bytes: int

    def lines(self) -> list[str]:
        """Return the plan as text."""
        return [
            f"peak resident memory: about {_gib(self.peak_bytes)} ({self.stage})",
            f"bundle on disk: about {_gib(self.bundle_bytes)} (without codec)",
            f"memory available now: {_gib(self.available_bytes)}",
        ]


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"


def stored_bytes(inputs: int, outputs: int, scheme: Scheme, compute_bytes: int) -> int:
    """Return the size of a matrix as it is stored, scales included."""
    size = inputs * outputs * scheme.bits // 8
    if scheme.is_integer:
        size += inputs // scheme.block * outputs * compute_bytes
    return size


@dataclass(frozen=True)
class SessionBytes:
    """What onnxruntime on the CPU takes for a graph's weights.

    Attributes:
        loading: the most while it loads and first runs.
        kept: from then on.
    """

    loading: int
    kept: int

    @classmethod
    def of(cls, weights: int, stored: int, scheme: Scheme, *, idle: bool = False) -> SessionBytes:
        """Return the size for a matrix; the factors were measured on single matrices.

        Its kernels multiply float32 only: every other float is cast once, at loading, and packed
        from there, so that two whole float32 copies stand side by side; one stays. Integers are
        packed as they are, beside the file's pages; of 8 bit, products that round nothing (as the
        checks want them) keep a float32 copy too, unless the graph is loaded only and `idle`.
        """
        if not scheme.is_integer:
            return cls(2 * 4 * weights, 4 * weights)
        exact = 4 * weights if scheme.bits == 8 and not idle else 0
        size = stored * (5 if exact else 10) // 3 + exact
        return cls(size, size)

    def __add__(self, other: SessionBytes) -> SessionBytes:
        """Return what both take, this one loaded first."""
        return SessionBytes(max(self.loading, self.kept + other.loading), self.kept + other.kept)


def plan_export(checkpoint: Checkpoint, recipe: Recipe) -> MemoryPlan:
    """Plan an export; reads the machine's free memory, touches no weight."""
    config = checkpoint.model
    hidden, wide, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    kv = config.num_key_value_heads * config.head_dim
    compute = 4 if recipe.compute == "float32" else 2
    parts = {
        "attn.qkv": (hidden, hidden + 2 * kv),
        "attn.out": (hidden, hidden),
        "mlp.gate_up": (hidden, 2 * wide),
        "mlp.down": (wide, hidden),
    }

    def size(name: str, shape: tuple[int, int]) -> int:
        scheme = recipe.scheme(name, layers).fitted(shape[0])
        return stored_bytes(*shape, scheme, compute)

    def session(name: str, shape: tuple[int, int], idle: bool = False) -> SessionBytes:
        scheme = recipe.scheme(name, layers).fitted(shape[0])
        return SessionBytes.of(shape[0] * shape[1], size(name, shape), scheme, idle=idle)

    layer_sizes = [
        {part: size(f"layers.{i}.{part}", shape) for part, shape in parts.items()}
        for i in range(layers)
    ]
    layer_sessions = [
        reduce(add, (session(f"layers.{i}.{part}", shape) for part, shape in parts.items()))
        for i in range(layers)
    ]
    start = checkpoint.layout.audio_start
    head_shapes = {
        "text_head": (hidden, start),
        "speech_head": (hidden, config.vocab_size - start),
    }
    heads = {name: size(name, shape) for name, shape in head_shapes.items()}
    head_sessions = [session(name, shape) for name, shape in head_shapes.items()]
    table = config.vocab_size * hidden * {"float32": 4, "float16": 2, "int8": 1}[recipe.embeddings]
    decoder = sum(sum(sizes.values()) for sizes in layer_sizes)
    largest_part = max(max(sizes.values()) for sizes in layer_sizes)
    float_layer = 4 * sum(k * n for k, n in parts.values())
    chunk = 4 * COLUMN_CHUNK * max(hidden, wide)
    # Second moments of the widest input, twice more while they are inverted; fp8 keeps none.
    squares = 16 * wide * wide if recipe.algorithms() & CALIBRATED else 0
    # A decoder that is small enough is run whole, with both heads beside it.
    idle = [session(name, shape, idle=True) for name, shape in head_shapes.items()]
    whole = reduce(add, [*layer_sessions, *idle])
    largest_session = max(sessions.loading for sessions in layer_sessions)
    running = whole.loading if decoder <= WHOLE_BYTES else largest_session
    # Before a head is loaded its stored form is read, integers a byte each, to compute the truth.
    reading = max(
        size * (7 if recipe.scheme(name, layers).is_integer else 1) for name, size in heads.items()
    )
    compared = 6 * 8 * HEAD_ROWS * config.vocab_size
    stages = {
        # A matrix as it will be stored, beside column chunks in float32 (weights, codes, scratch).
        "writing": max(largest_part, max(heads.values())) + 6 * chunk,
        "validating the decoder": float_layer + running,
        "validating the heads": max(
            reading,
            *(sessions.loading for sessions in head_sessions),
            *(sessions.kept + compared for sessions in head_sessions),
        ),
        "measuring quality": max(
            float_layer + running,
            reduce(add, head_sessions).loading + 4 * 8 * CHUNK_ROWS * config.vocab_size,
        ),
    }
    if squares or recipe.rounds_inputs:
        stages["calibrating"] = 2 * float_layer + squares
    stage = max(stages, key=lambda name: stages[name])
    return MemoryPlan(
        peak_bytes=BASE_BYTES + int(MARGIN * stages[stage]),
        stage=stage,
        bundle_bytes=decoder + sum(heads.values()) + table + _small(checkpoint),
        available_bytes=psutil.virtual_memory().available,
    )


def _small(checkpoint: Checkpoint) -> int:
    shapes = expected_shapes(checkpoint.model).values()
    return sum(4 * shape[0] for shape in shapes if len(shape) == 1)


def check_memory(plan: MemoryPlan) -> None:
    """Raise ExportError when the machine would have to swap."""
    if plan.peak_bytes > plan.available_bytes:
        raise ExportError(
            f"this export needs about {_gib(plan.peak_bytes)} of memory ({plan.stage}) and "
            f"{_gib(plan.available_bytes)} are available; close programs, use a larger machine "
            "or a narrower precision"
        )
