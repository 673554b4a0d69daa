"""Speech to tokens: features in numpy, the encoder as a graph that takes one block at a time.

Offline and streaming run the same blocks, so they give the same tokens. A block of 200 positions
(4 s) sees itself and what came before; closed blocks keep only their keys and values.

Features are limited to 80 dB below the loudest cell of their 30 s segment. When a louder moment
lifts that floor above a cell of a closed block, the segment is encoded again from that block on.
So tokens are final at the end of their segment; `closed_ids` shows them earlier.

Axis letters: T samples, L 20 ms positions, S speech tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttt_ref.errors import AudioError
from ttt_runtime.backends.ort.session import GraphSession
from ttt_runtime.codec.base import Audio, Codes
from ttt_runtime.codec.glm4voice.logmel import HOP, N_FFT, RANGE_LOG10, limit_range, log10_mel
from ttt_runtime.codec.glm4voice.params import TokenizerParams
from ttt_runtime.codec.glm4voice.resample import resample

RATE_HZ = 16_000
SAMPLES_PER_POSITION = 320
HALO_FRAMES = 4  # mel frames before a block that its two convolutions still see
SETTLE_SAMPLES = 8_000  # no louder cell for 0.5 s: now a changed floor is worth a new encoding
NO_IDS = np.zeros(0, np.int64)


class _Cache:
    """Keys and values of a segment's closed blocks; rows are kept, so prefixes need no copy."""

    def __init__(self, session: GraphSession, params: TokenizerParams) -> None:
        dtype = session.spec.input("past_k.0").dtype
        # Untouched rows of fresh zeroed memory take no room: a short recording stays small.
        shape = (1, params.segment_positions, params.width)
        self._rows = {
            f"{kv}.{i}": np.zeros(shape, dtype) for i in range(params.layers) for kv in ("k", "v")
        }

    def feeds(self, positions: int) -> dict[str, NDArray[Any]]:
        """Return the graph's past inputs of the first positions."""
        return {f"past_{name}": rows[:, :positions] for name, rows in self._rows.items()}

    def write(self, first: int, new: list[NDArray[Any]]) -> None:
        """Keep a block's keys and values, in the graph's output order."""
        for rows, values in zip(self._rows.values(), new, strict=True):
            rows[:, first : first + values.shape[1]] = values


