"""Tokenize speech while it is being spoken.

A block of 200 positions (4 s) sees itself and what came before it. Closed blocks are encoded once
and keep only their keys and values; when the speaker stops, one open block is left to do.

One thing makes a closed block change later: features are limited to 80 dB below the loudest cell
of their 30 s segment. When a louder moment lifts that floor above a cell of a closed block, the
segment is encoded again from that block on. Tokens are therefore given out as final at the end of
their segment; :attr:`EncodeStream.closed_ids` shows them earlier.

Axis letters: F 10 ms mel frames, L 20 ms positions, S speech tokens, T samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ttt_ref.codec.glm4voice.config import SAMPLES_PER_TOKEN, SEGMENT_SAMPLES
from ttt_ref.codec.glm4voice.logmel import HOP, N_FFT, RANGE_LOG10, limit_range, log10_mel
from ttt_ref.codec.glm4voice.tokenizer import KeyValue, SpeechEncoder
from ttt_ref.errors import AudioError

HALO_FRAMES = 4  # mel frames before a block that its two convolutions still see
SETTLE_SAMPLES = 8_000  # no louder cell for 0.5 s: now a changed floor is worth a new encoding


def encode_block(
    encoder: SpeechEncoder,
    features: Tensor,
    started: Tensor,
    positions: Tensor,
    valid: Tensor,
    past: list[KeyValue],
) -> tuple[Tensor, list[KeyValue]]:
    """Encode one block behind the keys and values of the earlier ones.

    Args:
        encoder: the tokenizer's encoder.
        features: [1, M, 4 + 2 L]; the first four frames are those before the block, or zero.
        started: [1], 0 for a segment's first block and 1 for the others.
        positions: number of each position in its segment, int64 [L].
        valid: bool [P + L], False for positions of padding.
        past: a layer's keys and values [1, P, C] each.

    Returns:
        ids int64 [1, L / 4] and each layer's keys and values [1, L, C] of this block.
    """
    x = functional.gelu(encoder.conv1(features))  # [1, C, 2 + 2 L]
    # Before a segment the second convolution sees zeros, not what the first makes of zeros.
    edge = torch.ones_like(x[:, :1])
    edge[:, :, :2] = started
    x = functional.gelu(encoder.conv2(x * edge)).transpose(1, 2)
    x = x + encoder.embed_positions(positions)
    new: list[KeyValue] = []
    for layer, kept in zip(encoder.layers, past, strict=True):
        x, made = layer(x, valid[None, None, None], kept)
        new.append(made)
    ids, _ = encoder.quantize(encoder.pool(x))
    return ids, new


@dataclass
class _Block:
    """A closed block: its tokens, its keys and values, and the floor it was encoded with."""

    ids: Tensor
    cache: list[KeyValue]
    floor: float


class EncodeStream:
    """One recording on its way through the tokenizer: 16 kHz audio in, final tokens out."""

    def __init__(self, encoder: SpeechEncoder) -> None:
        self._encoder = encoder
        self._block_frames = 2 * encoder.config.block_frames
        self._finished = False
        self._new_segment()

    def _new_segment(self) -> None:
        self._audio = torch.zeros(0)
        self._log10 = torch.zeros(self._encoder.config.mel_bins, 0)
        self._peak = -torch.inf
        self._peak_sample = 0
        self._blocks: list[_Block] = []

    @property
    def closed_ids(self) -> Tensor:
        """Tokens of the closed blocks of the current segment; they may still change."""
        return torch.cat([torch.zeros(0, dtype=torch.int64), *(b.ids for b in self._blocks)])

    def push(self, audio: Tensor) -> Tensor:
        """Take audio float32 [T] at 16 kHz; return the tokens int64 [S] that became final."""
        if self._finished:
            raise AudioError("audio for a stream that was finished; open a new one")
        if audio.dim() != 1 or not torch.isfinite(audio).all():
            raise AudioError("audio must be one channel of finite samples; check the recording")
        final = [torch.zeros(0, dtype=torch.int64)]
        while len(audio):
            room = SEGMENT_SAMPLES - len(self._audio)
            self._audio = torch.cat((self._audio, audio[:room].float()))
            audio = audio[room:]
            if len(self._audio) == SEGMENT_SAMPLES:
                final.append(self._close_segment())
            else:
                self._advance()
        return torch.cat(final)

    def finish(self) -> Tensor:
        """Return the remaining tokens int64 [S]; the stream takes no more."""
        self._finished = True
        if not len(self._audio):
            return torch.zeros(0, dtype=torch.int64)
        return self._close_segment()

    def _append_frames(self, frames: Tensor) -> None:
        if not frames.shape[1]:
            return
        if (top := float(frames.max())) > self._peak:
            self._peak, self._peak_sample = top, len(self._audio)
        self._log10 = torch.cat((self._log10, frames), 1)

    def _advance(self) -> None:
        """Make the frames that the audio allows, and encode blocks that they complete."""
        have = self._log10.shape[1]
        ready = (len(self._audio) - N_FFT // 2) // HOP + 1  # frames that need no sample to come
        if ready > have:
            # Start three frames early: the first two would see the reflected edge of the cut.
            begin = max(0, have - 3)
            piece = self._audio[begin * HOP : (ready - 1) * HOP + N_FFT // 2]
            padded = functional.pad(piece, (0, -len(piece) % HOP + N_FFT))
            fresh = log10_mel(padded, self._log10.shape[0])
            self._append_frames(fresh[:, have - begin : ready - begin])
        if len(self._audio) - self._peak_sample >= SETTLE_SAMPLES:
            self._drop_changed()
        while (len(self._blocks) + 1) * self._block_frames <= self._log10.shape[1]:
            self._encode_next(self._block_frames, self._block_frames)

    def _drop_changed(self) -> None:
        """Forget closed blocks from the first whose features the present floor changes."""
        floor = self._peak - RANGE_LOG10
        for number, block in enumerate(self._blocks):
            begin = number * self._block_frames
            lowest = float(self._log10[:, begin : begin + self._block_frames].min())
            if floor > max(lowest, block.floor):
                del self._blocks[number:]
                return

    def _encode_next(self, frames: int, valid_frames: int) -> Tensor:
        """Encode the block after the closed ones and keep it."""
        begin = len(self._blocks) * self._block_frames
        part = self._log10[:, max(0, begin - HALO_FRAMES) : begin + frames]
        features = limit_range(part, self._peak)
        if not begin:
            features = functional.pad(features, (HALO_FRAMES, 0))
        first, count = begin // 2, frames // 2
        valid = torch.arange(first + count) < first + (valid_frames + 1) // 2
        past = self._past()
        ids, cache = encode_block(
            self._encoder,
            features[None],
            torch.tensor([float(begin > 0)]),
            torch.arange(first, first + count),
            valid,
            past,
        )
        self._blocks.append(_Block(ids[0], cache, self._peak - RANGE_LOG10))
        return ids[0]

    def _past(self) -> list[KeyValue]:
        width = self._encoder.config.d_model
        empty = torch.zeros(1, 0, width)
        return [
            (
                torch.cat([empty, *(b.cache[layer][0] for b in self._blocks)], 1),
                torch.cat([empty, *(b.cache[layer][1] for b in self._blocks)], 1),
            )
            for layer in range(self._encoder.config.layers)
        ]

    def _close_segment(self) -> Tensor:
        """Encode what is left of the segment, padded, and return all its tokens."""
        samples = len(self._audio)
        padded = functional.pad(self._audio, (0, -samples % SAMPLES_PER_TOKEN))
        begin = max(0, self._log10.shape[1] - 3)
        rest = log10_mel(padded[begin * HOP :], self._log10.shape[0])
        self._append_frames(rest[:, self._log10.shape[1] - begin :])
        self._drop_changed()
        total = self._log10.shape[1]
        valid = -(-samples // HOP)
        while (begin := len(self._blocks) * self._block_frames) < total:
            frames = min(self._block_frames, total - begin)
            self._encode_next(frames, min(frames, valid - begin))
        ids = self.closed_ids[: -(-samples // SAMPLES_PER_TOKEN)]
        self._new_segment()
        return ids
