"""The runtime and the reference say the same, id for id, on prompts nobody chose."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ttt_ref.config import GenerationConfig
from ttt_ref.generate import generate
from ttt_runtime.decode.engine import SpeechEngine

CONFIGS = [
    GenerationConfig(
        max_gen_len=48,
        diffusion_steps=steps,
        diffusion_gen_length=length,
        block_length=block,
        cfg_scale=scale,
        min_text_tokens_after_audio=ban,
    )
    for steps, length, block, scale, ban in (
        (12, 24, 4, 0.0, 0),
        (12, 24, 4, 0.5, 0),
        (8, 16, 8, 0.0, 3),
        (6, 26, 13, 0.1, 0),
        (2, 26, 26, 0.1, 2),
        (10, 32, 32, 0.0, 0),
        (10, 10, 5, 1.5, 0),
    )
]


def random_prompt(layout, draw):
    """Chat-like at times, often not: runs of text and audio, now and then open at the end."""
    ids = [layout.im_start_id]
    for _ in range(int(draw.integers(1, 4))):
        ids += draw.integers(0, layout.audio_start, int(draw.integers(1, 12))).tolist()
        codes = draw.integers(0, layout.num_codes, int(draw.integers(0, 14)))
        ids += (codes + layout.code_offset).tolist()
    if draw.random() < 0.5:
        ids.append(layout.begin_ids[int(draw.integers(0, 2))])
    elif draw.random() < 0.8:
        ids += [layout.im_end_id, layout.im_start_id]
    return ids


def compare(count, checkpoints, exported, load_once):
    """Return how many prompts were compared and how many of them held a span."""
    with_span = 0
    for checkpoint in checkpoints:
        model, _, layout = load_once(checkpoint)
        engine = SpeechEngine.from_bundle(exported(checkpoint).path, threads=1, capacity=512)
        for number in range(count):
            draw = np.random.default_rng([7, number])
            prompt, config = random_prompt(layout, draw), CONFIGS[number % len(CONFIGS)]
            with torch.no_grad():
                want = generate(model, layout, prompt, config)
            got = engine.generate_ids(prompt, config)
            assert got == want, f"{checkpoint.name}, prompt {number}, {config}"
            with_span += any(layout.is_audio(i) for i in want)
    return with_span


def test_golden_checkpoints_same_ids(golden_checkpoints, exported, load_once):
    with_span = compare(14 // len(golden_checkpoints), golden_checkpoints, exported, load_once)
    assert with_span >= 7, "the sample hardly speaks; it would prove nothing about spans"


def test_untied_checkpoint_same_ids(untied, exported, load_once):
    assert compare(7, [untied], exported, load_once) >= 1


@pytest.mark.slow
def test_golden_checkpoints_same_ids_on_500_prompts(golden_checkpoints, exported, load_once):
    with_span = compare(500 // len(golden_checkpoints), golden_checkpoints, exported, load_once)
    assert with_span >= 150
