"""The runner on onnxruntime: graphs bound once, K/V written in place, no copies of the cache.

Every combination of Q query rows and C bound cache rows gets one set of bindings, which is kept.
With the cache layout `rows` a forward binds only the first C rows of the cache, C being the
context rounded up to a bucket: the cost of attention follows the context, not the capacity.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ttt_ref.config import ModelConfig, TokenLayout
from ttt_ref.errors import BundleError, ConfigError, DeviceError, TttError
from ttt_runtime.bundle import Bundle
from ttt_runtime.cache import KvCache
from ttt_runtime.embeddings import EmbeddingTable
from ttt_runtime.graph_spec import DECODER, SPEECH_HEAD, TEXT_HEAD, TensorSpec
from ttt_runtime.masking import write_mask
from ttt_runtime.sampler import Floats, HeadBest
from ttt_runtime.session import GraphSession, SessionSettings, check_device

DEFAULT_CAPACITY: Final = 4096
RUNS_ON: Final = ("cpu",)  # devices that this runner keeps its cache on
BUCKET_ROWS: Final = 64
FORBIDDEN: Final = -1e30  # added to a logit: exp() of it is 0, and no NaN comes of it
_KEPT_BINDINGS: Final = 24

_NUMPY: Final[Mapping[str, Any]] = {
    "float32": np.float32,
    "float16": np.float16,
    "int64": np.int64,
    "bool": np.bool_,
}


class _Forward:
    """Inputs, output and bindings of the decoder for Q rows over C cache rows."""

    def __init__(self, session: GraphSession, cache: KvCache, rows: int, cache_rows: int) -> None:
        dims = {"Q": rows, "C": cache_rows}
        self.binding: Any = session.ort_session.io_binding()
        self._keep: list[NDArray[Any]] = []

        def bind(tensor: TensorSpec, array: NDArray[Any], *, output: bool) -> NDArray[Any]:
            shape = tensor.resolve(dims)
            put = self.binding.bind_output if output else self.binding.bind_input
            put(tensor.name, "cpu", 0, array.dtype.type, shape, array.ctypes.data)
            self._keep.append(array)  # the binding holds only the address
            return array

        def fresh(tensor: TensorSpec) -> NDArray[Any]:
            return np.zeros(tensor.resolve(dims), _NUMPY[tensor.dtype])

        spec = session.spec
        for tensor in spec.inputs:
            if tensor.name.startswith("past_"):
                bind(tensor, cache.buffers[tensor.name], output=False)
        for tensor in spec.outputs:
            if tensor.name.startswith("present_"):
                past = cache.buffers[tensor.name.replace("present_", "past_", 1)]
                bind(tensor, past, output=True)
        own = {t.name: bind(t, fresh(t), output=False) for t in spec.inputs[:4]}
        self.embeds: NDArray[Any] = own["embeds"][0]  # [Q, hidden]
        self.positions: NDArray[np.int64] = own["positions"][0]  # [Q]
        self.write_index: NDArray[np.int64] = own["write_index"]  # [1]
        self.mask: NDArray[np.bool_] = own["mask"]  # [Q, C]
        hidden = spec.output("hidden")
        self.hidden: Floats = bind(hidden, fresh(hidden), output=True)[0]  # [Q, hidden]


class _Head:
    """A head's bindings by number of rows, for best ids or for logits."""

    def __init__(self, session: GraphSession, outputs: Sequence[str]) -> None:
        self._session = session
        self._outputs = outputs
        self._bound: dict[int, tuple[Any, Floats, list[NDArray[Any]]]] = {}
        self.end_bias = np.zeros(1, np.float32)

    def run(self, hidden: Floats) -> list[NDArray[Any]]:
        """Run hidden rows [N, hidden]; return the outputs asked for."""
        rows = hidden.shape[0]
        bound = self._bound.get(rows)
        if bound is None:
            bound = self._bound[rows] = self._bind(rows)
        binding, head_input, results = bound
        head_input[...] = hidden
        _run(self._session, binding)
        return results

    def _bind(self, rows: int) -> tuple[Any, Floats, list[NDArray[Any]]]:
        spec = self._session.spec
        binding = self._session.ort_session.io_binding()
        tensor = spec.input("hidden")
        head_input = np.zeros(tensor.resolve({"N": rows}), _NUMPY[tensor.dtype])
        arrays = {"hidden": head_input, "end_bias": self.end_bias}
        for tensor in spec.inputs:
            array = arrays[tensor.name]
            binding.bind_input(
                tensor.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data
            )
        results = []
        for name in self._outputs:
            tensor = spec.output(name)
            array = np.zeros(tensor.resolve({"N": rows}), _NUMPY[tensor.dtype])
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
            results.append(array)
        return binding, head_input, results


def _run(session: GraphSession, binding: Any) -> None:
    try:
        session.ort_session.run_with_iobinding(binding)
    except Exception as error:  # onnxruntime has no base class for its errors
        raise TttError(f"onnxruntime failed in graph {session.spec.name}: {error}") from error


_BEST = ("best_id", "best_logit", "sum_exp")


