"""What the runtime asks of a speech codec: audio to speech tokens, and back.

Streaming equals offline: whatever the sizes of the pieces, the speech tokens are the same and the
audio differs by at most 1e-4.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float32]
Codes = NDArray[np.int64]


class TokenizerStream(Protocol):
    """Encodes audio piece by piece."""

    def push(self, audio: Audio) -> Codes:
        """Take audio float32 [T]; return the codes int64 [s] that became final."""

    def finish(self) -> Codes:
        """End the utterance; return the remaining codes int64 [s]."""

    def fork(self) -> TokenizerStream:
        """Return a copy that may be finished while this one goes on.

        The copy must have been finished, or forgotten, before this stream is used again.
        """


class SpeechTokenizer(Protocol):
    """Turns audio into speech tokens (codes 0 .. num_codes-1)."""

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio that it takes."""

    @property
    def frame_rate_hz(self) -> float:
        """Speech tokens a second."""

    @property
    def num_codes(self) -> int:
        """Size of the code book."""

    def encode(self, audio: Audio) -> Codes:
        """Encode audio float32 [T] to codes int64 [S]."""

    def stream(self) -> TokenizerStream:
        """Begin an utterance that arrives in pieces."""


class DecoderStream(Protocol):
    """Decodes codes piece by piece."""

    def push(self, codes: Codes) -> Audio:
        """Take codes int64 [S]; return the audio float32 [t] that became final."""

    def finish(self) -> Audio:
        """End the utterance; return the remaining audio float32 [t]."""


class SpeechDecoder(Protocol):
    """Turns speech tokens into audio."""

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the audio that it gives."""

    def decode(self, codes: Codes) -> Audio:
        """Decode codes int64 [S] to audio float32 [T]."""

    def stream(self) -> DecoderStream:
        """Begin an answer that arrives in pieces."""
