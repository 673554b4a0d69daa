"""The reference gives the numbers of the released implementation."""

from __future__ import annotations

import random

import numpy as np
import torch

from ttt_ref.batch import Batch, collate, maskable_after_prompt
from ttt_ref.config import GenerationConfig
from ttt_ref.generate import StepTrace, generate
from ttt_ref.losses import draw_noise, training_loss
from ttt_ref.mask import attend_mask
from ttt_ref.noise import NoiseConfig
from ttt_ref.preprocess import Encoder, PreprocessConfig

TOLERANCE = 1e-4
PATHS = {"clean": "ar", "diffusion": "diffusion"}


def allow_of(case, layout):
    key_mask = torch.from_numpy(case["attention_mask"]) if "attention_mask" in case else None
    return attend_mask(torch.from_numpy(case["input_ids"]), layout.audio_start, key_mask)


def test_golden_masks(masks_case, load_once):
    layout = load_once(masks_case.checkpoint).layout
    assert np.array_equal(allow_of(masks_case, layout).numpy(), masks_case["allow"])


@torch.no_grad()
def test_golden_logits(logits_case, load_once):
    model, _, layout = load_once(logits_case.checkpoint)
    logits = model(torch.from_numpy(logits_case["input_ids"]), allow_of(logits_case, layout))
    for mode in logits_case.args["mode"]:
        expected = logits_case[f"logits_{mode}"]
        np.testing.assert_allclose(logits.numpy(), expected, rtol=0, atol=TOLERANCE)


def batch_of(case):
    ids = torch.from_numpy(case["input_ids"])
    # The released forward takes absent prompt lengths for zeros: nothing is prompt.
    prompt_lengths = torch.zeros(len(ids), dtype=torch.long)
    if "prompt_lengths" in case:
        prompt_lengths = torch.from_numpy(case["prompt_lengths"])
    return Batch(
        ids=ids,
        labels=torch.from_numpy(case["labels"]),
        key_mask=torch.from_numpy(case["attention_mask"]).bool(),
        maskable=maskable_after_prompt(prompt_lengths, ids.shape[1]),
    )


def test_golden_noise(losses_case, load_once):
    """A seed of torch's global generator gives the very masks that the released code drew."""
    if "noisy_ids" not in losses_case:
        assert losses_case.results["path"] == "clean"
    layout = load_once(losses_case.checkpoint).layout
    args, batch = losses_case.args, batch_of(losses_case)
    noise = NoiseConfig(args["unmasked_audio_prob"], args["prefix_preservation_ratio"])
    torch.manual_seed(args["seed"])
    noised = draw_noise(batch, layout, noise, mode=args["mode"], training=args["train_mode"])
    assert (noised is not None) == ("noisy_ids" in losses_case)
    if noised is None:
        return
    shape = batch.ids.shape
    assert np.array_equal(noised.ids, losses_case["noisy_ids"])
    assert np.array_equal(noised.masked, losses_case["masked_indices"])
    np.testing.assert_allclose(
        noised.mask_prob[:, None].expand(shape), losses_case["p_mask"], rtol=1e-6
    )
    assert np.array_equal(
        noised.answer_tokens[:, None].expand(shape), losses_case["answer_lengths"]
    )


def test_golden_losses(losses_case, load_once):
    model, _, layout = load_once(losses_case.checkpoint)
    args = losses_case.args
    model.train(args["train_mode"])
    losses = training_loss(
        model,
        layout,
        batch_of(losses_case),
        NoiseConfig(args["unmasked_audio_prob"], args["prefix_preservation_ratio"]),
        torch.Generator().manual_seed(args["seed"]),
        mode=args["mode"],
        num_items_in_batch=args["num_items_in_batch"],
    )
    assert losses.path == PATHS[losses_case.results["path"]]
    assert losses.masked_tokens == losses_case.results["masked_tokens"]
    pairs = [(losses.loss.detach(), "loss"), (losses.text, "ar_loss")]
    if "diff_loss" in losses_case:
        pairs.append((losses.speech, "diff_loss"))
    for computed, name in pairs:
        expected = float(losses_case[name])
        assert abs(float(computed) - expected) <= TOLERANCE * max(1.0, expected), name


def test_golden_preprocess(preprocess_case, load_once):
    _, tokenizer, layout = load_once(preprocess_case.checkpoint)
    args = preprocess_case.args
    config = PreprocessConfig(
        max_len=args["max_len"],
        quad_span_truncation_prob=args.get("quad_span_truncation_prob", 0.0),
    )
    if "messages" in args:
        records = [{"messages": messages} for messages in args["messages"]]
    else:
        records = [{key: args[key] for key in ("text", "conversations") if key in args}]
    encoder, rng = Encoder(tokenizer, config), random.Random(args.get("seed"))
    examples = [encoder.encode(record, rng) for record in records]
    batch = collate(examples, layout.pad_id, length=args["max_len"])
    assert np.array_equal(batch.ids, preprocess_case["input_ids"])
    assert np.array_equal(batch.labels, preprocess_case["target_ids"])
    assert np.array_equal(batch.key_mask, preprocess_case["attention_mask"].astype(bool))
    lengths = [example.prompt_length for example in examples]
    assert lengths == preprocess_case["prompt_lengths"].tolist()


def test_golden_generation(generation_case, load_once):
    model, _, layout = load_once(generation_case.checkpoint)
    prompt = generation_case["prompt_ids"].tolist()
    steps: list[StepTrace] = []
    options = dict(generation_case.args)
    if (seed := options.pop("seed", None)) is not None:  # a sampled case
        torch.manual_seed(seed)
    config = GenerationConfig.from_dict(options)
    new_ids = generate(model, layout, prompt, config, trace=steps.append)
    assert prompt + new_ids == generation_case["output_ids"].tolist()
    if "diffusion_steps_run" in generation_case.results:
        assert len(steps) == generation_case.results["diffusion_steps_run"]
    if "trace_block" in generation_case:
        check_trace(generation_case, steps)


def check_trace(case, steps: list[StepTrace]) -> None:
    for array, field in (
        ("trace_block", "block"),
        ("trace_step", "step"),
        ("trace_start", "start"),
        ("trace_count", "count"),
        ("trace_ids_before", "ids_before"),
        ("trace_ids_after", "ids_after"),
        ("trace_pred", "predicted"),
    ):
        found = np.array([getattr(step, field) for step in steps])
        assert np.array_equal(found, case[array]), array
    confidence = np.array([step.confidence for step in steps])
    np.testing.assert_allclose(confidence, case["trace_confidence"], rtol=0, atol=TOLERANCE)
