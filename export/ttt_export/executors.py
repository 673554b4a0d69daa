"""Run passes on written graphs: the whole decoder in place, or layer by layer in little memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from ttt_export.cases import Case
from ttt_export.slices import layer_spec, sliced
from ttt_ref.config import ModelConfig, TokenLayout
from ttt_runtime.backends.attention_mask import write_mask
from ttt_runtime.backends.ort.runner import OrtRunner
from ttt_runtime.backends.ort.session import GraphSession, SessionSettings
from ttt_runtime.bundle.embeddings import EmbeddingTable
from ttt_runtime.bundle.graph_spec import DECODER, SPEECH_HEAD, TEXT_HEAD, GraphSpec

Float32Array = NDArray[np.float32]

# Above this size of weights a decoder is run layer by layer.
WHOLE_BYTES = 600 * 2**20
SMALL_BYTES = 32 * 2**20

_NUMPY: dict[str, Any] = {"float32": np.float32, "float16": np.float16, "int8": np.int8}


@dataclass(frozen=True)
class Written:
    """Graphs and table in a folder that is not a bundle yet."""

    folder: Path
    config: ModelConfig
    layout: TokenLayout
    specs: dict[str, GraphSpec]
    table: EmbeddingTable

    def path(self, name: str) -> Path:
        """Return the file of a graph."""
        return self.folder / f"{name}.onnx"

    def data_bytes(self, name: str) -> int:
        """Return the size of a graph's weights."""
        return self.path(name).with_name(f"{name}.onnx.data").stat().st_size

    @property
    def is_large(self) -> bool:
        """True if the decoder is too large to be held whole while it is checked."""
        return self.data_bytes(DECODER) > WHOLE_BYTES

    def with_attributes(self, **attributes: str) -> Written:
        """Return the same graphs, to be loaded with other session options."""
        changed = {
            name: replace(spec, attributes={**spec.attributes, **attributes})
            for name, spec in self.specs.items()
        }
        return replace(self, specs=changed)

    def session(self, name: str) -> GraphSession:
        """Load a graph."""
        return GraphSession(self.path(name), self.specs[name], self.settings(name))

    def settings(self, name: str) -> SessionSettings:
        """Return one thread for small graphs, which lose by more, and all CPUs for others."""
        return SessionSettings("cpu", 1 if self.data_bytes(name) < SMALL_BYTES else None)


class Executor(Protocol):
    """Whatever can run passes; an engine that is not onnxruntime brings its own."""

    def hidden(self, cases: Sequence[Case]) -> list[list[Float32Array]]:
        """Return for each case and pass the hidden rows [Q, hidden] of the pass."""
        ...


def executor_for(written: Written) -> Executor:
    """Return the executor that the decoder's size asks for."""
    return SlicedExecutor(written) if written.is_large else WholeExecutor(written)


class WholeExecutor:
    """Runs the whole decoder through the runtime's own runner: K/V in place, NaN elsewhere."""

    def __init__(self, written: Written) -> None:
        self._written = written
        self._sessions = [written.session(n) for n in (DECODER, TEXT_HEAD, SPEECH_HEAD)]

    def hidden(self, cases: Sequence[Case]) -> list[list[Float32Array]]:
        """See `Executor.hidden`."""
        decoder, text, speech = self._sessions
        fixed = decoder.spec.input("mask").shape[1]
        capacity = fixed if isinstance(fixed, int) else max(case.longest for case in cases)
        runner = OrtRunner(
            decoder,
            text,
            speech,
            self._written.table,
            self._written.layout,
            capacity,
            bucket_rows=1,
            # A graph of fixed length reads all its cache: there unwritten rows must be finite.
            poison=not isinstance(fixed, int),
        )
        return [
            [np.array(runner.forward(p.rows, p.start), dtype=np.float32) for p in case.passes]
            for case in cases
        ]


class SlicedExecutor:
    """Runs all passes of all cases through one layer, then through the next."""

    def __init__(self, written: Written) -> None:
        self._written = written
        self._model = onnx.load(str(written.path(DECODER)), load_external_data=False)

    def hidden(self, cases: Sequence[Case]) -> list[list[Float32Array]]:
        """See `Executor.hidden`."""
        written = self._written
        spec = written.specs[DECODER]
        dtype = _NUMPY[spec.input("embeds").dtype]
        states = [[self._embed(p.rows).astype(dtype) for p in case.passes] for case in cases]
        for index in range(written.config.num_hidden_layers):
            part = layer_spec(spec, written.config, index)
            with sliced(self._model, written.folder, part) as path:
                session = GraphSession(path, part, written.settings(DECODER))
                for case, rows in zip(cases, states, strict=True):
                    self._run_case(session, case, rows)
                del session
        return [[rows[0].astype(np.float32) for rows in case] for case in states]

    def _embed(self, ids: Sequence[int]) -> Float32Array:
        out = np.empty((len(ids), self._written.config.hidden_size), np.float32)
        self._written.table.gather(np.array(ids, dtype=np.int64), out)
        return out[None]

    def _run_case(self, session: GraphSession, case: Case, rows: list[NDArray[Any]]) -> None:
        spec = session.spec
        x, past = spec.inputs[0].name, [t for t in spec.inputs if t.name.startswith("past_")]
        fixed = spec.input("mask").shape[1]
        length = fixed if isinstance(fixed, int) else case.longest
        caches = {t.name: np.zeros(t.resolve({"C": length}), _NUMPY[t.dtype]) for t in past}
        names = [t.name for t in spec.inputs]
        for number, step in enumerate(case.passes):
            stop = len(step.ids)
            bound = length if isinstance(fixed, int) else stop
            mask = np.zeros((len(step.rows), bound), np.bool_)
            ids = np.array(step.rows, dtype=np.int64)
            write_mask(ids, step.start, self._written.layout.audio_start, mask)
            feeds = {
                x: rows[number],
                "positions": np.arange(step.start, stop, dtype=np.int64)[None],
                "write_index": np.array([step.start], dtype=np.int64),
                "mask": mask,
                **{name: _rows(cache, bound) for name, cache in caches.items()},
            }
            feeds = {name: feeds[name] for name in names}  # the GQA form has no write_index
            rows[number], *present = session.run(feeds)
            for tensor, values in zip(past, present, strict=True):
                _rows(caches[tensor.name], bound)[...] = values


def _rows(cache: NDArray[Any], count: int) -> NDArray[Any]:
    """View the first rows of a cache of either layout."""
    return cache[:, :count] if cache.ndim == 3 else cache[:, :, :count]
