"""Batch-encode a corpus to speech tokens, plainly or with seeded augmentation."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from recipes.tiny.augment import AugmentConfig, NoisePools, augment
from recipes.tiny.corpus import SAMPLE_RATE_HZ, Audio, Corpus
from recipes.tiny.workers import worker_pool
from ttt_ref.codec.builtin.tokenizer import SpeechTokenizer

Codes = npt.NDArray[np.int16]
_BATCH_SECONDS = 120.0


@dataclass(frozen=True)
class Encoded:
    """Codes [S] of one rendering; ``version`` 0.. counts the augmented versions."""

    index: int
    version: int
    codes: Codes


@dataclass(frozen=True)
class _Batch:
    """Utterances of similar length, all as recorded (``version`` None) or all degraded."""

    version: int | None
    rows: list[int]


def _batches(samples: list[int]) -> Iterator[list[int]]:
    order = sorted(range(len(samples)), key=lambda i: samples[i])
    start = 0
    while start < len(order):
        end = start + 1
        while (
            end < len(order)
            and samples[order[end]] * (end + 1 - start) <= _BATCH_SECONDS * SAMPLE_RATE_HZ
        ):
            end += 1
        yield order[start:end]
        start = end


@dataclass(frozen=True)
class _Encoding:
    """Everything that a process needs to encode a batch."""

    tokenizer: SpeechTokenizer
    corpus: Corpus
    seed: int
    config: AugmentConfig
    pools: NoisePools | None

    def audio(self, index: int, version: int | None) -> Audio:
        audio = self.corpus.audio(index)
        if version is None or self.pools is None:
            return audio
        key = zlib.crc32(self.corpus.utterances[index].id.encode())
        rng = np.random.default_rng((self.seed, 4, key, version))
        return augment(audio, rng, self.pools, self.config)

    def encode(self, batch: _Batch) -> list[Encoded]:
        """In float32: lower precision may flip codes."""
        audios = [torch.from_numpy(self.audio(i, batch.version)) for i in batch.rows]
        found = self.tokenizer.encode_batch(audios)
        return [
            Encoded(i, batch.version or 0, ids.numpy().astype(np.int16))
            for i, ids in zip(batch.rows, found, strict=True)
        ]


_of_this_process: list[_Encoding] = []


def _start_process(encoding: _Encoding) -> None:
    torch.set_num_threads(1)
    _of_this_process.append(encoding)


def _encode(batch: _Batch) -> list[Encoded]:
    return _of_this_process[0].encode(batch)


def encode_corpus(
    tokenizer: SpeechTokenizer,
    corpus: Corpus,
    versions: int = 0,
    seed: int = 0,
    config: AugmentConfig | None = None,
    pools: NoisePools | None = None,
    workers: int = 1,
) -> Iterator[Encoded]:
    """Encode every utterance of a corpus, each once as it is or ``versions`` times augmented.

    An augmented version depends on (seed, utterance id, version) only, whatever else is encoded
    and in however many processes (``workers``; 1: in this one). The order is by length, not the
    manifest's. Silence is padded by the tokenizer itself.
    """
    us = corpus.utterances
    if versions > 0 and pools is None:
        some = np.random.default_rng((seed, 2)).choice(len(us), min(len(us), 200), replace=False)
        pools = NoisePools([corpus.audio(int(i)) for i in some], seed=seed)
    encoding = _Encoding(tokenizer, corpus, seed, config or AugmentConfig(), pools)
    passes: list[int | None] = list(range(versions)) if versions > 0 else [None]
    lengths = [u.samples for u in us]
    batches = [_Batch(version, rows) for version in passes for rows in _batches(lengths)]
    if workers == 1:
        for batch in batches:
            yield from encoding.encode(batch)
        return
    with worker_pool(workers, _start_process, (encoding,)) as pool:
        for found in pool.imap(_encode, batches):
            yield from found
