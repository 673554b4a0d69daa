"""Speech tokens to audio: the network in one stateful graph, the sound sources here.

The graph is causal and gives the filters of a token ``look_ahead`` tokens late; at the end of an
utterance it is fed that many "no code" ids. Offline decoding is one long push.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ttt_ref.errors import BundleError, CodecError
from ttt_runtime.backends.ort.session import GraphSession
from ttt_runtime.codec.base import Audio, Codes
from ttt_runtime.codec.builtin.params import DecoderParams
from ttt_runtime.codec.builtin.source import FilterBank, PulseSource

# Longest run of the graph: bounds the memory of long answers.
MAX_RUN_TOKENS = 250
OUTPUTS = ["f0_hz", "voiced", "pulse_real", "pulse_imag", "noise_gain", "present"]


def check_codes(codes: Codes, num_codes: int) -> Codes:
    """Return [S] as int64.

    Raises:
        CodecError: not one-dimensional whole numbers, or outside the code book.
    """
    try:
        codes = np.asarray(codes)
    except ValueError:
        raise CodecError("speech tokens have rows of unequal length; give numbers [S]") from None
    if codes.ndim != 1 or (len(codes) and not np.issubdtype(codes.dtype, np.integer)):
        raise CodecError(
            f"speech tokens have the shape {codes.shape} and type {codes.dtype}; give whole "
            "numbers [S]"
        )
    if len(codes) and not (codes.min() >= 0 and codes.max() < num_codes):
        raise CodecError(
            f"speech tokens {codes.min()}..{codes.max()} are outside the code book "
            f"0..{num_codes - 1}"
        )
    return codes.astype(np.int64)


class BuiltinDecoder:
    """The speech decoder of a bundle."""

    def __init__(self, params: DecoderParams, session: GraphSession) -> None:
        self.params = params
        self.session = session
        state = session.spec.input("past").shape
        self.state_shape = tuple(int(d) for d in state)

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio that it gives."""
        return self.params.sample_rate_hz

    def decode(self, codes: Codes) -> Audio:
        """Decode codes int64 [S] to audio float32 [S * code_samples].

        Raises:
            CodecError: see :func:`check_codes`.
        """
        stream = self.stream()
        return np.concatenate([stream.push(codes), stream.finish()])

    def stream(self) -> BuiltinDecoderStream:
        """Begin an answer that arrives in pieces."""
        return BuiltinDecoderStream(self)


class BuiltinDecoderStream:
    """Decodes codes piece by piece, ``look_ahead`` tokens and about one frame behind."""

    def __init__(self, decoder: BuiltinDecoder) -> None:
        self._decoder = decoder
        p = decoder.params
        self._state: NDArray[np.float32] = np.zeros(decoder.state_shape, np.float32)
        self._late_frames = 4 * p.look_ahead_tokens
        self._pulses = PulseSource(p)
        self._noise = np.random.default_rng(p.noise_seed)
        self._bank = FilterBank(p)
        self._shape = np.zeros((0, p.fft_samples // 2 + 1), np.complex64)
        self._hiss = np.zeros((0, p.fft_samples // 2 + 1), np.float32)
        self._codes = 0
        self._finished = False

    def push(self, codes: Codes) -> Audio:
        """Take codes int64 [S]; return the audio float32 [t] that became final."""
        if self._finished:
            raise CodecError("speech tokens were pushed into a finished stream; begin a new one")
        codes = check_codes(codes, self._decoder.params.num_codes)
        self._codes += len(codes)
        return self._advance(codes)

    def finish(self) -> Audio:
        """End the utterance; return the remaining audio float32 [t]."""
        if self._finished:
            raise CodecError("the stream was finished already; begin a new one")
        self._finished = True
        if self._codes == 0:
            return np.zeros(0, np.float32)
        p = self._decoder.params
        audio = self._advance(np.full(p.look_ahead_tokens, p.num_codes, np.int64))
        # Nothing sounds after the last frame: its window ends in silence.
        silence = np.zeros(p.hop_samples, np.float32)
        last = self._bank.push(silence, silence, (self._shape, self._hiss))
        return np.concatenate([audio, last, self._bank.finish()])

    def _advance(self, codes: Codes) -> Audio:
        parts = [
            self._run(codes[i : i + MAX_RUN_TOKENS]) for i in range(0, len(codes), MAX_RUN_TOKENS)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _run(self, codes: Codes) -> Audio:
        f0, voiced, real, imag, hiss, self._state = self._decoder.session.run(
            {"codes": codes[None], "past": self._state}, OUTPUTS
        )
        frames = 4 * len(codes)
        if f0.shape[1] != frames:
            raise BundleError(
                f"the speech decoder gave {f0.shape[1]} frames for {len(codes)} tokens; expected "
                f"{frames}; export the bundle again"
            )
        if not all(np.isfinite(values).all() for values in (f0, voiced, real, imag, hiss)):
            raise BundleError(
                "the speech decoder gave numbers that are not finite; export it again"
            )
        late = min(self._late_frames, f0.shape[1])
        self._late_frames -= late
        f0, voiced = f0[0, late:], voiced[0, late:]
        shape = np.concatenate([self._shape, real[0, late:] + 1j * imag[0, late:]])
        gain = np.concatenate([self._hiss, hiss[0, late:]])
        samples = len(f0) * self._decoder.params.hop_samples
        noise = self._noise.standard_normal(samples, dtype=np.float32)
        # The last frame waits: its window reaches into the next frame's source.
        ready = max(0, len(gain) - 1)
        self._shape, self._hiss = shape[ready:], gain[ready:]
        return self._bank.push(self._pulses.push(f0, voiced), noise, (shape[:ready], gain[:ready]))
