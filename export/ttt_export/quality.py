"""Measure an export's choices against the checkpoint's, on whole conversations.

Text: the next token wherever the assistant writes. Speech: for each span of the assistant and each
block of it, what stands before the block plus a block of masks; compared are the tokens that a
first pass of two would reveal. What the user says and writes is nobody's choice and not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ttt_export.cases import Case, Pass
from ttt_export.executors import Written, executor_for
from ttt_export.reference_stream import StreamedReference
from ttt_quant.report import (
    ChoiceMeter,
    Choices,
    EndTags,
    end_tag_ranks,
    log_softmax,
    summarize_ranks,
)
from ttt_ref.config import TokenLayout
from ttt_runtime.bundle.graph_spec import DECODER, SPEECH_HEAD, TEXT_HEAD

IntArray = NDArray[np.int64]
Float32Array = NDArray[np.float32]

BLOCK = 26
# Compared at most; a model whose decoder is run layer by layer gets by with less.
MAX_SEQUENCES = {False: 80, True: 4}
MAX_BLOCKS = {False: 128, True: 4}
MAX_TEXT_ROWS = 1024
# Logits of this many rows are in memory at a time (times the vocabulary, times 8 bytes).
CHUNK_ROWS = 32


def text_rows(ids: IntArray, layout: TokenLayout, opening: Sequence[int] = ()) -> IntArray:
    """Return the positions whose next token is text that the assistant writes.

    Args:
        ids: a conversation.
        layout: token ids.
        opening: what an assistant's turn begins with; a conversation without it counts whole.
    """
    text = np.flatnonzero(ids[1:] < layout.audio_start).astype(np.int64)
    width = len(opening)
    starts = [i for i in range(len(ids) - width) if width and (ids[i : i + width] == opening).all()]
    if not starts:
        return text
    mine = np.zeros(len(ids), bool)
    for start in starts:
        ends = np.flatnonzero(ids[start:] == layout.im_end_id)
        mine[start + width - 1 : start + int(ends[0]) if len(ends) else None] = True
    return text[mine[text]]


def masked_blocks(ids: IntArray, layout: TokenLayout, block: int = BLOCK) -> Iterator[IntArray]:
    """Yield, for each block of the assistant's spans, what stands before it and `block` masks.

    A run of audio that `<|end_of_audio|>` closes is the user's.
    """
    is_audio = ids >= layout.audio_start
    edges = np.flatnonzero(np.diff(np.concatenate(([False], is_audio, [False])).astype(np.int8)))
    for start, stop in edges.reshape(-1, 2):
        if start == 0 or (stop < len(ids) and ids[stop] == layout.end_of_audio_id):
            continue
        for first in range(start, stop, block):
            yield np.concatenate((ids[:first], np.full(block, layout.mask_id, np.int64)))


def _spread(items: Sequence[IntArray], limit: int) -> list[IntArray]:
    """Return at most `limit` items, evenly spread."""
    step = max(1, -(-len(items) // limit))
    return list(items[::step])


class GraphLogits:
    """Logits over the whole vocabulary from a bundle's two heads."""

    def __init__(self, written: Written) -> None:
        self._heads = [written.session(name) for name in (TEXT_HEAD, SPEECH_HEAD)]
        self._dtype = np.float16 if _half(written) else np.float32

    def __call__(self, hidden: Float32Array) -> Float32Array:
        """Return logits [N, V] of hidden rows [N, hidden]."""
        rows = hidden.astype(self._dtype)
        text, speech = self._heads
        feeds: dict[str, NDArray[np.generic]] = {"hidden": rows}
        if len(text.spec.inputs) > 1:  # a logits-only head leaves the ban to the runtime
            feeds["end_bias"] = np.zeros(1, np.float32)
        (low,) = text.run(feeds, ["logits"])
        (high,) = speech.run({"hidden": rows}, ["logits"])
        return np.concatenate((low, high), axis=1)


def _half(written: Written) -> bool:
    return written.specs[TEXT_HEAD].input("hidden").dtype == "float16"


def measure_quality(
    reference: StreamedReference,
    written: Written,
    sequences: Sequence[IntArray],
    *,
    opening: Sequence[int] = (),
    block: int = BLOCK,
) -> tuple[Choices, Choices, EndTags, int]:
    """Compare choices on sequences of ids.

    Args:
        reference: the checkpoint itself.
        written: the graphs, with the session options that they ship with.
        sequences: whole conversations.
        opening: ids that open an assistant's turn.
        block: masks to a block.

    Returns:
        Text choices, speech choices, ranks of the end tags, number of sequences used.
    """
    layout, large = written.layout, written.is_large
    sequences = _spread(sequences, MAX_SEQUENCES[large])
    rows = written.specs[DECODER].input("mask").shape[1]
    if isinstance(rows, int):
        sequences = [ids[: rows - block] for ids in sequences]
    blocks = [masked for ids in sequences for masked in masked_blocks(ids, layout, block)]
    blocks = _spread(blocks, MAX_BLOCKS[large])
    everything = [*sequences, *blocks]
    want = reference.hidden(everything)
    cases = [Case("quality", (Pass(tuple(ids.tolist()), 0),)) for ids in everything]
    got = [passes[0] for passes in executor_for(written).hidden(cases)]
    logits = GraphLogits(written)

    text = ChoiceMeter()
    followed = [text_rows(ids, layout, opening) for ids in sequences]
    keep = max(1, -(-sum(map(len, followed)) // MAX_TEXT_ROWS))
    for number, positions in enumerate(followed):
        for chunk in _chunks(positions[::keep]):
            text.add(reference.logits(want[number][chunk]), logits(got[number][chunk]))

    speech, ranks_want, ranks_got = ChoiceMeter(), [], []
    tags = [tag - layout.audio_start for tag in layout.end_ids]
    for number in range(len(sequences), len(everything)):
        a = reference.logits(want[number][-block:])
        b = logits(got[number][-block:])
        a[:, layout.im_end_id] = b[:, layout.im_end_id] = -np.inf
        revealed = np.argsort(-log_softmax(a).max(axis=1), kind="stable")[: block // 2]
        speech.add(a[revealed], b[revealed])
        ranks_want.append(end_tag_ranks(a[:, layout.audio_start :], tags))
        ranks_got.append(end_tag_ranks(b[:, layout.audio_start :], tags))
    empty = np.zeros((0, len(tags)), np.int64)
    ranks = summarize_ranks(
        np.concatenate([empty, *ranks_want]), np.concatenate([empty, *ranks_got])
    )
    return text.result(), speech.result(), ranks, len(sequences)


def _chunks(positions: IntArray) -> Iterator[IntArray]:
    for start in range(0, len(positions), CHUNK_ROWS):
        yield positions[start : start + CHUNK_ROWS]
