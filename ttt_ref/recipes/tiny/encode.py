"""Batch-encode a corpus to speech tokens, plainly or with seeded augmentation."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ttt_ref.codec.builtin.tokenizer import SpeechTokenizer
from ttt_ref.recipes.tiny.augment import AugmentConfig, NoisePools, augment
from ttt_ref.recipes.tiny.corpus import SAMPLE_RATE_HZ, Audio, Corpus

Codes = npt.NDArray[np.int16]


@dataclass(frozen=True)
class Encoded:
    """Codes [S] of one rendering; ``version`` 0.. counts the augmented versions."""

    index: int
    version: int
    codes: Codes


def encode_audios(
    tokenizer: SpeechTokenizer,
    audio_of: Callable[[int], Audio],
    samples: list[int],
    batch_s: float = 120.0,
) -> Iterator[tuple[int, Codes]]:
    """Encode utterances 0..n-1 in batches of similar length; yields (index, codes [S]).

    In float32: lower precision may flip codes.
    """
    order = sorted(range(len(samples)), key=lambda i: samples[i])
    start = 0
    while start < len(order):
        end = start + 1
        while (
            end < len(order) and samples[order[end]] * (end + 1 - start) <= batch_s * SAMPLE_RATE_HZ
        ):
            end += 1
        rows = order[start:end]
        audios = [torch.from_numpy(np.ascontiguousarray(audio_of(i))) for i in rows]
        for i, ids in zip(rows, tokenizer.encode_batch(audios), strict=True):
            yield i, ids.numpy().astype(np.int16)
        start = end


def encode_corpus(
    tokenizer: SpeechTokenizer,
    corpus: Corpus,
    versions: int = 0,
    seed: int = 0,
    config: AugmentConfig | None = None,
    pools: NoisePools | None = None,
) -> Iterator[Encoded]:
    """Encode every utterance of a corpus, each once as it is or ``versions`` times augmented.

    An augmented version depends on (seed, utterance id, version) only, whatever else is encoded.
    The order is by length, not the manifest's. Silence is padded by the tokenizer itself.
    """
    us = corpus.utterances
    if versions == 0:
        for i, codes in encode_audios(tokenizer, corpus.audio, [u.samples for u in us]):
            yield Encoded(i, 0, codes)
        return
    if pools is None:
        some = np.random.default_rng((seed, 2)).choice(len(us), min(len(us), 200), replace=False)
        pools = NoisePools([corpus.audio(int(i)) for i in some], seed=seed)
    chosen = config or AugmentConfig()
    for version in range(versions):

        def augmented(i: int, version: int = version, pools: NoisePools = pools) -> Audio:
            key = zlib.crc32(us[i].id.encode())
            rng = np.random.default_rng((seed, 4, key, version))
            return augment(corpus.audio(i), rng, pools, chosen)

        for i, codes in encode_audios(tokenizer, augmented, [u.samples for u in us]):
            yield Encoded(i, version, codes)
