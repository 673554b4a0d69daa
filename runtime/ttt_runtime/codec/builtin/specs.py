"""Inputs and outputs of the codec's two graphs: the one description for exporter and runtime.

S speech tokens, F = 4 S frames.
"""

from __future__ import annotations

from ttt_runtime.bundle.graph_spec import Dim, GraphSpec, TensorSpec
from ttt_runtime.codec.builtin.params import DecoderParams, TokenizerParams

TOKENIZER_GRAPH = "speech_tokenizer"
DECODER_GRAPH = "speech_decoder"


def tokenizer_spec(params: TokenizerParams) -> GraphSpec:
    """Describe the tokenizer's graph."""
    bins = params.fft_samples // 2 + 1
    return GraphSpec(
        TOKENIZER_GRAPH,
        (TensorSpec("power", "float32", (1, "F", bins)),),
        (TensorSpec("ids", "int64", (1, "S")),),
    )


def decoder_spec(params: DecoderParams, state: tuple[Dim, ...]) -> GraphSpec:
    """Describe the decoder's graph; `state` is the shape of what it remembers."""
    bins = params.fft_samples // 2 + 1
    return GraphSpec(
        DECODER_GRAPH,
        (TensorSpec("codes", "int64", (1, "S")), TensorSpec("past", "float32", state)),
        (
            TensorSpec("f0_hz", "float32", (1, "F")),
            TensorSpec("voiced", "float32", (1, "F")),
            TensorSpec("pulse_real", "float32", (1, "F", bins)),
            TensorSpec("pulse_imag", "float32", (1, "F", bins)),
            TensorSpec("noise_gain", "float32", (1, "F", bins)),
            TensorSpec("present", "float32", state),
        ),
    )