class Glm4VoiceTokenizerStream:
    """One recording on its way through the tokenizer: 16 kHz audio in, final tokens out."""

    def __init__(self, session: GraphSession, params: TokenizerParams) -> None:
        self.session, self.params = session, params
        self._block_frames = 2 * params.block_positions
        self._segment_samples = params.segment_positions * SAMPLES_PER_POSITION
        self._token_samples = params.pool_positions * SAMPLES_PER_POSITION
        self._audio = np.zeros(self._segment_samples, np.float32)
        self._log10 = np.zeros((params.mel_bins, self._segment_samples // HOP))
        self._cache = _Cache(session, params)
        self._finished = False
        self._new_segment()

    def _new_segment(self) -> None:
        self._samples = 0
        self._frames = 0
        self._peak = -np.inf
        self._peak_sample = 0
        self._blocks: list[tuple[Codes, float]] = []  # ids, and the floor they were made with

    @property
    def closed_ids(self) -> Codes:
        """Tokens of the closed blocks of the current segment; they may still change."""
        return np.concatenate([NO_IDS, *(ids for ids, _ in self._blocks)])

    def push(self, audio: Audio) -> Codes:
        """Take audio float32 [T]; return the tokens int64 [S] that became final."""
        if self._finished:
            raise AudioError("audio for a stream that was finished; open a new one")
        audio = checked(audio)
        final = [NO_IDS]
        while len(audio):
            piece = audio[: self._segment_samples - self._samples]
            self._audio[self._samples : self._samples + len(piece)] = piece
            self._samples += len(piece)
            audio = audio[len(piece) :]
            if self._samples == self._segment_samples:
                final.append(self._close_segment())
            else:
                self._advance()
        return np.concatenate(final)

    def push_segment(self, audio: Audio) -> Codes:
        """Encode a whole segment at once, when nothing is pending: no block is done twice."""
        self._audio[: len(audio)] = audio
        self._samples = len(audio)
        return self._close_segment() if self._samples else NO_IDS

    def finish(self) -> Codes:
        """Return the remaining tokens int64 [S]; the stream takes no more."""
        self._finished = True
        return self._close_segment() if self._samples else NO_IDS

    def fork(self) -> Glm4VoiceTokenizerStream:
        """Return a copy that may be finished while this one goes on.

        It shares the buffers and writes only behind what this stream has filled of them, but for
        blocks that a changed floor makes it encode again. This stream drops the same blocks
        before its own tokens are final: its floor is never lower than the copy's was.
        """
        copy = object.__new__(Glm4VoiceTokenizerStream)
        copy.__dict__.update(self.__dict__)
        copy._blocks = list(self._blocks)
        return copy

    def _append(self, frames: NDArray[np.float64]) -> None:
        count = frames.shape[1]
        if not count:
            return
        if (top := float(frames.max())) > self._peak:
            self._peak, self._peak_sample = top, self._samples
        self._log10[:, self._frames : self._frames + count] = frames
        self._frames += count

    def _advance(self) -> None:
        """Make the frames that the audio allows, and encode blocks that they complete."""
        have = self._frames
        ready = (self._samples - N_FFT // 2) // HOP + 1  # frames that need no sample to come
        if ready > have:
            # Three frames early: the first two would see the reflected edge of the cut.
            begin = max(0, have - 3)
            piece = self._audio[begin * HOP : (ready - 1) * HOP + N_FFT // 2]
            padded = np.pad(piece, (0, -len(piece) % HOP + N_FFT))
            fresh = log10_mel(padded, self.params.mel_bins)
            self._append(fresh[:, have - begin : ready - begin])
        if self._samples - self._peak_sample >= SETTLE_SAMPLES:
            self._drop_changed()
        while (len(self._blocks) + 1) * self._block_frames <= self._frames:
            self._encode_next(self._block_frames, self._block_frames)

    def _drop_changed(self) -> None:
        """Forget closed blocks from the first whose features the present floor changes."""
        floor = self._peak - RANGE_LOG10
        for number, (_, used) in enumerate(self._blocks):
            begin = number * self._block_frames
            lowest = float(self._log10[:, begin : begin + self._block_frames].min())
            if floor > max(lowest, used):
                del self._blocks[number:]
                return

    def _encode_next(self, frames: int, valid_frames: int) -> None:
        """Encode the block after the closed ones and keep it."""
        begin = len(self._blocks) * self._block_frames
        part = self._log10[:, max(0, begin - HALO_FRAMES) : begin + frames]
        features = limit_range(part, self._peak)
        if not begin:
            features = np.pad(features, ((0, 0), (HALO_FRAMES, 0)))
        first, count = begin // 2, frames // 2
        feeds: dict[str, NDArray[Any]] = {
            "features": features[None],
            "started": np.array([float(begin > 0)], np.float32),
            "positions": np.arange(first, first + count, dtype=np.int64),
            "past_valid": np.ones(first, bool),
            "new_valid": np.arange(count) < (valid_frames + 1) // 2,
        }
        ids, *new = self.session.run(feeds | self._cache.feeds(first))
        self._cache.write(first, new)
        self._blocks.append((ids[0], self._peak - RANGE_LOG10))

    def _close_segment(self) -> Codes:
        """Encode what is left of the segment, padded, and return all its tokens."""
        samples = self._samples
        padded = samples + -samples % self._token_samples
        self._audio[samples:padded] = 0.0
        begin = max(0, self._frames - 3)
        rest = log10_mel(self._audio[begin * HOP : padded], self.params.mel_bins)
        self._append(rest[:, self._frames - begin :])
        self._drop_changed()
        valid = -(-samples // HOP)
        while (begin := len(self._blocks) * self._block_frames) < self._frames:
            frames = min(self._block_frames, self._frames - begin)
            self._encode_next(frames, min(frames, valid - begin))
        ids = self.closed_ids[: -(-samples // self._token_samples)]
        self._new_segment()
        return ids


class Glm4VoiceTokenizer:
    """16 kHz audio to speech tokens, 12.5 a second."""

    sample_rate_hz = RATE_HZ

    def __init__(self, session: GraphSession, params: TokenizerParams) -> None:
        self.session, self.params = session, params
        self.num_codes = params.num_codes
        self.frame_rate_hz = RATE_HZ / (params.pool_positions * SAMPLES_PER_POSITION)

    def hear(self, audio: Audio, rate_hz: int) -> Audio:
        """Return a recording's first channel [T] at 16 kHz, resampled as the released code does."""
        return resample(audio, rate_hz, RATE_HZ)

    def encode(self, audio: Audio) -> Codes:
        """Return the tokens int64 [S] of audio float32 [T]; memory is that of one segment."""
        audio = checked(audio)
        stream = self.stream()
        segment = self.params.segment_positions * SAMPLES_PER_POSITION
        parts = [stream.push_segment(audio[a : a + segment]) for a in range(0, len(audio), segment)]
        return np.concatenate([NO_IDS, *parts])

    def stream(self) -> Glm4VoiceTokenizerStream:
        """Begin a recording that arrives in pieces."""
        return Glm4VoiceTokenizerStream(self.session, self.params)


def checked(audio: Audio) -> Audio:
    """Return audio as float32 [T]; AudioError for other shapes and values that are not finite."""
    if audio.ndim != 1 or not np.issubdtype(audio.dtype, np.floating):
        raise AudioError(
            f"audio of shape {list(audio.shape)} and type {audio.dtype}; "
            "expected one channel of float samples [T]"
        )
    if not np.isfinite(audio).all():
        raise AudioError("audio holds samples that are not finite; check the recording")
    return audio.astype(np.float32, copy=False)
