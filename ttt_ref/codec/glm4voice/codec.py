"""The codec's two classes in torch: the truth that the exported codec is held to."""

from __future__ import annotations

import torch
from torch import Tensor

from ttt_ref.codec.glm4voice.config import (
    DECODER_RATE_HZ,
    SAMPLES_PER_TOKEN,
    SEGMENT_SAMPLES,
    TOKEN_RATE_HZ,
    TOKENIZER_RATE_HZ,
)
from ttt_ref.codec.glm4voice.flow import Flow, SolverOptions
from ttt_ref.codec.glm4voice.hift import Hift
from ttt_ref.codec.glm4voice.logmel import HOP, whisper_log_mel
from ttt_ref.codec.glm4voice.noise import (
    FLOW_STREAM,
    HARMONIC_STREAM,
    indexed_noise,
    start_phases,
)
from ttt_ref.codec.glm4voice.stream_bounded import BoundedStream, StreamOptions, check_tokens
from ttt_ref.codec.glm4voice.stream_encode import EncodeStream
from ttt_ref.codec.glm4voice.stream_vocoder import VocoderStream
from ttt_ref.codec.glm4voice.timing import frames_of
from ttt_ref.codec.glm4voice.tokenizer import SpeechEncoder
from ttt_ref.errors import AudioError


class Glm4VoiceTokenizer:
    """16 kHz audio to speech tokens."""

    sample_rate_hz = TOKENIZER_RATE_HZ
    frame_rate_hz = TOKEN_RATE_HZ

    def __init__(self, encoder: SpeechEncoder) -> None:
        self.encoder = encoder
        self.num_codes = encoder.config.num_codes

    @torch.inference_mode()
    def encode(self, audio: Tensor) -> Tensor:
        """Return int64 [ceil(T / 1280)] tokens of audio float32 [T], segment by segment."""
        if audio.dim() != 1:
            raise AudioError(f"audio of shape {list(audio.shape)}; expected one channel [T]")
        if not torch.isfinite(audio).all():
            raise AudioError("audio holds samples that are not finite; check the recording")
        parts = [self._segment(part) for part in audio.float().split(SEGMENT_SAMPLES) if len(part)]
        return torch.cat([torch.zeros(0, dtype=torch.int64), *parts])

    def _segment(self, audio: Tensor) -> Tensor:
        samples = len(audio)
        padded = torch.nn.functional.pad(audio, (0, -samples % SAMPLES_PER_TOKEN))
        features = whisper_log_mel(padded, self.encoder.config.mel_bins)
        valid = torch.arange(features.shape[1]) * HOP < samples
        ids: Tensor = self.encoder(features[None], valid[None]).ids[0]
        return ids[: -(-samples // SAMPLES_PER_TOKEN)]

    def stream(self) -> EncodeStream:
        """Return a stream whose tokens equal those of :meth:`encode`."""
        return EncodeStream(self.encoder)


class Glm4VoiceDecoder:
    """Speech tokens to 22.05 kHz audio.

    Args:
        flow: the flow.
        hift: the vocoder.
        solver: how the flow is solved.
        stream: how streams are cut.
        seed: of all noise.
    """

    sample_rate_hz = DECODER_RATE_HZ

    def __init__(
        self,
        flow: Flow,
        hift: Hift,
        solver: SolverOptions | None = None,
        stream: StreamOptions | None = None,
        seed: int = 42,
    ) -> None:
        self.flow, self.hift = flow, hift
        self.solver, self.stream_options = solver or SolverOptions(), stream or StreamOptions()
        harmonics = hift.config.harmonics
        self._phases = start_phases(harmonics, seed)
        self._harmonic_noise = indexed_noise(harmonics + 1, seed, HARMONIC_STREAM)
        self._flow_noise = indexed_noise(flow.config.mel_bins, seed, FLOW_STREAM)

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Return audio float32 [T] of int64 [S] tokens, all at once as the released code does."""
        codes = check_tokens(codes, self.flow.config.num_codes)
        if not len(codes):
            return torch.zeros(0)
        mel = self.decode_mel(codes)
        return self.vocoder().push(mel, mel[:, :, :0])

    @torch.inference_mode()
    def decode_mel(self, codes: Tensor) -> Tensor:
        """Return the log-mel [1, 80, F] of int64 [S] tokens, all at once."""
        noise = self._flow_noise(0, frames_of(len(codes)))[None]
        mel: Tensor = self.flow(codes[None], noise, options=self.solver)
        return mel

    def vocoder(self) -> VocoderStream:
        """Return a fresh vocoder stream with this decoder's noise."""
        return VocoderStream(self.hift, self._phases, self._harmonic_noise)

    def stream(self) -> BoundedStream:
        """Return a stream with bounded cost a chunk."""
        return BoundedStream(
            self.flow, self.vocoder(), self._flow_noise, self.stream_options, self.solver
        )
