"""The runner on the project's own kernels: bundles in 4 or 8 bit on a CPU.

It computes what the bundle's graphs say, with the same weights and the same rounding of inputs;
sums are added in another order, so hidden rows differ by float32 rounding and no more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ttt_ref.config import ModelConfig
from ttt_runtime.backends.base import Floats, Heads
from ttt_runtime.backends.kv_cache import SequenceCaches, open_capacity
from ttt_runtime.backends.native.cache import NativeCache
from ttt_runtime.backends.native.graph import GroupedGraph, NotNativeError, read_head
from ttt_runtime.backends.native.head import NativeHead
from ttt_runtime.backends.native.kernels import Kernels
from ttt_runtime.backends.native.structures import Call, address
from ttt_runtime.backends.native.top_k import NativeTopK
from ttt_runtime.backends.native.weights import DecoderWeights, HeadWeights, check_model
from ttt_runtime.backends.ort.session import SessionSettings
from ttt_runtime.bundle.embeddings import EmbeddingTable
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.gqa_spec import BLOCK_DECODER, is_gqa
from ttt_runtime.bundle.graph_spec import DECODER, SPEECH_HEAD, TEXT_HEAD


class NativeRunner(Heads):
    """Decoder, heads, embedding table and cache of one bundle, on the kernels.

    Args:
        bundle: an opened bundle whose decoder has the GQA form.
        threads: CPU threads; None takes the CPUs that this process may use, see `Kernels`.
        capacity: rows of the cache; None takes the model's limit, up to 4096.
        poison: NaN in every cache row not written (tests).
        variant: kernels of this kind (tests); None takes the fastest.

    Raises:
        NotNativeError: the bundle's graphs are not what the kernels compute.
        BundleError: the bundle's graphs are damaged.
        DeviceError: there are no kernels for this machine.
        ConfigError: a capacity that the graphs do not allow.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        capacity: int | None = None,
        poison: bool = False,
        variant: str | None = None,
    ) -> None:
        config, layout = bundle.config.model, bundle.config.layout
        if not is_gqa(bundle.graph(DECODER).spec):
            raise NotNativeError("the decoder keeps its standard form, which onnxruntime runs")
        settings = SessionSettings(threads=threads)
        team = None if threads is None else settings.thread_count
        kernels = self._kernels = Kernels(team, variant)
        check_model(kernels, config)
        graphs = _decoders(bundle, config)
        limit = min(config.max_position_embeddings, *(len(graph.cos) for graph in graphs))
        self.capacity = open_capacity(limit, capacity)
        self._embeddings = EmbeddingTable.from_bundle(bundle)
        packed = [
            DecoderWeights(kernels, graph, config, self.capacity, self._embeddings)
            for graph in graphs
        ]
        self._row_weights, self._rows_weights = packed[0], packed[-1]
        super().__init__(
            self._head(bundle, TEXT_HEAD, 0, layout.im_end_id),
            self._head(bundle, SPEECH_HEAD, layout.audio_start, None),
            NativeTopK(kernels),
        )
        self._config = config
        self._poison = poison
        self.caches = SequenceCaches(
            lambda: NativeCache(kernels, config, self.capacity, poison=poison)
        )
        self._call = Call(audio_start=layout.audio_start)
        self._hidden = self._new_rows(1)
        self._embeds: Floats | None = None
        if self._embeddings.in_8_bit is None:  # the kernels read no other table
            self._embeds = np.zeros((1, config.hidden_size), np.float32)

    @property
    def runs_in(self) -> str:
        """See `base.Runner.runs_in`."""
        return f"native kernels ({self._kernels.variant})"

    def forward(
        self,
        ids: Sequence[int],
        start: int,
        *,
        positions: Sequence[int] | None = None,
        scratch: bool = False,
    ) -> Floats:
        """See `base.Runner.forward`. Threads that call at once wait for each other."""
        with self._kernels.lock:
            return self._forward(ids, start, positions, scratch)

    def _forward(
        self, ids: Sequence[int], start: int, positions: Sequence[int] | None, scratch: bool
    ) -> Floats:
        rows = len(ids)
        stop = start + rows
        cache = self.caches.begin(rows, start, scratch=scratch)
        if rows > len(self._hidden):
            self._hidden = self._new_rows(rows)
        call = self._call
        row_ids = np.array(ids, dtype=np.int64)
        places = None if positions is None else np.array(positions, dtype=np.int64)
        call.rows, call.start, call.ids = rows, start, row_ids.ctypes.data
        call.positions = None if places is None else places.ctypes.data
        call.keys, call.values, call.capacity = cache.keys, cache.values, cache.rows
        if self._embeds is not None:
            if rows > len(self._embeds):
                self._embeds = np.zeros((rows, self._config.hidden_size), np.float32)
            self._embeddings.gather(row_ids, self._embeds[:rows])
            call.embeds = address(self._embeds)
        weights = self._row_weights if rows == 1 else self._rows_weights
        self._kernels.forward(weights.model, call)
        cache.commit(stop)
        return self._hidden[:rows]

    def _new_rows(self, rows: int) -> Floats:
        hidden: Floats = np.zeros((rows, self._config.hidden_size), np.float32)
        self._call.hidden = address(hidden)
        return hidden

    def _head(self, bundle: Bundle, name: str, first_id: int, end_row: int | None) -> NativeHead:
        entry = bundle.graph(name)
        rows = entry.spec.output("logits").shape[1]
        if not isinstance(rows, int):
            raise NotNativeError(f"head {name} has a number of rows that is not fixed")
        stored = read_head(bundle.file(entry.file), bundle.config.model.hidden_size, rows)
        weights = HeadWeights(self._kernels, stored)
        return NativeHead(self._kernels, weights, first_id, end_row)


def _decoders(bundle: Bundle, config: ModelConfig) -> list[GroupedGraph]:
    """Return the decoder and, if there is one, the second body."""
    graphs = []
    for name in (DECODER, BLOCK_DECODER):
        if name in bundle.config.graphs:
            path = bundle.file(bundle.graph(name).file)
            graphs.append(GroupedGraph(path, config, by_rows=name == BLOCK_DECODER))
    return graphs
