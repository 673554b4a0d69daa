"""A tiny transformer in float64 numpy: a runner for the engine, and the oracle it is held to.

The oracle knows no cache, no scheduler and no scratch row: it computes the whole sequence for
every decision and writes the generation rules down as nested loops.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ttt_ref.config import GenerationConfig, TokenLayout
from ttt_runtime.backends.base import HeadBest

Array = NDArray[np.float64]

HIDDEN, HEAD_DIM, HEADS, LAYERS = 16, 8, 2, 2
FORBIDDEN = -1e30


def toy_layout(codes: int = 6) -> TokenLayout:
    """9 text ids (0..8), then the audio side: marker, codes, mask, two end tokens."""
    return TokenLayout(
        vocab_size=9 + 1 + codes + 3,
        audio_start=9,
        code_offset=10,
        num_codes=codes,
        mask_id=10 + codes,
        begin_of_audio_id=6,
        end_of_audio_id=7,
        begin_of_quad_id=8,
        end_of_audio_new_id=11 + codes,
        end_of_audio_span_last_id=12 + codes,
        im_start_id=4,
        im_end_id=5,
        pad_id=3,
    )


class ToyModel:
    """Random weights. `taste` raises the logits of some ids, so that spans and ends do happen."""

    def __init__(self, layout: TokenLayout, seed: int, taste: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        self.layout = layout
        width = HEADS * HEAD_DIM
        self.table = rng.normal(0, 1, (layout.vocab_size, HIDDEN))
        self.wq, self.wk, self.wv = (rng.normal(0, 0.5, (LAYERS, HIDDEN, width)) for _ in range(3))
        self.wo = rng.normal(0, 0.5, (LAYERS, width, HIDDEN))
        self.head = rng.normal(0, 1, (HIDDEN, layout.vocab_size))
        # Pull the output towards interesting ids through one constant direction of the hidden row.
        for token in (layout.begin_of_quad_id, *layout.end_ids, layout.im_end_id):
            self.head[0, token] += taste

    @staticmethod
    def rotate(x: Array, positions: NDArray[np.int64]) -> Array:
        """Rotary positions on [L, heads, D]."""
        half = x.shape[-1] // 2
        angle = positions[:, None, None] * 0.5 ** np.arange(half)
        a, b = x[..., :half], x[..., half:]
        return np.concatenate(
            [a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)], -1
        )

    def logits(self, hidden: Array) -> Array:
        """Linear head without bias: [N, hidden] -> [N, V]."""
        return hidden @ self.head

    def project(self, layer: int, x: Array, positions: NDArray[np.int64]) -> tuple[Array, ...]:
        """Return q, k, v [L, heads, D]."""
        normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        q, k, v = (
            (normed @ w[layer]).reshape(len(x), HEADS, HEAD_DIM)
            for w in (self.wq, self.wk, self.wv)
        )
        return self.rotate(q, positions), self.rotate(k, positions), v

    def attend(self, layer: int, x: Array, q: Array, k: Array, v: Array, allow: Array) -> Array:
        """One layer's attention added to x; `allow` [Q, K]."""
        scores = q.swapaxes(0, 1) @ k.transpose(1, 2, 0) / np.sqrt(HEAD_DIM)  # [heads, Q, K]
        scores = np.where(allow, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = (weights @ v.swapaxes(0, 1)).swapaxes(0, 1).reshape(len(x), -1)
        x = x + mixed @ self.wo[layer]
        return x + np.tanh(x)

    def final(self, x: Array) -> Array:
        """Last norm; the first value is constant so that `taste` can act."""
        hidden = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        hidden[:, 0] = 1.0
        return hidden


class ToyRunner:
    """The runner protocol on a ToyModel, with a real KV cache that is NaN where unwritten."""

    top_k_finder = None
    note = None

    def __init__(self, model: ToyModel, capacity: int = 512) -> None:
        self.model = model
        self.capacity = capacity
        self.runs_in = "numpy"
        shape = (2, LAYERS, 2, capacity, HEADS, HEAD_DIM)  # main/scratch, layer, k/v
        self.cache = np.full(shape, np.nan)
        self.calls: list[tuple[int, int, bool]] = []  # start, rows, scratch

    def forward(
        self,
        ids: Sequence[int],
        start: int,
        *,
        positions: Sequence[int] | None = None,
        scratch: bool = False,
    ) -> Array:
        self.calls.append((start, len(ids), scratch))
        model, layout = self.model, self.model.layout
        stop = start + len(ids)
        assert stop <= self.capacity
        self.cache[int(scratch), :, :, start:] = np.nan
        last_seen = list(range(start, stop))  # a row sees up to itself, or to its run's end
        for q in range(len(ids) - 2, -1, -1):
            if layout.is_audio(ids[q]) and layout.is_audio(ids[q + 1]):
                last_seen[q] = last_seen[q + 1]
        allow = np.arange(stop)[None, :] <= np.array(last_seen)[:, None]
        at = np.arange(start, stop) if positions is None else np.array(positions)
        x = model.table[list(ids)]
        for layer in range(LAYERS):
            q, k, v = model.project(layer, x, at)
            keys, values = self.cache[int(scratch), layer]
            keys[start:stop], values[start:stop] = k, v
            x = model.attend(layer, x, q, keys[:stop], values[:stop], allow)
        hidden = model.final(x)
        assert np.isfinite(hidden).all(), "a cache row was read that nobody wrote"
        return hidden

    def _best(self, logits: Array, offset: int) -> HeadBest:
        best = logits.argmax(1)
        top = logits.max(1)
        return HeadBest(best + offset, top, np.exp(logits - top[:, None]).sum(1))

    def text_best(self, hidden: Array, *, forbid_end: bool) -> HeadBest:
        return self._best(self.text_logits(hidden, forbid_end=forbid_end), 0)

    def speech_best(self, hidden: Array) -> HeadBest:
        return self._best(self.speech_logits(hidden), self.model.layout.audio_start)

    def text_logits(self, hidden: Array, *, forbid_end: bool) -> Array:
        logits = self.model.logits(hidden)[:, : self.model.layout.audio_start]
        if forbid_end:
            logits[:, self.model.layout.im_end_id] += FORBIDDEN
        return logits

    def speech_logits(self, hidden: Array) -> Array:
        return self.model.logits(hidden)[:, self.model.layout.audio_start :]


def full_hidden(model: ToyModel, ids: Sequence[int]) -> Array:
    """The whole sequence at once, without a cache."""
    layout = model.layout
    is_audio = np.array([layout.is_audio(i) for i in ids])
    run = np.cumsum(~is_audio)
    allow = np.tri(len(ids), dtype=bool)
    allow |= (run[:, None] == run[None, :]) & is_audio[:, None] & is_audio[None, :]
    positions = np.arange(len(ids))
    x = model.table[list(ids)]
    for layer in range(LAYERS):
        q, k, v = model.project(layer, x, positions)
        x = model.attend(layer, x, q, k, v, allow)
    return model.final(x)


def oracle(model: ToyModel, prompt: Sequence[int], config: GenerationConfig) -> list[int]:
    """Greedy generation by the written rules, everything computed anew for every decision."""
    layout = model.layout
    ids, ban, mode = list(prompt), 0, "text"
    while len(ids) - len(prompt) < config.max_gen_len:
        if mode == "text":
            logits = model.logits(full_hidden(model, ids))[-1].copy()
            if ban > 0:
                logits[layout.im_end_id] = -np.inf
            token = int(logits.argmax())
            ids.append(token)
            if token == layout.im_end_id:
                break
            if token in layout.begin_ids:
                mode, ban = "span", 0
            elif ban > 0:
                ban -= 1
            continue
        steps = config.steps_per_block()
        for _ in range(config.diffusion_gen_length // config.block_length):
            start = len(ids)
            ids += [layout.mask_id] * config.block_length
            base, remainder = divmod(config.block_length, steps)
            for step in range(steps):
                logits = model.logits(full_hidden(model, ids))[start:]
                if config.cfg_scale > 0:
                    blank = [layout.mask_id] * start + ids[start:]
                    free = model.logits(full_hidden(model, blank))[start:]
                    logits = free + (config.cfg_scale + 1) * (logits - free)
                logits[:, layout.im_end_id] = -np.inf
                weights = np.exp(logits - logits.max(1, keepdims=True))
                probability = (weights / weights.sum(1, keepdims=True)).max(1)
                best = logits.argmax(1)
                still_open = [
                    i for i in range(config.block_length) if ids[start + i] == layout.mask_id
                ]
                still_open.sort(key=lambda i: -probability[i])
                for i in still_open[: base + (step < remainder)]:
                    ids[start + i] = int(best[i])
            ends = [p for p in range(start, len(ids)) if ids[p] in layout.end_ids]
            if ends:
                del ids[ends[0] + 1 :]
                mode = "text"
                ban = max(ban, config.min_text_tokens_after_audio)
                break
    return ids[len(prompt) :]
