"""Speech tokens to 22.05 kHz audio: all at once, or in chunks whose cost does not grow.

A streamed chunk is decoded behind a prompt of the last `window_tokens` tokens and the mel that
was made for them. Its last `hold_frames` frames lack their future: they are kept back, made again
by the next chunk, and faded from the first version into the second with weights that add up to 1.

Nothing drifts: frames are numbered from the beginning of the sound, the token of a frame is
floor(64 frame / 441) whatever the chunk, and noise is addressed by frame number. Chunks follow a
fixed plan, so the sound depends on the tokens alone, not on how they come in.

Axis letters: S speech tokens, F mel frames, T samples.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttt_ref.errors import CodecError
from ttt_runtime.backends.ort.session import GraphSession
from ttt_runtime.codec.base import Audio, Codes
from ttt_runtime.codec.glm4voice import timing
from ttt_runtime.codec.glm4voice.noise import (
    FLOW_STREAM,
    HARMONIC_STREAM,
    IndexedNoise,
    Noise,
    start_phases,
)
from ttt_runtime.codec.glm4voice.params import DecoderParams
from ttt_runtime.codec.glm4voice.solver import solve
from ttt_runtime.codec.glm4voice.vocoder import Vocoder, VocoderStream, fade_in

Float32 = NDArray[np.float32]
NO_AUDIO = np.zeros(0, np.float32)


class Flow:
    """The two flow graphs and the solver's loop."""

    def __init__(
        self, encoder: GraphSession, velocity: GraphSession, params: DecoderParams
    ) -> None:
        self.encoder, self.velocity = encoder, velocity
        self.params = params

    def means(self, tokens: Codes, source_index: NDArray[np.int64]) -> Float32:
        """Return mu [1, 80, F] of tokens [S] and the token of each frame [F]."""
        feeds = {"tokens": tokens[None], "source_index": source_index}
        mu: Float32 = self.encoder.run(feeds)[0]
        return mu

    def solve(
        self, mu: Float32, prompt: Float32, noise: Float32, speaker: Float32 | None = None
    ) -> Float32:
        """Return the mel [1, 80, F] that the noise [1, 80, F] flows to.

        Args:
            mu: [1, 80, F].
            prompt: known mel [1, 80, P] of the first P frames.
            noise: x(0) [1, 80, F].
            speaker: [1, 80] in place of the codec's own.
        """
        cond = np.zeros_like(mu)
        cond[:, :, : prompt.shape[2]] = prompt
        if speaker is None:
            speaker = np.array([self.params.speaker], np.float32)
        fixed = {
            "mu": mu,
            "cond": cond,
            "speaker": speaker,
            "guidance": np.array([self.params.guidance], np.float32),
        }

        def velocity(x: Float32, t: np.float32) -> Float32:
            v: Float32 = self.velocity.run({"x": x, "t": np.array([t]), **fixed})[0]
            return v

        return solve(velocity, noise, self.params.steps, self.params.solver)


def checked(codes: Codes, num_codes: int) -> Codes:
    """Return codes as int64 [S]; CodecError for anything that is no speech token."""
    codes = np.asarray(codes)
    if codes.ndim != 1 or (codes.size and not np.issubdtype(codes.dtype, np.integer)):
        raise CodecError(
            f"speech tokens of shape {list(codes.shape)} and type {codes.dtype}; "
            "expected a list of whole numbers"
        )
    wrong = codes[(codes < 0) | (codes >= num_codes)]
    if len(wrong):
        raise CodecError(
            f"{int(wrong[0])} is no speech token of this codec (0 to {num_codes - 1}); "
            "strip tags and text before decoding"
        )
    return codes.astype(np.int64)


