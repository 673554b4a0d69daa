from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ttt_ref.mask import attend_mask
from ttt_ref.model import rotary_table, rotate

AUDIO_START = 10


def brute_force(ids, key_mask):
    """The rule, pair by pair, in words: look back, or stay inside one run of audio."""
    rows, length = ids.shape
    allow = torch.zeros(rows, length, length, dtype=torch.bool)
    for b in range(rows):
        for i in range(length):
            for j in range(length):
                between = ids[b, min(i, j) : max(i, j) + 1]
                same_run = bool((between >= AUDIO_START).all())
                allow[b, i, j] = (j <= i or same_run) and bool(key_mask[b, j])
    return allow


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from([1, 10, 11]), st.booleans()), min_size=1, max_size=12))
def test_mask_rule(tokens):
    ids = torch.tensor([[token for token, _ in tokens]])
    key_mask = torch.tensor([[known for _, known in tokens]])
    assert torch.equal(attend_mask(ids, AUDIO_START, key_mask), brute_force(ids, key_mask))
    everything = torch.ones_like(key_mask)
    assert torch.equal(attend_mask(ids, AUDIO_START), brute_force(ids, everything))


@torch.no_grad()
def test_right_padding_changes_nothing(tiny):
    model, _, layout = tiny
    ids = torch.tensor([[1, 2, layout.begin_of_audio_id, layout.code_offset, layout.mask_id, 3]])
    alone = model(ids, attend_mask(ids, layout.audio_start))
    padded = torch.nn.functional.pad(ids, (0, 4), value=layout.pad_id)
    attend = attend_mask(padded, layout.audio_start, padded != layout.pad_id)
    torch.testing.assert_close(model(padded, attend)[:, :6], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_left_padding_gives_numbers_and_leaves_real_rows_alone(tiny):
    """Rows that may attend to nothing must not become NaN, nor reach any other row."""
    model, _, layout = tiny
    ids = torch.tensor([[layout.pad_id, layout.pad_id, 4, 5, layout.code_offset]])
    attend = attend_mask(ids, layout.audio_start, ids != layout.pad_id)
    assert not attend[0, 0].any()
    logits = model(ids, attend)
    assert logits.isfinite().all()
    other = ids.clone()
    other[0, :2] = 7
    torch.testing.assert_close(model(other, attend)[:, 2:], logits[:, 2:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_reading_some_positions_equals_reading_all(tiny):
    model, _, layout = tiny
    ids = torch.randint(layout.vocab_size, (2, 9), generator=torch.Generator().manual_seed(0))
    attend = attend_mask(ids, layout.audio_start)
    read = torch.zeros(2, 9, dtype=torch.bool)
    read[0, 3] = read[1, 0] = read[1, 8] = True
    # Another row count may take another matrix kernel: equal up to rounding.
    torch.testing.assert_close(
        model(ids, attend, read), model(ids, attend)[read], atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_without_a_mask_attention_is_causal(tiny):
    model = tiny.model
    ids = torch.tensor([[1, 2, 3, 4]])
    changed = torch.tensor([[1, 2, 3, 9]])
    torch.testing.assert_close(model(ids)[:, :3], model(changed)[:, :3])
    assert not torch.allclose(model(ids)[:, 3], model(changed)[:, 3])


def test_rotary_scores_depend_on_distance_only(tiny):
    cos, sin = rotary_table(8, tiny.model.config, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, tiny.model.config.head_dim, generator=generator)
    q, k = rotate(q.expand(1, 1, 8, -1), cos, sin), rotate(k.expand(1, 1, 8, -1), cos, sin)
    scores = (q @ k.transpose(-1, -2))[0, 0]
    for distance in range(8):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=0)
    assert scores[7, 0].item() != pytest.approx(scores[7, 7].item(), abs=1e-3)


def test_init_weights_fill_everything(tiny):
    model = tiny.model
    model.init_weights(torch.Generator().manual_seed(0))
    state = model.state_dict()
    assert state["model.norm.weight"].eq(1).all()
    assert state["model.layers.0.self_attn.q_proj.bias"].eq(0).all()
    assert state["model.embed_tokens.weight"].std().item() == pytest.approx(0.02, rel=0.1)
