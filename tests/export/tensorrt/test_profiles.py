"""Profiles: which ranges of rows an engine is made for, and that every forward fits one."""

from __future__ import annotations

import pytest

from tests.export.tensorrt.graphs import LAYOUT, MODEL
from ttt_export.tensorrt.profiles import SpanShape, graph_profiles, ranges_of
from ttt_ref.config import GenerationConfig
from ttt_ref.errors import ExportError
from ttt_runtime.bundle.graph_spec import GraphSpec, TensorSpec, decoder_spec, text_head_spec


def test_the_released_presets_give_text_block_span_and_prefill() -> None:
    presets = [GenerationConfig.preset(name) for name in ("script", "paper")]
    spans = SpanShape.of_presets(presets)
    assert spans.blocks == (26, 32)
    profiles = graph_profiles(decoder_spec(MODEL, 4096, "float16", "heads"), spans)
    ranges = {name: limits["Q"] for name, limits in ranges_of(profiles).items()}
    assert list(ranges) == ["text", "block", "span", "prefill"]
    assert ranges["text"] == (1, 1, 1)
    assert ranges["block"][1] == 27
    assert ranges["block"][2] >= 33
    assert ranges["span"][2] == spans.longest
    assert ranges["prefill"] == (2, 512, 4096)


@pytest.mark.parametrize("cache_rows", [128, 129, 500, 513, 4096])
@pytest.mark.parametrize("spans", [SpanShape(), SpanShape((4,), 8), SpanShape((200,), 4000)])
def test_every_number_of_rows_fits_a_profile(cache_rows: int, spans: SpanShape) -> None:
    if spans.blocks[-1] >= cache_rows:
        return
    profiles = graph_profiles(decoder_spec(MODEL, cache_rows, "float16", "heads"), spans)
    for profile in profiles:
        low, best, most = profile.ranges["Q"]
        assert 1 <= low <= best <= most <= cache_rows
    for rows in range(1, cache_rows + 1):
        assert any(low <= rows <= most for low, _, most in (p.ranges["Q"] for p in profiles))


def test_a_narrow_dynamic_range_is_never_asked_for() -> None:
    """TensorRT-RTX 1.6 and 1.7 cannot build two layers for a range that ends at 64 or below."""
    profiles = graph_profiles(decoder_spec(MODEL, 256, "float16", "heads"), SpanShape((4,), 8))
    for profile in profiles:
        low, _, most = profile.ranges["Q"]
        assert low == most or most > 64


def test_shapes_follow_the_spec() -> None:
    spec = decoder_spec(MODEL, 256, "float16", "heads")
    text, block, *_ = graph_profiles(spec, SpanShape())
    assert text.shapes(spec.input("mask")) == ((1, 256),) * 3
    assert block.shapes(spec.input("embeds"))[1] == (1, 27, MODEL.hidden_size)


def test_heads_need_no_prefill() -> None:
    profiles = graph_profiles(text_head_spec(MODEL, LAYOUT.audio_start, "float16"), SpanShape())
    assert [profile.name for profile in profiles] == ["text", "block"]


def test_an_open_cache_length_is_refused() -> None:
    with pytest.raises(ExportError, match="open dimension 'C'"):
        graph_profiles(decoder_spec(MODEL), SpanShape())


def test_a_cache_shorter_than_the_block_profile_is_refused() -> None:
    with pytest.raises(ExportError, match=r"cache of 64 rows is too short.*--cache-rows 128"):
        graph_profiles(decoder_spec(MODEL, 64, "float16", "heads"), SpanShape())


def test_an_unknown_graph_is_refused() -> None:
    spec = GraphSpec("vocoder", (TensorSpec("x", "float16", ("T",)),), ())
    with pytest.raises(ExportError, match="'vocoder' has no profiles"):
        graph_profiles(spec, SpanShape())
