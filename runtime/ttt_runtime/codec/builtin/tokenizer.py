"""Audio to speech tokens: framing here, the network in one graph.

A token depends on the audio of ``look_back`` tokens before it and ``look_ahead`` tokens after it,
on nothing else. So the stream runs the very graph of the offline encoder over a window that is
wider by both contexts, and keeps the middle: the same tokens for any size of the pieces.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ttt_ref.errors import AudioError, BundleError, CodecError
from ttt_runtime.backends.ort.session import GraphSession
from ttt_runtime.codec.base import Audio, Codes
from ttt_runtime.codec.builtin.params import TokenizerParams

# Tokens that become final together in a stream: each run also pays for the contexts.
GROUP_TOKENS = 4
# Longest window of one run: bounds the memory of long recordings.
MAX_RUN_TOKENS = 1_500

Power = NDArray[np.float32]


def check_audio(audio: Audio) -> Audio:
    """Return [T] as float32.

    Raises:
        AudioError: no floats, more than one channel, or samples that are not finite.
    """
    try:
        given = np.asarray(audio)
    except ValueError:
        raise AudioError("audio has rows of unequal length; give one channel [T]") from None
    if len(given.shape) and given.size and given.dtype.kind != "f":
        raise AudioError(f"audio has the type {given.dtype}; give float samples, -1 .. 1")
    with np.errstate(over="ignore"):
        audio = np.asarray(given if given.dtype.kind == "f" else np.zeros(given.shape), np.float32)
    if audio.ndim != 1:
        raise AudioError(f"audio has the shape {audio.shape}; give one channel [T]")
    if not np.isfinite(audio).all():
        raise AudioError("audio contains NaN or infinite samples; repair the recording")
    return audio


def hann(samples: int) -> NDArray[np.float32]:
    """Periodic Hann window."""
    phase = 2.0 * np.pi * np.arange(samples) / samples
    return (0.5 - 0.5 * np.cos(phase)).astype(np.float32)


class Spectra:
    """Power spectra with the window centred on each hop."""

    def __init__(self, params: TokenizerParams) -> None:
        self._params = params
        self._window = hann(params.window_samples)

    def __call__(self, audio: Audio) -> Power:
        """Audio [S * code_samples], zero outside -> power [1, 4 S, bins]."""
        p = self._params
        side = (p.window_samples - p.hop_samples) // 2
        padded = np.pad(audio, side)
        frames = np.lib.stride_tricks.sliding_window_view(padded, p.window_samples)
        spectrum = np.fft.rfft(frames[:: p.hop_samples] * self._window, p.fft_samples)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        return power.astype(np.float32)[None]


class BuiltinTokenizer:
    """The speech tokenizer of a bundle.

    It puts ``pad_samples`` of silence on both sides of an utterance itself: the model has learnt
    speech that begins and ends in silence.
    """

    def __init__(self, params: TokenizerParams, session: GraphSession) -> None:
        self.params = params
        self._session = session
        self._spectra = Spectra(params)

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio that it takes."""
        return self.params.sample_rate_hz

    @property
    def frame_rate_hz(self) -> float:
        """Speech tokens a second."""
        return self.params.sample_rate_hz / self.params.code_samples

    @property
    def num_codes(self) -> int:
        """Size of the code book."""
        return self.params.num_codes

    def encode(self, audio: Audio) -> Codes:
        """Encode audio float32 [T] to codes int64 [S]; no audio gives no codes.

        Raises:
            AudioError: see :func:`check_audio`.
        """
        stream = self.stream()
        return np.concatenate([stream.push(audio), stream.finish()])

    def stream(self) -> BuiltinTokenizerStream:
        """Begin an utterance that arrives in pieces."""
        return BuiltinTokenizerStream(self)

    def run(self, audio: Audio) -> Codes:
        """Encode whole tokens of audio [S * code_samples], zero outside, to ids [S]."""
        ids: Codes = self._session.run({"power": self._spectra(audio)}, ["ids"])[0][0]
        tokens = len(audio) // self.params.code_samples
        if len(ids) != tokens or (tokens and not 0 <= ids.min() <= ids.max() < self.num_codes):
            raise BundleError(
                f"the speech tokenizer gave {len(ids)} tokens for {tokens}, or some outside its "
                f"{self.num_codes} codes; export the bundle again"
            )
        return ids


class BuiltinTokenizerStream:
    """Encodes audio piece by piece; tokens are final ``look_ahead`` tokens later."""

    def __init__(self, tokenizer: BuiltinTokenizer) -> None:
        self._tokenizer = tokenizer
        self._pieces: list[Audio] = []
        self._held = np.zeros(0, np.float32)  # audio from token `_first` on
        self._first = 0
        self._waiting = 0  # samples in `_pieces`
        self._done = 0  # tokens given
        self._started = self._finished = False

    def push(self, audio: Audio) -> Codes:
        """Take audio float32 [T]; return the codes int64 [s] that became final."""
        if self._finished:
            raise CodecError("audio was pushed into a finished stream; begin a new one")
        audio = check_audio(audio)
        if len(audio) == 0:
            return np.zeros(0, np.int64)
        if not self._started:
            self._append(np.zeros(self._tokenizer.params.pad_samples, np.float32))
            self._started = True
        self._append(audio)
        p = self._tokenizer.params
        complete = self._first + (len(self._held) + self._waiting) // p.code_samples
        final = complete - p.look_ahead_tokens
        if final - self._done < GROUP_TOKENS:
            return np.zeros(0, np.int64)
        return self._encode(final, complete)

    def finish(self) -> Codes:
        """End the utterance; return the remaining codes int64 [s]."""
        if self._finished:
            raise CodecError("the stream was finished already; begin a new one")
        self._finished = True
        if not self._started:
            return np.zeros(0, np.int64)
        p = self._tokenizer.params
        samples = len(self._held) + self._waiting + p.pad_samples
        self._append(np.zeros(p.pad_samples + -samples % p.code_samples, np.float32))
        total = self._first + -(-samples // p.code_samples)
        return self._encode(total, total)

    def fork(self) -> BuiltinTokenizerStream:
        """Return a copy that may be finished while this one goes on; it shares the audio."""
        copy = BuiltinTokenizerStream(self._tokenizer)
        copy.__dict__.update(self.__dict__)
        copy._pieces = list(self._pieces)
        return copy

    def _append(self, audio: Audio) -> None:
        self._pieces.append(audio)
        self._waiting += len(audio)

    def _encode(self, final: int, complete: int) -> Codes:
        """Give the tokens up to ``final``; the audio of ``complete`` tokens is there."""
        p = self._tokenizer.params
        self._held = np.concatenate([self._held, *self._pieces])
        self._pieces, self._waiting = [], 0
        size = p.code_samples
        ids = []
        while self._done < final:
            start = max(0, self._done - p.look_back_tokens)
            end = min(complete, start + MAX_RUN_TOKENS)
            # Tokens near the window's end lack their right context, unless the audio ends there.
            last = final if end == complete else end - p.look_ahead_tokens
            audio = self._held[(start - self._first) * size : (end - self._first) * size]
            ids.append(self._tokenizer.run(audio)[self._done - start : last - start])
            self._done = last
        keep = max(0, self._done - p.look_back_tokens)
        self._held = self._held[(keep - self._first) * size :]
        self._first = keep
        return np.concatenate(ids)