class OrtRunner:
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
    """

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
    ) -> None:
        if poison and bucket_rows != 1:
            raise ConfigError("a poisoned cache needs bucket_rows 1: bound rows must be written")
        self.capacity = capacity
        self._decoder = decoder
        self._embeddings = embeddings
        self._audio_start = layout.audio_start
        self._bucket = bucket_rows
        self._poison = poison
        self._cache = KvCache(decoder.spec, capacity, poison=poison)
        self._scratch: KvCache | None = None
        self._forwards: OrderedDict[tuple[bool, int, int], _Forward] = OrderedDict()
        self._positions = np.arange(capacity, dtype=np.int64)
        self._text_best = _Head(text_head, _BEST)
        self._text_logits = _Head(text_head, ("logits",))
        self._speech_best = _Head(speech_head, _BEST)
        self._speech_logits = _Head(speech_head, ("logits",))

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
                f"device {device!r}: this version runs bundles on the CPU only; use --device cpu"
            )
        if bundle.config.engine not in ("cpu", "cuda"):
            # Late: the doctor imports this module for what it can run.
            from ttt_runtime.doctor.needs import explain_bundle

            raise DeviceError(f"{explain_bundle(bundle)}; export it with -e {device}")
        settings = SessionSettings(device, threads)

        def load(name: str) -> GraphSession:
            entry = bundle.graph(name)
            return GraphSession(bundle.file(entry.file), entry.spec, settings)

        decoder = load(DECODER)
        _check_decoder(decoder, bundle.config.model)
        return cls(
            decoder,
            load(TEXT_HEAD),
            load(SPEECH_HEAD),
            EmbeddingTable.from_bundle(bundle),
            bundle.config.layout,
            _capacity(decoder, bundle.config.model, capacity),
            bucket_rows=bucket_rows,
            poison=poison,
        )

    def forward(self, ids: Sequence[int], start: int, *, scratch: bool = False) -> Floats:
        """See `chooser.Runner.forward`."""
        rows = len(ids)
        stop = start + rows
        assert rows > 0, "a forward without rows"
        assert stop <= self.capacity, (stop, self.capacity)
        cache = self._scratch_cache() if scratch else self._cache
        cache.truncate(start)
        run = self._bound(cache, scratch, rows, stop)
        row_ids = np.array(ids, dtype=np.int64)
        self._embeddings.gather(row_ids, run.embeds)
        run.positions[...] = self._positions[start:stop]
        run.write_index[0] = start
        write_mask(row_ids, start, self._audio_start, run.mask)
        if self._poison:  # the rows about to be written are bound as part of the past
            for buffer in cache.buffers.values():
                buffer[(slice(None),) * cache.row_axis + (slice(start, stop),)] = 0
        _run(self._decoder, run.binding)
        cache.commit(stop)
        return run.hidden

    def text_best(self, hidden: Floats, *, forbid_end: bool) -> HeadBest:
        """See `chooser.Runner.text_best`."""
        self._text_best.end_bias[0] = FORBIDDEN if forbid_end else 0.0
        return HeadBest(*self._text_best.run(hidden))

    def speech_best(self, hidden: Floats) -> HeadBest:
        """See `chooser.Runner.speech_best`."""
        return HeadBest(*self._speech_best.run(hidden))

    def text_logits(self, hidden: Floats, *, forbid_end: bool) -> Floats:
        """See `chooser.Runner.text_logits`."""
        self._text_logits.end_bias[0] = FORBIDDEN if forbid_end else 0.0
        return self._text_logits.run(hidden)[0]

    def speech_logits(self, hidden: Floats) -> Floats:
        """See `chooser.Runner.speech_logits`."""
        return self._speech_logits.run(hidden)[0]

    def _scratch_cache(self) -> KvCache:
        if self._scratch is None:
            self._scratch = KvCache(self._decoder.spec, self.capacity, poison=self._poison)
        return self._scratch

    def _bound(self, cache: KvCache, scratch: bool, rows: int, stop: int) -> _Forward:
        cache_rows = self.capacity
        if cache.prefix_is_contiguous and isinstance(
            self._decoder.spec.input("mask").shape[1], str
        ):
            cache_rows = min(-(-stop // self._bucket) * self._bucket, self.capacity)
        key = (scratch, rows, cache_rows)
        found = self._forwards.get(key)
        if found is not None:
            self._forwards.move_to_end(key)
            return found
        if len(self._forwards) >= _KEPT_BINDINGS:
            self._forwards.popitem(last=False)
        made = self._forwards[key] = _Forward(self._decoder, cache, rows, cache_rows)
        return made


def _capacity(decoder: GraphSession, model: ModelConfig, asked: int | None) -> int:
    fixed = decoder.spec.input("mask").shape[1]
    if isinstance(fixed, int):
        if asked not in (None, fixed):
            raise ConfigError(f"capacity {asked}; this bundle's decoder is built for {fixed} rows")
        return fixed
    limit = model.max_position_embeddings
    if asked is None:
        return min(limit, DEFAULT_CAPACITY)
    if not 1 <= asked <= limit:
        raise ConfigError(f"capacity {asked}; the model allows 1 .. {limit}")
    return asked


def _check_decoder(decoder: GraphSession, model: ModelConfig) -> None:
    names = [t.name for t in decoder.spec.inputs[:4]]
    if names != ["embeds", "positions", "write_index", "mask"]:
        raise BundleError(f"the decoder's first inputs are {', '.join(names)}; export it again")
    width = decoder.spec.input("embeds").shape[-1]
    if width != model.hidden_size:
        raise BundleError(f"the decoder is {width} wide, the model {model.hidden_size}")
