"""The runner on the project's own kernels: bundles in 4 or 8 bit on a CPU.

It computes what the bundle's graphs say, with the same weights and the same rounding of inputs;
sums are added in another order, so hidden rows differ by float32 rounding and no more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ttt_ref.config import ModelConfig
from ttt_ref.errors import ConfigError
from ttt_runtime.bundle import Bundle
from ttt_runtime.embeddings import EmbeddingTable
from ttt_runtime.graph_spec import DECODER, SPEECH_HEAD, TEXT_HEAD
from ttt_runtime.grouped_spec import BLOCK_DECODER, is_grouped
from ttt_runtime.heads import LogitsHead
from ttt_runtime.masking import write_mask
from ttt_runtime.native.cache import NativeCache
from ttt_runtime.native.graph import GroupedGraph, NotNativeError, read_head
from ttt_runtime.native.library import Call, Kernels, address, scored, variant_name
from ttt_runtime.native.weights import DecoderWeights, HeadWeights, check_model
from ttt_runtime.sampler import Floats
from ttt_runtime.session import SessionSettings
from ttt_runtime.softmax import Softmax
from ttt_runtime.survey import Survey
from ttt_runtime.two_heads import TwoHeads


class NativeHead(LogitsHead):
    """A head on the kernels; see `LogitsHead`."""

    def __init__(
        self,
        kernels: Kernels,
        weights: HeadWeights,
        first_id: int,
        end_row: int | None,
        softmax: Softmax,
    ) -> None:
        super().__init__(int(weights.matrix.outputs), first_id, end_row, softmax)
        self._kernels = kernels
        self._weights = weights

    def compute(self, hidden: Floats, out: Floats) -> None:
        """See `LogitsHead.compute`."""
        self._kernels.product(self._weights.matrix, hidden, out)


class _Room:
    """Buffers of forwards of up to some number of rows; views of them for a forward."""

    def __init__(self, rows: int, hidden: int, half: int, stride: int) -> None:
        self.rows = rows
        self.embeds = np.zeros((rows, hidden), np.float32)
        self.hidden = np.zeros((rows, hidden), np.float32)
        self.cos = np.zeros((rows, half), np.float32)
        self.sin = np.zeros((rows, half), np.float32)
        # Room for the longest context; pages that no forward reaches are never touched.
        self.mask = np.zeros(rows * stride, np.bool_)


class NativeRunner(TwoHeads):
    """Decoder, heads, embedding table and cache of one bundle, on the kernels.

    Args:
        bundle: an opened bundle whose decoder is grouped.
        threads: CPU threads; None takes all CPUs of this process.
        capacity: rows of the cache; None takes the model's limit, up to `default_capacity`.
        poison: NaN in every cache row not written (tests).

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
        default_capacity: int = 4096,
        poison: bool = False,
    ) -> None:
        config, layout = bundle.config.model, bundle.config.layout
        if not is_grouped(bundle.graph(DECODER).spec):
            raise NotNativeError("the decoder keeps its portable form, which onnxruntime runs")
        settings = SessionSettings(threads=threads)
        kernels = self._kernels = Kernels(settings.thread_count)
        check_model(config)
        graphs = _decoders(bundle, config)
        self.capacity = _capacity(len(graphs[0].cos), config, capacity, default_capacity)
        self._angles = tuple(np.array(t[: self.capacity]) for t in (graphs[0].cos, graphs[0].sin))
        packed = [DecoderWeights(kernels, graph, config) for graph in graphs]
        self._row_weights, self._rows_weights = packed[0], packed[-1]
        softmax = Softmax(settings)
        super().__init__(
            self._head(bundle, TEXT_HEAD, 0, layout.im_end_id, softmax),
            self._head(bundle, SPEECH_HEAD, layout.audio_start, None, softmax),
            Survey(settings),
        )
        self._embeddings = EmbeddingTable.from_bundle(bundle)
        self._config = config
        self._audio_start = layout.audio_start
        self._poison = poison
        self._cache = NativeCache(config, self.capacity, poison=poison)
        self._scratch: NativeCache | None = None
        self._call = Call()
        self._room = self._new_room(1)

    @property
    def runs_in(self) -> str:
        """See `chooser.Runner.runs_in`."""
        return f"native kernels ({variant_name()})"

    def forward(
        self,
        ids: Sequence[int],
        start: int,
        *,
        positions: Sequence[int] | None = None,
        scratch: bool = False,
    ) -> Floats:
        """See `chooser.Runner.forward`."""
        rows = len(ids)
        stop = start + rows
        assert rows > 0, "a forward without rows"
        assert stop <= self.capacity, (stop, self.capacity)
        cache = self._scratch_cache() if scratch else self._cache
        cache.truncate(start)
        if rows > self._room.rows:
            self._room = self._new_room(rows)
        room, call = self._room, self._call
        row_ids = np.array(ids, dtype=np.int64)
        self._embeddings.gather(row_ids, room.embeds[:rows])
        for table, out in zip(self._angles, (room.cos, room.sin), strict=True):
            if positions is None:
                out[:rows] = table[start:stop]
            else:
                out[:rows] = table[np.array(positions, dtype=np.intp)]
        stride = -(-stop // scored()) * scored()
        mask = room.mask[: rows * stride].reshape(rows, stride)
        write_mask(row_ids, start, self._audio_start, mask)
        call.rows, call.start, call.mask_stride = rows, start, stride
        call.keys, call.values, call.capacity = cache.keys, cache.values, cache.rows
        weights = self._row_weights if rows == 1 else self._rows_weights
        self._kernels.forward(weights.model, call)
        cache.commit(stop)
        return room.hidden[:rows]

    def _new_room(self, rows: int) -> _Room:
        config = self._config
        longest = -(-self.capacity // scored()) * scored()
        room = _Room(rows, config.hidden_size, config.head_dim // 2, longest)
        call = self._call
        call.embeds, call.hidden = address(room.embeds), address(room.hidden)
        call.cos, call.sin = address(room.cos), address(room.sin)
        call.mask = address(room.mask)
        return room

    def _scratch_cache(self) -> NativeCache:
        if self._scratch is None:
            self._scratch = NativeCache(self._config, self.capacity, poison=self._poison)
        return self._scratch

    def _head(
        self, bundle: Bundle, name: str, first_id: int, end_row: int | None, softmax: Softmax
    ) -> NativeHead:
        entry = bundle.graph(name)
        rows = entry.spec.output("logits").shape[1]
        assert isinstance(rows, int)
        stored = read_head(bundle.file(entry.file), bundle.config.model.hidden_size, rows)
        weights = HeadWeights(self._kernels, stored)
        return NativeHead(self._kernels, weights, first_id, end_row, softmax)


def _decoders(bundle: Bundle, config: ModelConfig) -> list[GroupedGraph]:
    """Return the decoder and, if there is one, the second body."""
    graphs = []
    for name in (DECODER, BLOCK_DECODER):
        if name in bundle.config.graphs:
            path = bundle.file(bundle.graph(name).file)
            graphs.append(GroupedGraph(path, config, by_rows=name == BLOCK_DECODER))
    return graphs


def _capacity(rotary_rows: int, model: ModelConfig, asked: int | None, default: int) -> int:
    limit = min(model.max_position_embeddings, rotary_rows)
    if asked is None:
        return min(limit, default)
    if not 1 <= asked <= limit:
        raise ConfigError(f"capacity {asked}; the model allows 1 .. {limit}")
    return asked
