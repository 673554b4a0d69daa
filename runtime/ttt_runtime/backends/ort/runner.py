"""The runner on onnxruntime: graphs bound once, K/V written in place, no copies of the cache.

A bundle may hold a second decoder of the same weights for forwards of many rows (blocks, prefill,
commits): one row is a matter of how few bytes the weights have, many rows of how fast they
multiply. Both write to one cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from ttt_ref.config import ModelConfig, TokenLayout
from ttt_ref.errors import BundleError, ConfigError, DeviceError
from ttt_runtime.backends.attention_mask import write_mask
from ttt_runtime.backends.base import Floats, Heads
from ttt_runtime.backends.kv_cache import KvCache, SequenceCaches, open_capacity
from ttt_runtime.backends.ort.bindings import bindings_for
from ttt_runtime.backends.ort.heads import head_for
from ttt_runtime.backends.ort.session import (
    GraphSession,
    SessionSettings,
    check_device,
    require_onnxruntime,
)
from ttt_runtime.backends.ort.trim_memory import forget_pages, whole_pieces
from ttt_runtime.bundle.embeddings import EmbeddingTable
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.gqa_spec import BLOCK_DECODER, ROTARY_ROWS, is_gqa
from ttt_runtime.bundle.graph_spec import DECODER, SPEECH_HEAD, TEXT_HEAD

RUNS_ON: Final = ("cpu",)  # devices that this runner keeps its cache on
BUCKET_ROWS: Final = 64


class OrtRunner(Heads):
    """Decoder, heads, embedding table and cache of one bundle.

    Args:
        decoder: the decoder graph.
        text_head: head of the text rows.
        speech_head: head of the audio-side rows.
        embeddings: embedding table.
        layout: which id means what.
        capacity: rows of the cache.
        bucket_rows: the bound part of the cache grows in steps of this many rows.
        poison: NaN in every cache row not written (tests; needs bucket_rows 1).
        block_decoder: runs the forwards of more than one row, if given.

    Attributes:
        why_not_native: why our own kernels do not run the bundle, where they were tried.
    """

    why_not_native: str | None = None

    def __init__(
        self,
        decoder: GraphSession,
        text_head: GraphSession,
        speech_head: GraphSession,
        embeddings: EmbeddingTable,
        layout: TokenLayout,
        capacity: int,
        *,
        bucket_rows: int = BUCKET_ROWS,
        poison: bool = False,
        block_decoder: GraphSession | None = None,
    ) -> None:
        if poison and bucket_rows != 1:
            raise ConfigError("a poisoned cache needs bucket_rows 1: bound rows must be written")
        super().__init__(head_for(text_head, layout), head_for(speech_head, layout))
        self.capacity = capacity
        self._decoder = decoder
        self._embeddings = embeddings
        self._audio_start = layout.audio_start
        self._poison = poison
        self.caches = SequenceCaches(lambda: KvCache(decoder.spec, capacity, poison=poison))
        self._row_bindings = bindings_for(decoder, bucket_rows)
        self._rows_bindings = self._row_bindings
        if block_decoder is not None:
            self._rows_bindings = bindings_for(block_decoder, bucket_rows)
        self._positions = np.arange(capacity, dtype=np.int64)

    @classmethod
    def from_bundle(
        cls,
        bundle: Bundle,
        device: str = "cpu",
        *,
        threads: int | None = None,
        capacity: int | None = None,
        bucket_rows: int = BUCKET_ROWS,
        poison: bool = False,
    ) -> OrtRunner:
        """Load the graphs of a bundle.

        Raises:
            DeviceError: the device is not there, or the bundle was made for another engine.
            BundleError: a graph is missing or is not what its spec says.
        """
        check_device(device)
        if device not in RUNS_ON:
            raise DeviceError(
                f"device {device!r}: this runner keeps its cache on the CPU; load the bundle with "
                "load.load_runner"
            )
        if bundle.config.engine not in ("cpu", "cuda"):
            # Late: the doctor imports this module for what it can run.
            from ttt_runtime.backends.requirements import explain_bundle

            raise DeviceError(f"{explain_bundle(bundle)}; export it with -e {device}")
        settings = SessionSettings(device, threads)

        def load(name: str) -> GraphSession:
            entry = bundle.graph(name)
            require_onnxruntime(entry.spec)
            return GraphSession(bundle.file(entry.file), entry.spec, settings)

        with whole_pieces():
            decoder = load(DECODER)
            block = load(BLOCK_DECODER) if BLOCK_DECODER in bundle.config.graphs else None
            text_head, speech_head = load(TEXT_HEAD), load(SPEECH_HEAD)
        _check_decoders(decoder, block, bundle.config.model)
        if is_gqa(decoder.spec):  # its weights were all repacked
            forget_pages([bundle.file(f"{g.file}.data") for g in bundle.config.graphs.values()])
        return cls(
            decoder,
            text_head,
            speech_head,
            EmbeddingTable.from_bundle(bundle),
            bundle.config.layout,
            _capacity(decoder, bundle.config.model, capacity),
            bucket_rows=bucket_rows,
            poison=poison,
            block_decoder=block,
        )

    @property
    def runs_in(self) -> str:
        """See `base.Runner.runs_in`."""
        return "onnxruntime" + ("" if self.why_not_native is None else f" ({self.why_not_native})")

    def forward(
        self,
        ids: Sequence[int],
        start: int,
        *,
        positions: Sequence[int] | None = None,
        scratch: bool = False,
    ) -> Floats:
        """See `base.Runner.forward`."""
        rows = len(ids)
        stop = start + rows
        cache = self.caches.begin(rows, start, scratch=scratch)
        bindings = self._row_bindings if rows == 1 else self._rows_bindings
        run = bindings.bound(cache, rows, stop)
        row_ids = np.array(ids, dtype=np.int64)
        self._embeddings.gather(row_ids, run.embeds)
        run.positions[...] = self._positions[start:stop] if positions is None else positions
        run.write_index[0] = start
        write_mask(row_ids, start, self._audio_start, run.mask)
        if self._poison:  # the rows about to be written are bound as part of the past
            for buffer in cache.buffers.values():
                buffer[(slice(None),) * cache.row_axis + (slice(start, stop),)] = 0
        run.run()
        cache.commit(stop)
        return run.hidden


def _capacity(decoder: GraphSession, model: ModelConfig, requested: int | None) -> int:
    fixed = decoder.spec.input("mask").shape[1]
    if isinstance(fixed, int):
        if requested not in (None, fixed):
            raise ConfigError(
                f"capacity {requested}; this bundle's decoder is built for {fixed} rows"
            )
        return fixed
    limit = model.max_position_embeddings
    if is_gqa(decoder.spec):
        limit = min(limit, int(decoder.spec.attributes[ROTARY_ROWS]))
    return open_capacity(limit, requested)


def _check_decoders(decoder: GraphSession, block: GraphSession | None, model: ModelConfig) -> None:
    width = decoder.spec.input("embeds").shape[-1]
    if width != model.hidden_size:
        raise BundleError(f"the decoder is {width} wide, the model {model.hidden_size}")
    if block is not None and block.spec.inputs != decoder.spec.inputs:
        raise BundleError(
            f"the graphs {DECODER} and {BLOCK_DECODER} differ in their inputs, so they cannot "
            "share a cache; export the bundle again"
        )
