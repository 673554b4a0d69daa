"""The reference model, computed layer by layer, so that its size never stands in the way.

The layers are those of `ttt_ref`; only one is in memory at a time. It serves as the truth that a
graph is held against and as the source of the activations that calibration needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ttt_export.head_graphs import head_tensor
from ttt_export.source import expected_shapes
from ttt_export.weights import Float32Array, WeightSource, row_chunks, tensor
from ttt_ref.config import ModelConfig, TokenLayout
from ttt_ref.mask import attend_mask
from ttt_ref.model import Layer, RMSNorm, rotary_table

IntArray = NDArray[np.int64]
# Called with (layer index, part, input rows [L, K]) for parts qkv, out, gate_up and down.
Observe = Callable[[int, str, Tensor], None]
# Called with (k_proj or v_proj, its output rows [L, kv_heads * head_dim]).
ObserveCached = Callable[[str, Tensor], None]

_OBSERVED = {
    "qkv": ("self_attn", "q_proj"),
    "out": ("self_attn", "o_proj"),
    "gate_up": ("mlp", "gate_proj"),
    "down": ("mlp", "down_proj"),
}


class StreamedReference:
    """Hidden states and logits of `ttt_ref`, from any weight source.

    Args:
        config: shape of the model.
        layout: token ids; gives the mask rule its boundary.
        source: the weights, under the checkpoint's names.
        head_name: tensor of the output rows; None takes the checkpoint's (the embedding if tied).
    """

    def __init__(
        self,
        config: ModelConfig,
        layout: TokenLayout,
        source: WeightSource,
        head_name: str | None = None,
    ) -> None:
        self._config = config
        self._layout = layout
        self._source = source
        self._head_name = head_name or head_tensor(config)

    def hidden(self, sequences: Sequence[IntArray]) -> list[Float32Array]:
        """Return the final-norm states [L, hidden] of each sequence of ids [L]."""
        states = self.carry(sequences)
        for index in range(self._config.num_hidden_layers):
            states.advance(index, self._source)
        return states.normed(tensor(self._source, "model.norm.weight"))

    def carry(self, sequences: Sequence[IntArray]) -> CarriedStates:
        """Return the embedded sequences, ready to be carried through the layers."""
        embedded = [self._embed(ids) for ids in sequences]
        return CarriedStates(self._config, self._layout, sequences, embedded)

    def logits(self, hidden: Float32Array, start: int = 0, stop: int | None = None) -> Float32Array:
        """Return the logits [N, stop - start] of output rows start..stop-1 for hidden [N, h]."""
        stop = self._config.vocab_size if stop is None else stop
        rows = torch.from_numpy(hidden)
        parts = [
            (rows @ torch.from_numpy(chunk).T).numpy()
            for chunk in row_chunks(self._source, self._head_name, start, stop)
        ]
        return np.concatenate(parts, axis=1)

    def _embed(self, ids: IntArray) -> Tensor:
        rows = [self._source.rows("model.embed_tokens.weight", int(i), int(i) + 1) for i in ids]
        return torch.from_numpy(np.concatenate(rows))[None]


class CarriedStates:
    """Hidden states of several sequences between two layers."""

    def __init__(
        self,
        config: ModelConfig,
        layout: TokenLayout,
        sequences: Sequence[IntArray],
        embedded: list[Tensor],
    ) -> None:
        self._config = config
        self._states = embedded  # [1, L, hidden] each
        device = torch.device("cpu")
        self._angles = [rotary_table(len(ids), config, device) for ids in sequences]
        self._biases = [_bias(ids, layout.audio_start) for ids in sequences]

    def advance(
        self, index: int, source: WeightSource, cached: ObserveCached | None = None
    ) -> None:
        """Move all sequences through layer `index` with the weights of `source`.

        `cached` is shown the keys (not yet rotated) and values of each sequence.
        """
        layer = load_layer(self._config, index, source)
        if cached is not None:
            _watch_cached(layer, cached)
        self._states = self._through(layer)

    def look(self, index: int, source: WeightSource, observe: Observe) -> None:
        """Show what the matrices of layer `index` receive, without moving on."""
        layer = load_layer(self._config, index, source)
        _watch(layer, index, observe)
        self._through(layer)

    def normed(self, weight: Float32Array) -> list[Float32Array]:
        """Return the states [L, hidden] after the final norm."""
        norm = RMSNorm(self._config.hidden_size, self._config.rms_norm_eps)
        norm.weight = nn.Parameter(torch.from_numpy(weight))
        with torch.no_grad():
            return [norm(x)[0].numpy() for x in self._states]

    @torch.no_grad()
    def _through(self, layer: Layer) -> list[Tensor]:
        return [
            layer(x, bias, cos, sin)
            for x, bias, (cos, sin) in zip(self._states, self._biases, self._angles, strict=True)
        ]


def load_layer(config: ModelConfig, index: int, source: WeightSource) -> Layer:
    """Return layer `index` of the reference with its weights."""
    with torch.device("meta"):
        layer = Layer(config)
    prefix = f"model.layers.{index}."
    names = [n for n in expected_shapes(config) if n.startswith(prefix)]
    state = {n.removeprefix(prefix): torch.from_numpy(tensor(source, n)) for n in names}
    layer.load_state_dict(state, assign=True)
    return layer.eval()


def _bias(ids: IntArray, audio_start: int) -> Tensor:
    attend = attend_mask(torch.from_numpy(ids)[None], audio_start)
    bias = torch.zeros(attend.shape)
    return bias.masked_fill(~attend, torch.finfo(bias.dtype).min)[:, None]  # [1, 1, L, L]


def _watch(layer: Layer, index: int, observe: Observe) -> None:
    for part, (block, projection) in _OBSERVED.items():
        module = layer.get_submodule(f"{block}.{projection}")

        def hook(_: nn.Module, inputs: tuple[Tensor, ...], part: str = part) -> None:
            observe(index, part, inputs[0][0])

        module.register_forward_pre_hook(hook)


def _watch_cached(layer: Layer, cached: ObserveCached) -> None:
    for part in ("k_proj", "v_proj"):

        def hook(_: nn.Module, __: tuple[Tensor, ...], out: Tensor, part: str = part) -> None:
            cached(part, out[0])

        layer.get_submodule(f"self_attn.{part}").register_forward_hook(hook)
