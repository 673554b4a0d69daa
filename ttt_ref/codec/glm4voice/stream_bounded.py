"""Chunked decoding whose cost does not grow, and which loses nothing.

Each chunk is decoded behind a prompt of the last `window_tokens` tokens and the mel that was made
for them. The last `hold_frames` frames of a chunk lack their future, so they are kept back, made
again by the next chunk, and faded from the first version into the second with weights that add
up to 1.

Nothing drifts: frames are numbered from the beginning of the sound, the token of a frame is
floor(64 frame / 441) whatever the chunk, noise is addressed by frame number, and the frames given
out after N tokens are always floor(441 N / 64) - hold_frames.

Chunks follow a fixed plan, so the sound depends on the tokens alone, not on how they come in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ttt_ref.codec.glm4voice.flow import Flow, SolverOptions
from ttt_ref.codec.glm4voice.noise import Noise
from ttt_ref.codec.glm4voice.stream_vocoder import VocoderStream, fade_in
from ttt_ref.codec.glm4voice.timing import exact_index, first_frame_of, frames_before
from ttt_ref.errors import CodecError, ConfigError


@dataclass(frozen=True)
class StreamOptions:
    """How a stream is cut.

    Args:
        window_tokens: prompt before each chunk, rounded up to whole encoder blocks.
        hold_frames: frames kept back until their future is known (34 = 0.39 s, as upstream).
        plan_tokens: sizes of the first chunks; the last one repeats.
    """

    window_tokens: int = 20
    hold_frames: int = 34
    plan_tokens: tuple[int, ...] = (12, 13, 25)

    def __post_init__(self) -> None:
        """Refuse windows and plans that cannot work."""
        if not 0 <= self.window_tokens <= 2000 or not 0 <= self.hold_frames <= 500:
            raise ConfigError("window_tokens must be 0 to 2000 and hold_frames 0 to 500")
        if not self.plan_tokens or min(self.plan_tokens) < 1:
            raise ConfigError(f"plan_tokens is {self.plan_tokens}; expected positive chunk sizes")

    def chunk_tokens(self, chunk: int) -> int:
        """Return the size of a chunk by its number."""
        return self.plan_tokens[min(chunk, len(self.plan_tokens) - 1)]


def check_tokens(tokens: Tensor, num_codes: int) -> Tensor:
    """Return tokens as int64 [S]; CodecError for anything that is no speech token."""
    if tokens.dim() != 1 or tokens.is_floating_point() or tokens.is_complex():
        raise CodecError(
            f"speech tokens of shape {list(tokens.shape)} and type {tokens.dtype}; "
            "expected a list of whole numbers"
        )
    wrong = tokens[(tokens < 0) | (tokens >= num_codes)]
    if len(wrong):
        raise CodecError(
            f"{int(wrong[0])} is no speech token of this codec (0 to {num_codes - 1}); "
            "strip tags and text before decoding"
        )
    return tokens.long()


class BoundedStream:
    """One sound being decoded; see the module's text.

    Args:
        flow: the flow.
        vocoder: a fresh vocoder stream.
        noise: x(0) by frame number, [80, F].
        options: chunking.
        solver: how the flow is solved.
    """

    def __init__(
        self,
        flow: Flow,
        vocoder: VocoderStream,
        noise: Noise,
        options: StreamOptions | None = None,
        solver: SolverOptions | None = None,
    ) -> None:
        self._flow, self._vocoder, self._noise = flow, vocoder, noise
        self._options, self._solver = options or StreamOptions(), solver or SolverOptions()
        self._waiting = torch.zeros(0, dtype=torch.int64)
        self._recent = torch.zeros(0, dtype=torch.int64)  # decoded tokens of the next window
        self._tokens = 0  # decoded so far
        self._mel = torch.zeros(1, flow.config.mel_bins, 0)  # given out, newest at the end
        self._frames = 0  # given out so far
        self._held = self._mel
        self._chunk = 0
        self._finished = False

    def push(self, tokens: Tensor) -> Tensor:
        """Take tokens int64 [S]; return the audio [T] that they complete, maybe none."""
        if self._finished:
            raise CodecError("tokens for a stream that was finished; open a new one")
        self._waiting = torch.cat(
            (self._waiting, check_tokens(tokens, self._flow.config.num_codes))
        )
        audio = [torch.zeros(0)]
        while len(self._waiting) >= (size := self._options.chunk_tokens(self._chunk)):
            chunk, self._waiting = self._waiting[:size], self._waiting[size:]
            audio.append(self._decode(chunk, last=False))
        return torch.cat(audio)

    def finish(self) -> Tensor:
        """Return the rest of the audio [T]; the stream takes no more."""
        if self._finished:
            return torch.zeros(0)
        self._finished = True
        if len(self._waiting):
            return self._decode(self._waiting, last=True)
        return self._vocoder.push(self._held, self._held[:, :, :0])

    def _decode(self, chunk: Tensor, last: bool) -> Tensor:
        end = self._tokens + len(chunk)
        block = self._flow.config.encoder_block
        begin = max(0, self._tokens - self._options.window_tokens) // block * block
        first, stop = first_frame_of(begin), frames_before(end)
        known = self._frames - first
        if known < 0:  # the window is shorter than what is held back
            begin, first, known = self._widen(block)
        window = torch.cat((self._recent, chunk))[-(end - begin) :][None]
        mu = self._flow.frame_means(window, exact_index(first, stop) - begin)
        cond = torch.zeros_like(mu)
        cond[:, :, :known] = self._mel[:, :, self._mel.shape[2] - known :]
        noise = self._noise(first, stop - first)[None]
        solved = self._flow.solve(mu, self._flow.speaker(), cond, noise, self._solver)
        new = solved[:, :, known:]
        overlap = self._held.shape[2]
        gain = fade_in(overlap)
        new[:, :, :overlap] = new[:, :, :overlap] * gain + self._held * gain.flip(0)
        cut = new.shape[2] if last else max(0, new.shape[2] - self._options.hold_frames)
        return self._account(window[0], new[:, :, :cut], new[:, :, cut:], end)

    def _widen(self, block: int) -> tuple[int, int, int]:
        begin = self._frames * 64 // 441 // block * block
        first = first_frame_of(begin)
        return begin, first, self._frames - first

    def _account(self, window: Tensor, ready: Tensor, held: Tensor, end: int) -> Tensor:
        """Remember what the next chunk needs; return the audio [T] of the ready frames."""
        self._tokens, self._frames = end, self._frames + ready.shape[2]
        self._chunk += 1
        reach = max(self._options.window_tokens, self._options.hold_frames) + 32
        self._recent = window[-reach:]
        self._mel = torch.cat((self._mel, ready), 2)[:, :, -first_frame_of(reach) :]
        self._held = held
        return self._vocoder.push(ready, held)
