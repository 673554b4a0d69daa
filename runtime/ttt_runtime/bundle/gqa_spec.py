"""The decoder as onnxruntime's CPU runs it fastest: what its graph takes and gives.

The standard form (see `graph_spec`) is standard ONNX. This one is made of it for the CPU alone:
one GroupQueryAttention node (not causal, with a mask) does rotation, cache and attention of a
layer in place, so the cache is a buffer of fixed rows of which no forward touches more than are
written, and nothing is bound anew as the context grows but the mask. Its rows Q are the last of
the T rows of context, the mask's width.

    Q  query rows of one forward      T  rows of context, these included
    C  rows of the cache buffer
"""

from __future__ import annotations

from typing import Final

from ttt_ref.config import ModelConfig
from ttt_runtime.bundle.graph_spec import (
    DECODER,
    GraphSpec,
    TensorSpec,
    cache_shape,
    past_names,
    present_names,
)

BLOCK_DECODER: Final = "block_decoder"  # the optional second body, for forwards of many rows
ATTENTION: Final = "attention"
GQA_FORM: Final = "grouped"  # the word that bundles store
# Rows of the tables of rotary angles in the graph: the longest context that it can run.
ROTARY_ROWS: Final = "rotary_rows"


def gqa_decoder_spec(
    model: ModelConfig, rotary_rows: int, name: str = DECODER, **attributes: str
) -> GraphSpec:
    """Describe the decoder in its GQA form; all floats are float32.

    Args:
        model: shape of the model.
        rotary_rows: rows of the tables of rotary angles.
        name: `DECODER` or `BLOCK_DECODER`.
        attributes: more attributes, such as how the weights are stored.
    """
    shape = cache_shape(model, "C", "heads")
    hidden = (1, "Q", model.hidden_size)
    layers = model.num_hidden_layers
    return GraphSpec(
        name,
        (
            TensorSpec("embeds", "float32", hidden),
            TensorSpec("positions", "int64", (1, "Q")),
            TensorSpec("mask", "bool", ("Q", "T")),
            *(TensorSpec(past, "float32", shape) for past in past_names(layers)),
        ),
        (
            TensorSpec("hidden", "float32", hidden),
            *(TensorSpec(present, "float32", shape) for present in present_names(layers)),
        ),
        {"cache_layout": "heads", ATTENTION: GQA_FORM, ROTARY_ROWS: rotary_rows, **attributes},
    )


def logits_only_head_spec(standard: GraphSpec) -> GraphSpec:
    """Describe a head that gives logits and nothing more, made of a standard head."""
    return GraphSpec(standard.name, (standard.input("hidden"),), (standard.output("logits"),))


def is_gqa(spec: GraphSpec) -> bool:
    """Tell whether a decoder has this form."""
    return spec.attributes.get(ATTENTION) == GQA_FORM
