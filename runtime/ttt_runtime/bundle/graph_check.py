"""Hold the specs of a manifest's model graphs to the model that the manifest describes.

The shapes of decoder and heads follow from the model and the token layout, so nothing of a spec is
taken on trust: what the runners allocate and index by is what `graph_spec` and `gqa_spec` say.
"""

from __future__ import annotations

from ttt_ref.bounded import shown
from ttt_ref.config import ModelConfig
from ttt_ref.errors import BundleError
from ttt_runtime.bundle.gqa_spec import (
    BLOCK_DECODER,
    ROTARY_ROWS,
    gqa_decoder_spec,
    is_gqa,
    logits_only_head_spec,
)
from ttt_runtime.bundle.graph_spec import (
    DECODER,
    SPEECH_HEAD,
    TEXT_HEAD,
    GraphSpec,
    TensorSpec,
    decoder_spec,
    speech_head_spec,
    text_head_spec,
)

_CACHE_LAYOUT = "cache_layout"


def check_graph(name: str, spec: GraphSpec, model: ModelConfig, audio_start: int) -> None:
    """Raise BundleError if a graph's spec does not follow from the model.

    Args:
        name: the graph's name in the manifest; those that are not the model's may be anything.
        spec: what the manifest says of it.
        model, audio_start: of the same manifest.
    """
    if name in (DECODER, BLOCK_DECODER):
        compare_specs(name, spec, _decoder(name, spec, model))
    elif name in (TEXT_HEAD, SPEECH_HEAD):
        make = text_head_spec if name == TEXT_HEAD else speech_head_spec
        expected = make(model, audio_start, spec.input("hidden").dtype)
        if len(spec.outputs) == 1:
            expected = logits_only_head_spec(expected)
        compare_specs(name, spec, expected)


def _decoder(name: str, spec: GraphSpec, model: ModelConfig) -> GraphSpec:
    if is_gqa(spec):
        rows = spec.attributes.get(ROTARY_ROWS)
        longest = 2 * max(model.max_position_embeddings, 1 << 16)
        if isinstance(rows, bool) or not isinstance(rows, int) or not 1 <= rows <= longest:
            raise BundleError(
                f"graph {name}: {ROTARY_ROWS} is {shown(rows)}; expected a whole number of 1 to "
                f"{longest}; export the bundle again"
            )
        return gqa_decoder_spec(model, rows, name)
    layout = spec.attributes.get(_CACHE_LAYOUT)
    if layout not in ("rows", "heads"):
        raise BundleError(
            f"graph {name}: {_CACHE_LAYOUT} is {shown(layout)}; expected rows or heads; export the "
            "bundle again"
        )
    width = spec.input("mask").shape[-1:]
    return decoder_spec(
        model,
        width[0] if width else "C",
        spec.input("embeds").dtype,
        "rows" if layout == "rows" else "heads",
        spec.input("past_k.0").dtype,
    )


def compare_specs(name: str, spec: GraphSpec, expected: GraphSpec, source: str = "model") -> None:
    """Raise BundleError unless a spec has the inputs and outputs that its `source` asks for."""
    if spec.name != name:
        raise BundleError(f"graph {name} calls itself {spec.name!r}; export the bundle again")
    for kind, have, want in (
        ("input", spec.inputs, expected.inputs),
        ("output", spec.outputs, expected.outputs),
    ):
        if have == want:
            continue
        wrong = next((pair for pair in zip(have, want, strict=False) if pair[0] != pair[1]), None)
        if wrong is None:
            raise BundleError(
                f"graph {name} has {len(have)} {kind}s, the {source} asks for {len(want)}; "
                "export the bundle again"
            )
        raise BundleError(
            f"graph {name}: {kind} {_said(wrong[0])}; the {source} asks for {_said(wrong[1])}; "
            "export the bundle again"
        )


def _said(tensor: TensorSpec) -> str:
    return f"{tensor.name} {tensor.dtype} {shown(list(tensor.shape))}"
