"""Optimization profiles: the ranges of rows that an engine is tuned for.

    text      one row, one text token
    block     the rows of a span with one block open
    span      later blocks of the same span, up to the longest
    prefill   a chunk of the prompt

A narrow range lets the builder pick kernels for it; the runtime takes the first that holds the
number of rows at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ttt_ref.config import GenerationConfig
from ttt_ref.errors import ExportError
from ttt_runtime.bundle.graph_spec import DECODER, SPEECH_HEAD, TEXT_HEAD, GraphSpec, TensorSpec

Range = tuple[int, int, int]

DEFAULT_BLOCKS: Final = (26, 32)  # of the two released presets
# TensorRT-RTX 1.6 and 1.7 fail ("more than one op named") on two layers and a range of rows that
# ends at 64 or below; one row more and they build. Wider costs nothing: the best value counts.
BLOCK_MOST_ROWS: Final = 128
PREFILL_BEST_ROWS: Final = 512  # rows of one prefill forward, unless a run of speech is longer
ROWS: Final[Mapping[str, str]] = {DECODER: "Q", TEXT_HEAD: "N", SPEECH_HEAD: "N"}


@dataclass(frozen=True)
class Profile:
    """A name and, for each named dimension, its least, best and most."""

    name: str
    ranges: Mapping[str, Range]

    def shapes(self, tensor: TensorSpec) -> tuple[tuple[int, ...], ...]:
        """Return the least, best and most shape of a tensor."""
        return tuple(
            tensor.resolve({dim: limits[i] for dim, limits in self.ranges.items()})
            for i in range(3)
        )


@dataclass(frozen=True)
class SpanShape:
    """What the presets say about spans: block lengths, and speech tokens of the longest span."""

    blocks: tuple[int, ...] = DEFAULT_BLOCKS
    longest: int = 512

    @classmethod
    def of_presets(cls, presets: Iterable[GenerationConfig]) -> SpanShape:
        """Read it off a bundle's presets; a span ends at the latest with the answer."""
        listed = list(presets)
        if not listed:
            return cls()
        blocks = tuple(sorted({preset.block_length for preset in listed}))
        return cls(blocks, max(preset.max_gen_len for preset in listed))


def dynamic_inputs(spec: GraphSpec) -> list[TensorSpec]:
    """Return the inputs whose shape is known only when the graph runs."""
    return [t for t in spec.inputs if any(isinstance(dim, str) for dim in t.shape)]


def graph_profiles(spec: GraphSpec, spans: SpanShape) -> tuple[Profile, ...]:
    """Return the profiles of the decoder or of a head.

    Raises:
        ExportError: another graph, or one with a dimension that an engine needs fixed.
    """
    rows = ROWS.get(spec.name)
    if rows is None:
        raise ExportError(f"graph {spec.name!r} has no profiles; known are {', '.join(ROWS)}")
    for tensor in dynamic_inputs(spec):
        loose = [dim for dim in tensor.shape if isinstance(dim, str) and dim != rows]
        if loose:
            raise ExportError(
                f"graph {spec.name}: input {tensor.name} has the open dimension {loose[0]!r}, "
                "which an engine needs fixed; export with -e tensorrt or -e rtx"
            )
    # One more row than the block: the text token that opened the span is committed with it.
    smallest, largest = spans.blocks[0] + 1, spans.blocks[-1] + 1
    block_most = max(largest, BLOCK_MOST_ROWS)
    limit = _row_limit(spec, block_most)
    ranges: list[tuple[str, Range]] = [("text", (1, 1, 1)), ("block", (2, smallest, block_most))]
    if spec.name == DECODER:  # a head sees at most the block
        if min(spans.longest, limit) > block_most:
            ranges.append(("span", (2, min(4 * largest, spans.longest), spans.longest)))
        ranges.append(("prefill", (2, PREFILL_BEST_ROWS, limit)))
    seen: dict[Range, Profile] = {}
    for name, limits in ranges:
        low, best, most = (min(value, limit) for value in limits)
        clipped = (low, best, most)
        seen.setdefault(clipped, Profile(name, {rows: clipped}))
    return tuple(seen.values())


def _row_limit(spec: GraphSpec, block_most: int) -> int:
    if spec.name != DECODER:
        return block_most
    rows = spec.input("mask").shape[1]
    assert isinstance(rows, int)  # an open dimension was refused above
    if rows < block_most:
        raise ExportError(
            f"a cache of {rows} rows is too short for an engine, which needs {block_most} or more; "
            f"export with --cache-rows {block_most}"
        )
    return rows


def ranges_of(profiles: Iterable[Profile]) -> dict[str, dict[str, Range]]:
    """Return profiles in the form that a stamp keeps."""
    return {profile.name: dict(profile.ranges) for profile in profiles}


def add_profiles(builder: Any, config: Any, spec: GraphSpec, profiles: Iterable[Profile]) -> None:
    """Give the profiles to a builder's configuration; ExportError if it refuses one."""
    for profile in profiles:
        native = builder.create_optimization_profile()
        for tensor in dynamic_inputs(spec):
            native.set_shape(tensor.name, *profile.shapes(tensor))
        if config.add_optimization_profile(native) < 0:
            raise ExportError(
                f"graph {spec.name}: the builder refuses profile {profile.name} "
                f"{dict(profile.ranges)}"
            )
