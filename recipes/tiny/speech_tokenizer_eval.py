"""How well a tokenizer hears and how stable its codes are, engine by engine."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recipes.tiny.augment import NoisePools, noisy
from recipes.tiny.corpus import Audio, Corpus
from recipes.tiny.labels import Labels, distance
from ttt_ref.codec.builtin.layers import digits_to_ids
from ttt_ref.codec.builtin.tokenizer import CtcHead, SpeechTokenizer

NOISES = {"white20": ("white", 20.0), "white10": ("white", 10.0), "babble10": ("babble", 10.0)}
QUIET_GAIN = np.float32(0.25)


def evaluate(
    tokenizer: SpeechTokenizer,
    head: CtcHead,
    labels: Labels,
    corpus: Corpus,
    pools: NoisePools,
    per_group: int,
) -> dict[str, dict[str, float]]:
    """Measure a sample of each split and engine.

    Returns:
        By "split/engine": the phoneme error rate clean, in noise and 12 dB quieter; the share of
        tokens that stay equal to the clean ones; how many codes are used, and their perplexity.
    """
    tokenizer.eval()
    head.eval()
    groups: dict[str, list[int]] = {}
    for i, u in enumerate(corpus.utterances):
        groups.setdefault(f"{u.split}/{u.engine}", []).append(i)
    report = {}
    for name, members in sorted(groups.items()):
        pick = [int(i) for i in np.random.default_rng(5).permutation(members)[:per_group]]
        clean = [corpus.audio(i) for i in pick]
        wanted = [labels.encode(corpus.utterances[i])[0] for i in pick]
        total = max(1, sum(len(w) for w in wanted))
        conditions = {"clean": clean, "quiet": [a * QUIET_GAIN for a in clean]}
        for noise, (kind, snr_db) in NOISES.items():
            if kind in pools.pools:
                conditions[noise] = [
                    noisy(a, kind, snr_db, pools, seed=k) for k, a in enumerate(clean)
                ]
        result: dict[str, float] = {}
        reference: list[Tensor] = []
        for condition, audios in conditions.items():
            ids, heard = recognise(tokenizer, head, audios)
            errors = sum(distance(h, w) for h, w in zip(heard, wanted, strict=True))
            result[f"per_{condition}"] = errors / total
            if condition == "clean":
                reference = ids
                continue
            same = sum(int((a == b).sum()) for a, b in zip(reference, ids, strict=True))
            result[f"equal_{condition}"] = same / sum(len(a) for a in reference)
        every = torch.cat(reference)
        share = torch.bincount(every, minlength=tokenizer.num_codes).float() / len(every)
        result["codes"] = float((share > 0).sum())
        result["perplexity"] = float(torch.exp(-(share * torch.log(share + 1e-12)).sum()))
        report[name] = {k: round(v, 4) for k, v in result.items()}
    return report


@torch.inference_mode()
def recognise(
    tokenizer: SpeechTokenizer, head: CtcHead, audios: list[Audio]
) -> tuple[list[Tensor], list[list[int]]]:
    """Ids [S] and greedily read phonemes of each utterance."""
    ids: list[Tensor] = []
    heard: list[list[int]] = []
    for start in range(0, len(audios), 20):
        part = [torch.from_numpy(a) for a in audios[start : start + 20]]
        audio, counts = tokenizer.pad_batch(part)
        u = tokenizer.encoder(tokenizer.mel(audio), counts)
        best = head(u.round(), counts)[0].argmax(2)
        codes = digits_to_ids(u)
        for row, count in enumerate(counts.tolist()):
            ids.append(codes[row, :count])
            path = torch.unique_consecutive(best[row, : 2 * count]).tolist()
            heard.append([p for p in path if p])
    return ids, heard
