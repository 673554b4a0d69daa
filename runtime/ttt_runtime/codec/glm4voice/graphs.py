"""Inputs and outputs of the codec's five graphs: the one description for exporter and runtime.

Named dimensions:

    W  mel frames given to a tokenizer block (4 + 2 L)   L  20 ms positions of the block
    P  positions before the block                        S  speech tokens
    F  decoder mel frames                                T  samples (256 F)
"""

from __future__ import annotations

from ttt_runtime.bundle.graph_spec import GraphSpec, TensorSpec
from ttt_runtime.codec.glm4voice.params import TokenizerParams

TOKENIZER = "tokenizer_block"
FLOW_ENCODER = "flow_encoder"
FLOW_VELOCITY = "flow_velocity"
VOCODER_F0 = "vocoder_f0"
VOCODER = "vocoder"
FLOW_SINGLE = "flow_single"  # for measurements only, no bundle has it
ALL = (TOKENIZER, FLOW_ENCODER, FLOW_VELOCITY, VOCODER_F0, VOCODER)


def tokenizer_spec(params: TokenizerParams, dtype: str = "float32") -> GraphSpec:
    """Describe one block of the tokenizer behind the keys and values of the earlier ones.

    `features` begins with the 4 mel frames before the block (zero at a segment's beginning,
    where `started` is 0); `past_valid` and `new_valid` are False for positions of padding.
    """
    width, layers = params.width, params.layers
    names = [f"{kv}.{i}" for i in range(layers) for kv in ("k", "v")]
    return GraphSpec(
        TOKENIZER,
        (
            TensorSpec("features", "float32", (1, params.mel_bins, "W")),
            TensorSpec("started", "float32", (1,)),
            TensorSpec("positions", "int64", ("L",)),
            TensorSpec("past_valid", "bool", ("P",)),
            TensorSpec("new_valid", "bool", ("L",)),
            *(TensorSpec(f"past_{name}", dtype, (1, "P", width)) for name in names),
        ),
        (
            TensorSpec("ids", "int64", (1, "S")),
            *(TensorSpec(f"new_{name}", dtype, (1, "L", width)) for name in names),
        ),
    )


def flow_encoder_spec(mel_bins: int) -> GraphSpec:
    """Describe tokens -> mean of each mel frame; `source_index` is the token of each frame."""
    return GraphSpec(
        FLOW_ENCODER,
        (TensorSpec("tokens", "int64", (1, "S")), TensorSpec("source_index", "int64", ("F",))),
        (TensorSpec("mu", "float32", (1, mel_bins, "F")),),
    )


def flow_velocity_spec(mel_bins: int) -> GraphSpec:
    """Describe the guided velocity: with and without guidance run as a batch of two inside."""
    frames = (1, mel_bins, "F")
    return GraphSpec(
        FLOW_VELOCITY,
        (
            TensorSpec("x", "float32", frames),
            TensorSpec("t", "float32", (1,)),
            TensorSpec("mu", "float32", frames),
            TensorSpec("cond", "float32", frames),
            TensorSpec("speaker", "float32", (1, mel_bins)),
            TensorSpec("guidance", "float32", (1,)),
        ),
        (TensorSpec("velocity", "float32", frames),),
    )


def flow_single_spec(mel_bins: int) -> GraphSpec:
    """Describe one row of the velocity: the released decoder runs it twice, with and without."""
    both = flow_velocity_spec(mel_bins)
    return GraphSpec(FLOW_SINGLE, both.inputs[:-1], both.outputs)


def vocoder_f0_spec(mel_bins: int) -> GraphSpec:
    """Describe mel -> fundamental frequency in Hz a frame."""
    return GraphSpec(
        VOCODER_F0,
        (TensorSpec("mel", "float32", (1, mel_bins, "F")),),
        (TensorSpec("f0_hz", "float32", (1, "F")),),
    )


def vocoder_spec(mel_bins: int) -> GraphSpec:
    """Describe mel and excitation -> audio."""
    return GraphSpec(
        VOCODER,
        (
            TensorSpec("mel", "float32", (1, mel_bins, "F")),
            TensorSpec("source", "float32", (1, 1, "T")),
        ),
        (TensorSpec("audio", "float32", (1, "T")),),
    )