class Glm4VoiceDecoderStream:
    """One sound being decoded; see the module's text."""

    def __init__(self, flow: Flow, vocoder: VocoderStream, noise: Noise) -> None:
        self._flow, self._vocoder, self._noise = flow, vocoder, noise
        self._params = flow.params
        self._waiting = np.zeros(0, np.int64)
        self._recent = self._waiting  # decoded tokens that the next window may need
        self._tokens = 0  # decoded so far
        self._mel = np.zeros((1, self._params.mel_bins, 0), np.float32)  # given out, newest last
        self._frames = 0  # given out so far
        self._held = self._mel
        self._chunk = 0
        self._finished = False

    def push(self, codes: Codes) -> Audio:
        """Take codes int64 [S]; return the audio float32 [T] that they complete, maybe none."""
        if self._finished:
            raise CodecError("tokens for a stream that was finished; open a new one")
        codes = checked(codes, self._params.num_codes)
        self._waiting = np.concatenate((self._waiting, codes))
        audio = [NO_AUDIO]
        while len(self._waiting) >= (size := self._params.chunk_tokens(self._chunk)):
            chunk, self._waiting = self._waiting[:size], self._waiting[size:]
            audio.append(self._decode(chunk, last=False))
        return np.concatenate(audio)

    def finish(self) -> Audio:
        """Return the rest of the audio float32 [T]; the stream takes no more."""
        if self._finished:
            return NO_AUDIO
        self._finished = True
        if len(self._waiting):
            return self._decode(self._waiting, last=True)
        return self._vocoder.push(self._held, self._held[:, :, :0])

    def _decode(self, chunk: Codes, last: bool) -> Audio:
        params = self._params
        end = self._tokens + len(chunk)
        # The prompt begins with a whole encoder block and no later than the frames held back.
        begin = min(max(0, self._tokens - params.window_tokens), timing.token_of(self._frames))
        begin = begin // params.encoder_block * params.encoder_block
        first, stop = timing.first_frame_of(begin), timing.frames_before(end)
        known = self._frames - first
        window = np.concatenate((self._recent, chunk))[-(end - begin) :]
        mu = self._flow.means(window, timing.exact_index(first, stop) - begin)
        prompt = self._mel[:, :, self._mel.shape[2] - known :]
        noise = self._noise(first, stop - first)[None]
        new = self._flow.solve(mu, prompt, noise)[:, :, known:]
        overlap = self._held.shape[2]
        gain = fade_in(overlap)
        new[:, :, :overlap] = new[:, :, :overlap] * gain + self._held * gain[::-1]
        cut = new.shape[2] if last else max(0, new.shape[2] - params.hold_frames)
        ready, self._held = new[:, :, :cut], new[:, :, cut:]
        self._tokens, self._frames = end, self._frames + cut
        self._chunk += 1
        reach = max(params.window_tokens, params.hold_frames) + 2 * params.encoder_block
        self._recent = window[-reach:]
        self._mel = np.concatenate((self._mel, ready), 2)[:, :, -timing.first_frame_of(reach) :]
        return self._vocoder.push(ready, self._held)


class Glm4VoiceDecoder:
    """Speech tokens to audio.

    Args:
        flow: the flow's graphs.
        vocoder: the vocoder's graphs.
    """

    sample_rate_hz = timing.RATE_HZ

    def __init__(self, flow: Flow, vocoder: Vocoder) -> None:
        self.flow, self.vocoder = flow, vocoder
        self.params = flow.params

    def with_options(self, **options: Any) -> Glm4VoiceDecoder:
        """Return a decoder of the same graphs with other steps, solver, window, hold or plan."""
        params = replace(self.params, **options)
        flow, vocoder = self.flow, self.vocoder
        return Glm4VoiceDecoder(
            Flow(flow.encoder, flow.velocity, params),
            Vocoder(vocoder.f0, vocoder.generator, params),
        )

    def decode(self, codes: Codes) -> Audio:
        """Return audio float32 [T] of codes int64 [S].

        Up to `whole_tokens` codes are decoded at once, as the released code does; the cost of a
        second grows with the length, so more are decoded as a stream in chunks of that size.
        """
        codes = checked(codes, self.params.num_codes)
        if not len(codes):
            return NO_AUDIO
        if len(codes) > self.params.whole_tokens:
            chunk = max(self.params.whole_tokens, 1)
            stream = self.with_options(plan_tokens=(chunk,)).stream()
            return np.concatenate((stream.push(codes), stream.finish()))
        mel = self.decode_mel(codes)
        return self.vocoder_stream().push(mel, mel[:, :, :0])

    def decode_mel(self, codes: Codes) -> Float32:
        """Return the log-mel [1, 80, F] of codes int64 [S], all at once."""
        frames = timing.released_frames(len(codes))
        mu = self.flow.means(codes, timing.released_index(len(codes), frames))
        return self.flow.solve(mu, mu[:, :, :0], self._flow_noise()(0, frames)[None])

    def _flow_noise(self) -> IndexedNoise:
        return IndexedNoise(self.params.mel_bins, self.params.seed, FLOW_STREAM)

    def vocoder_stream(self) -> VocoderStream:
        """Begin a sound at the vocoder."""
        harmonics, seed = self.params.harmonics, self.params.seed
        noise = IndexedNoise(harmonics + 1, seed, HARMONIC_STREAM)
        return VocoderStream(self.vocoder, start_phases(harmonics, seed), noise)

    def stream(self) -> Glm4VoiceDecoderStream:
        """Begin an answer that arrives in pieces."""
        return Glm4VoiceDecoderStream(self.flow, self.vocoder_stream(), self._flow_noise())
