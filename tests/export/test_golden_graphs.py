"""The exported fp32 graphs give the numbers and the ids of the released implementation."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from tests.conftest import golden_cases
from ttt_export.export import export_checkpoint
from ttt_export.options import ExportOptions
from ttt_ref.config import GenerationConfig
from ttt_runtime.backends.ort.runner import OrtRunner
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.decode.engine import SpeechEngine

TOLERANCE = 1e-4


@lru_cache(maxsize=4)
def runner_of(path):
    # Poisoned: unwritten cache rows are NaN, so a row read too far would show in every logit.
    return OrtRunner.from_bundle(
        Bundle.open(path), threads=1, capacity=512, bucket_rows=1, poison=True
    )


@lru_cache(maxsize=4)
def engine_of(path):
    return SpeechEngine.from_bundle(path, threads=1, capacity=512)


def all_logits(runner, ids):
    hidden = runner.forward(ids, 0)
    text = runner.text_logits(hidden, forbid_end=False)
    return np.concatenate((text, runner.speech_logits(hidden)), axis=1)


def test_golden_logits(logits_case, exported):
    runner = runner_of(exported(logits_case.checkpoint).path)
    ids = logits_case["input_ids"]
    lengths = [ids.shape[1]] * len(ids)
    if "attention_mask" in logits_case:
        mask = logits_case["attention_mask"].astype(bool)
        lengths = [int(row.sum()) for row in mask]
        # Only right padding exists in a runtime of batch 1: it is simply not fed.
        assert all(row[:length].all() for row, length in zip(mask, lengths, strict=True))
    for row, length in enumerate(lengths):
        got = all_logits(runner, ids[row, :length].tolist())
        for mode in logits_case.args["mode"]:
            want = logits_case[f"logits_{mode}"][row, :length]
            np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE)


def test_golden_logits_from_the_cache(logits_case, exported):
    """The same numbers when the prefix comes from the cache, cut anywhere between two runs."""
    runner = runner_of(exported(logits_case.checkpoint).path)
    start_of_audio = Bundle.open(exported(logits_case.checkpoint).path).config.layout.audio_start
    ids = logits_case["input_ids"][0]
    if "attention_mask" in logits_case:
        ids = ids[: int(logits_case["attention_mask"][0].sum())]
    is_audio = ids >= start_of_audio
    cuts = [i for i in range(1, len(ids)) if not (is_audio[i - 1] and is_audio[i])]
    for cut in cuts[:: max(1, len(cuts) // 3)]:
        runner.forward(ids[:cut].tolist(), 0)
        hidden = runner.forward(ids[cut:].tolist(), cut)
        text = runner.text_logits(hidden, forbid_end=False)
        got = np.concatenate((text, runner.speech_logits(hidden)), axis=1)
        want = logits_case["logits_ar"][0, cut : len(ids)]
        np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE)


# Random golden weights are a hard case: their logits reach 30, and nothing dominates.
BOUNDS = {  # largest difference of a logit over all golden cases, relative to the largest one
    ("fp16", "cpu"): 2e-3,  # weights rounded, computed in float32
    ("fp16", "cuda"): 1e-2,  # computed in float16
    ("bf16", "cpu"): 2e-2,
}


@pytest.mark.parametrize(("precision", "engine"), list(BOUNDS))
def test_golden_logits_in_half_precision(golden_checkpoints, tmp_path, precision, engine):
    """The stated bounds of 16-bit exports; bf16 graphs for GPUs cannot be run on a CPU."""
    options = ExportOptions(precision=precision, engine=engine)
    worst = 0.0
    for checkpoint in golden_checkpoints:
        out = tmp_path / checkpoint.name
        bundle = Bundle.open(export_checkpoint(checkpoint, out, options=options).path)
        runner = OrtRunner.from_bundle(bundle, threads=1, capacity=512)
        for case in golden_cases("logits"):
            if case.checkpoint != checkpoint or "attention_mask" in case:
                continue
            for row, ids in enumerate(case["input_ids"]):
                got = all_logits(runner, ids.tolist())
                want = case[f"logits_{case.args['mode'][0]}"][row]
                worst = max(worst, float(np.abs(got - want).max() / np.abs(want).max()))
    assert 0 < worst <= BOUNDS[precision, engine]


def test_golden_generation(generation_case, exported):
    engine = engine_of(exported(generation_case.checkpoint).path)
    prompt = generation_case["prompt_ids"].tolist()
    config = GenerationConfig.from_dict(generation_case.args)
    engine.reset()
    new_ids = engine.generate_ids(prompt, config)
    assert prompt + new_ids == generation_case["output_ids"].tolist()
