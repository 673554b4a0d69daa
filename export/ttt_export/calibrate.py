"""Carry calibration sequences through the layers, and quantize each with what it sees.

Every layer is calibrated on the outputs of the layers before it as they were quantized, so later
layers learn to live with earlier errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ttt_export.decoder_graph import layer_matrices
from ttt_export.linear import Matrix
from ttt_export.reference_stream import CarriedStates, StreamedReference
from ttt_export.weights import Float32Array, WeightSource, tensor
from ttt_quant.activations import Activations
from ttt_quant.algorithms import CALIBRATED, quantize
from ttt_quant.awq import input_scale
from ttt_quant.scheme import BlockQuantized, Scheme
from ttt_ref.config import ModelConfig

ChooseScheme = Callable[[str, int], Scheme]
IntArray = NDArray[np.int64]


class PlainQuantizer:
    """For recipes that need no calibration: every column chunk stands alone."""

    def prepare_layer(self, index: int, source: WeightSource) -> WeightSource:
        """Return the layer's weights as they are."""
        return source

    def prepare_heads(self, source: WeightSource) -> None:
        """Nothing to prepare."""

    def input_peak(self, name: str) -> float | None:
        """Know of no inputs."""
        return None

    def quantize(self, weight: Float32Array, scheme: Scheme, name: str) -> BlockQuantized:
        """Quantize a column chunk of a matrix."""
        return quantize(weight, scheme)


class LayerOverlay:
    """A weight source in which some tensors are replaced."""

    def __init__(self, base: WeightSource, replaced: dict[str, Float32Array]) -> None:
        self._base = base
        self._replaced = replaced

    def names(self) -> list[str]:
        """Return all tensor names."""
        return self._base.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return self._base.shape(name)

    def rows(self, name: str, start: int, stop: int) -> Float32Array:
        """Return rows start..stop-1 of a tensor as float32."""
        if name in self._replaced:
            return self._replaced[name][start:stop]
        return self._base.rows(name, start, stop)


class CalibratedQuantizer:
    """For recipes with GPTQ, AWQ or fp8: watches the inputs of each matrix, layer by layer.

    Args:
        reference: the checkpoint's layers.
        config: shape of the model.
        choose: scheme of a matrix by name and K.
        sequences: ids to calibrate on.
        round_inputs: tell what matrices receive, so that fp8 graphs round it.
    """

    def __init__(
        self,
        reference: StreamedReference,
        config: ModelConfig,
        choose: ChooseScheme,
        sequences: Sequence[IntArray],
        *,
        round_inputs: bool = True,
    ) -> None:
        self._config = config
        self._round_inputs = round_inputs
        self._choose = choose
        self._states: CarriedStates = reference.carry(sequences)
        self._seen: dict[str, Activations] = {}
        self._parts: dict[str, list[Float32Array]] = {}
        self._pending: tuple[int, WeightSource] | None = None

    def prepare_layer(self, index: int, source: WeightSource) -> WeightSource:
        """Collect the layer's activations; return its weights, rescaled where AWQ asks for it."""
        self._finish_layer()
        self._seen = {}
        matrices = layer_matrices(source, index)
        schemes = {part: self._choose(m.name, m.inputs) for part, m in matrices.items()}
        watched = {
            part: matrices[part]
            for part, scheme in schemes.items()
            if scheme.rounds_inputs or (scheme.is_integer and scheme.algorithm in CALIBRATED)
        }
        light = {part for part, scheme in schemes.items() if not scheme.is_integer}
        self._watch(index, source, watched, light)
        replaced: dict[str, Float32Array] = {}
        for part in ("qkv", "gate_up", "down"):
            if part in watched and schemes[part].algorithm == "awq" and part not in light:
                replaced |= self._rescaled(index, source, matrices[part], part, replaced)
        layer: WeightSource = LayerOverlay(source, replaced) if replaced else source
        self._pending = (index, layer)
        return layer

    def prepare_heads(self, source: WeightSource) -> None:
        """Finish the last layer and collect what the heads see."""
        self._finish_layer()
        seen = Activations(self._config.hidden_size)
        for rows in self._states.normed(tensor(source, "model.norm.weight")):
            seen.add(rows)
        self._seen = {"text_head": seen, "speech_head": seen}

    def input_peak(self, name: str) -> float | None:
        """Return the largest magnitude that the matrix was seen to receive."""
        return self._seen[name].peak if self._round_inputs and name in self._seen else None

    def quantize(self, weight: Float32Array, scheme: Scheme, name: str) -> BlockQuantized:
        """Quantize a column chunk of a matrix of the prepared layer."""
        seen = self._seen.get(name) if scheme.algorithm in CALIBRATED else None
        quantized = quantize(weight, scheme, seen)
        if name.startswith("layers."):
            self._parts.setdefault(name, []).append(quantized.dequantize())
        return quantized

    def _watch(
        self, index: int, source: WeightSource, watched: dict[str, Matrix], light: set[str]
    ) -> None:
        seen = {part: Activations(m.inputs, part in light) for part, m in watched.items()}

        def observe(_: int, part: str, rows: Tensor) -> None:
            if part in seen:
                seen[part].add(rows.numpy())

        if seen:
            self._states.look(index, source, observe)
        self._seen = {watched[part].name: record for part, record in seen.items()}

    def _rescaled(
        self,
        index: int,
        source: WeightSource,
        matrix: Matrix,
        part: str,
        replaced: dict[str, Float32Array],
    ) -> dict[str, Float32Array]:
        """Return the tensors of an equivalent layer whose matrix rounds better."""
        seen = self._seen[matrix.name]
        scheme = self._choose(matrix.name, matrix.inputs)
        scale = input_scale(matrix.whole(), scheme, seen)
        stem = f"model.layers.{index}"
        current = LayerOverlay(source, replaced)
        consumers, producer = {
            "qkv": (
                [f"{stem}.self_attn.{p}_proj.weight" for p in "qkv"],
                f"{stem}.input_layernorm.weight",
            ),
            "gate_up": (
                [f"{stem}.mlp.{p}_proj.weight" for p in ("gate", "up")],
                f"{stem}.post_attention_layernorm.weight",
            ),
            "down": ([f"{stem}.mlp.down_proj.weight"], f"{stem}.mlp.up_proj.weight"),
        }[part]
        made = {name: tensor(current, name) * scale[None, :] for name in consumers}
        before = tensor(current, producer)
        # A norm's weight is a vector; the rows of `up` make the channels that `down` reads.
        made[producer] = before / (scale if before.ndim == 1 else scale[:, None])
        seen.rescale((1 / scale).astype(np.float32))
        return made

    def _finish_layer(self) -> None:
        """Move the states through the pending layer as it was quantized."""
        if self._pending is None:
            return
        index, source = self._pending
        self._pending = None
        replaced: dict[str, Float32Array] = {}
        for matrix in layer_matrices(source, index).values():
            parts = self._parts.pop(matrix.name, None)
            if parts is not None:
                whole = np.concatenate(parts, axis=1)
                edge = 0
                for name in matrix.tensors:
                    height = source.shape(name)[0]
                    replaced[name] = np.ascontiguousarray(whole[:, edge : edge + height].T)
                    edge += height
        self._states.advance(index, LayerOverlay(source, replaced))
