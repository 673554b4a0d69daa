"""The runner on device memory: what crosses to the host are ids, scores and asked-for logits.

It knows no library. A `Graph` binds addresses and launches; a `Memory` gives blocks. onnxruntime
(`ort_graph`) and TensorRT (`engine_graph`) bring their own of both.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from ttt_ref.config import TokenLayout
from ttt_runtime.backends.attention_mask import write_mask
from ttt_runtime.backends.base import Floats, Heads
from ttt_runtime.backends.gpu.cache import DeviceCache
from ttt_runtime.backends.gpu.graph import Graph
from ttt_runtime.backends.gpu.head import ROW_BUCKET, DeviceHead
from ttt_runtime.backends.gpu.memory import Memory, Packed, write_floats
from ttt_runtime.backends.gpu.rows import DeviceRows, HiddenBlock
from ttt_runtime.backends.kv_cache import SequenceCaches
from ttt_runtime.bundle.embeddings import EmbeddingTable

BUCKET_ROWS: Final = 256  # the bound part of a growing cache; a GPU gains little from finer steps
FIRST_ROWS: Final = 512  # rows that the hidden block has room for at first: a chunk of prefill
_KEPT_FORWARDS: Final = 24


class _Forward:
    """Inputs and launch of the decoder for Q rows over C cache rows."""

    def __init__(
        self, graph: Graph, memory: Memory, cache: DeviceCache, hidden: int, rows: int, bound: int
    ) -> None:
        dims = {"Q": rows, "C": bound}
        own = graph.spec.inputs[:4]  # embeds, positions, write_index, mask
        self.inputs = Packed(memory, own, dims)
        addresses = {**self.inputs.addresses, **cache.addresses, "hidden": hidden}
        self._launch = graph.bind(dims, addresses)

    def run(self) -> None:
        """Send the inputs and start the decoder."""
        self.inputs.block.upload()
        self._launch()


class DeviceRunner(Heads):
    """Decoder, heads, embedding table and cache on a device; see `base.Runner`.

    Args:
        decoder: the decoder graph.
        text_head: head of the text rows.
        speech_head: head of the audio-side rows.
        memory: the device's memory.
        embeddings: embedding table, on the host.
        layout: which id means what.
        capacity: rows of the cache.
        bucket_rows: a cache of open length is bound in steps of this many rows.
        runs_in: see `base.Runner.runs_in`.
    """

    def __init__(
        self,
        decoder: Graph,
        text_head: Graph,
        speech_head: Graph,
        memory: Memory,
        embeddings: EmbeddingTable,
        layout: TokenLayout,
        capacity: int,
        *,
        bucket_rows: int = BUCKET_ROWS,
        runs_in: str = "onnxruntime",
    ) -> None:
        self.capacity = capacity
        self.runs_in = runs_in
        self._decoder = decoder
        self._memory = memory
        self._embeddings = embeddings
        self._audio_start = layout.audio_start
        self._bucket = bucket_rows
        self.caches = SequenceCaches(self._new_cache)
        self._forwards: OrderedDict[tuple[bool, int, int, int], _Forward] = OrderedDict()
        self._heads = [DeviceHead(graph, memory) for graph in (text_head, speech_head)]
        text, speech = self._heads
        super().__init__(text, speech)
        self._float = decoder.spec.input("embeds").dtype
        # Rows of the sequence outlive a forward on the scratch cache: guidance mixes the two.
        first = min(FIRST_ROWS, capacity)
        self._hidden = {scratch: self._hidden_block(first) for scratch in (False, True)}

    def forward(
        self,
        ids: Sequence[int],
        start: int,
        *,
        positions: Sequence[int] | None = None,
        scratch: bool = False,
    ) -> Floats:
        """See `base.Runner.forward`; the rows stay on the device until they are looked at."""
        rows = len(ids)
        stop = start + rows
        cache = self.caches.begin(rows, start, scratch=scratch)
        run = self._bound(cache, scratch, rows, stop)
        row_ids = np.array(ids, dtype=np.int64)
        self._embed(row_ids, run.inputs.arrays["embeds"][0])
        run.inputs.arrays["positions"][0] = (
            np.arange(start, stop) if positions is None else positions
        )
        run.inputs.arrays["write_index"][0] = start
        write_mask(row_ids, start, self._audio_start, run.inputs.arrays["mask"])
        run.run()
        cache.commit(stop)
        cache.advance()
        hidden = self._hidden[scratch]
        hidden.version += 1
        # Behaves as the array that the protocol promises, but is fetched only when looked at.
        return cast(Floats, DeviceRows(hidden, np.arange(rows, dtype=np.intp)))

    def wait(self) -> None:
        """Return when the device has done everything that was given to it (for measurement)."""
        self._memory.synchronize()

    def _embed(self, ids: NDArray[np.int64], out: NDArray[np.generic]) -> None:
        if self._float == "float32":
            self._embeddings.gather(ids, cast(NDArray[np.float32], out))
            return
        wide = np.empty(out.shape, np.float32)
        self._embeddings.gather(ids, wide)
        write_floats(wide, out, self._float)

    def _hidden_block(self, rows: int) -> HiddenBlock:
        # A head may read up to a bucket beyond the last row; what it makes of that is not used.
        width = self._decoder.spec.output("hidden").shape[-1]
        assert isinstance(width, int)
        return HiddenBlock(self._memory, rows + ROW_BUCKET, width, self._float)

    def _new_cache(self) -> DeviceCache:
        decoder = self._decoder
        return DeviceCache(self._memory, decoder.spec, self.capacity, in_place=decoder.in_place)

    def _bound(self, cache: DeviceCache, scratch: bool, rows: int, stop: int) -> _Forward:
        bound = self.capacity
        if isinstance(self._decoder.spec.input("mask").shape[1], str):
            bound = min(-(-stop // self._bucket) * self._bucket, self.capacity)
        if rows + ROW_BUCKET > self._hidden[scratch].rows:
            self._forwards.clear()
            for head in self._heads:
                head.forget()
            self._hidden[scratch] = self._hidden_block(rows)
        key = (scratch, cache.turn, rows, bound)
        found = self._forwards.get(key)
        if found is not None:
            self._forwards.move_to_end(key)
            return found
        if len(self._forwards) >= _KEPT_FORWARDS:
            self._forwards.popitem(last=False)
        hidden = self._hidden[scratch].address(0)
        made = _Forward(self._decoder, self._memory, cache, hidden, rows, bound)
        self._forwards[key] = made
        return made
