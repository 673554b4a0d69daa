"""What the loudspeaker plays: answers in order, softer while somebody speaks, stopped at once.

The sound card's callback takes blocks from here; everything else hands in and counts. What was
given to the card of each answer is counted to the sample: it decides what of it was heard.
"""

from __future__ import annotations

import threading
from collections import deque
from time import perf_counter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ttt_ref.errors import AudioError

Audio = NDArray[np.float32]

_RAMP_S: Final = 0.01  # a change of gain without a click
DUCKED: Final = 0.3


class Playback:
    """One loudspeaker. Safe to use from several threads; never blocks for longer than a copy.

    Args:
        rate_hz: of the audio handed in and taken.
        longest_s: sound that may wait; more is refused, memory stays bounded.
    """

    def __init__(self, rate_hz: int, longest_s: float = 300.0) -> None:
        self.rate_hz = rate_hz
        self._longest = round(longest_s * rate_hz)
        self._lock = threading.Lock()
        self._waiting: dict[int, deque[Audio]] = {}
        self._length: dict[int, int] = {}
        self._ended: set[int] = set()
        self._playing: int | None = None
        self._played: dict[int, int] = {}
        self._began: dict[int, float] = {}
        self._target = self._gain = 1.0
        self.underruns = 0
        self._is_dry = False
        self._tail = np.zeros(0, np.float32)  # the last milliseconds of what was stopped

    def append(self, answer: int, audio: Audio) -> None:
        """Add audio float32 [T] to an answer, released or not.

        Raises:
            AudioError: more than `longest_s` would wait.
        """
        with self._lock:
            length = self._length.get(answer, 0) + len(audio)
            if length > self._longest:
                raise AudioError(
                    f"an answer of more than {self._longest / self.rate_hz:.0f} s waits to be "
                    "played; it is cut there"
                )
            self._length[answer] = length
            self._waiting.setdefault(answer, deque()).append(audio)

    def end(self, answer: int) -> None:
        """Nothing more will be added to this answer."""
        with self._lock:
            self._ended.add(answer)

    def release(self, answer: int) -> None:
        """Play this answer from now on; whatever played before is over."""
        with self._lock:
            if self._playing is not None and self._playing != answer:
                self._forget(self._playing)
            self._playing = answer
            self._played.setdefault(answer, 0)
            self._gain = self._target = 1.0
            self._is_dry = False

    def forget(self, answer: int) -> None:
        """Drop an answer's sound, playing or not. What was played of it stays counted."""
        with self._lock:
            self._forget(answer)

    def duck(self) -> None:
        """Play softly."""
        self._target = DUCKED

    def unduck(self) -> None:
        """Play as loud as before."""
        self._target = 1.0

    @property
    def playing(self) -> int | None:
        """The answer that plays, or waits for its next piece."""
        return self._playing

    def played_samples(self, answer: int) -> int:
        """Return how many samples of an answer were given to the sound card."""
        return self._played.get(answer, 0)

    def began_s(self, answer: int) -> float | None:
        """Return when the first sample of an answer was taken (perf_counter), None before."""
        return self._began.get(answer)

    def is_over(self, answer: int) -> bool:
        """Tell whether all of an ended answer was given to the sound card."""
        with self._lock:
            return answer in self._ended and not self._length.get(answer)

    def take(self, samples: int) -> Audio:
        """Return the next block float32 [samples], silence where nothing is to be played."""
        block = np.zeros(samples, np.float32)
        with self._lock:
            tail = self._tail[:samples]
            block[: len(tail)] = tail
            self._tail = self._tail[samples:]
            answer = self._playing
            if answer is not None:
                filled = self._fill(answer, block)
                if filled and answer not in self._began:
                    self._began[answer] = perf_counter()
                self._played[answer] = self._played.get(answer, 0) + filled
                # A gap in the middle of an answer, counted once, is an underrun.
                is_dry = self._played[answer] > 0 and filled < samples
                is_dry = is_dry and answer not in self._ended
                self.underruns += is_dry and not self._is_dry
                self._is_dry = is_dry
            self._apply_gain(block)
        return block

    def _fill(self, answer: int, block: Audio) -> int:
        pieces = self._waiting.get(answer)
        filled = 0
        while pieces and filled < len(block):
            piece = pieces.popleft()
            part = piece[: len(block) - filled]
            block[filled : filled + len(part)] += part
            filled += len(part)
            if len(part) < len(piece):
                pieces.appendleft(piece[len(part) :])
        if filled:
            self._length[answer] -= filled
        return filled

    def _apply_gain(self, block: Audio) -> None:
        if self._gain == self._target == 1.0:
            return
        step = 1.0 / (_RAMP_S * self.rate_hz)
        change = self._target - self._gain
        ramp = self._gain + np.sign(change) * step * np.arange(1, len(block) + 1, dtype=np.float32)
        low, high = min(self._gain, self._target), max(self._gain, self._target)
        gains = np.clip(ramp, low, high)
        block *= gains
        self._gain = float(gains[-1]) if len(gains) else self._gain

    def _forget(self, answer: int) -> None:
        if self._playing == answer and self._played.get(answer):
            tail = np.zeros(round(_RAMP_S * self.rate_hz), np.float32)
            self._fill(answer, tail)
            self._tail = tail * np.linspace(self._gain, 0.0, len(tail), dtype=np.float32)
        self._waiting.pop(answer, None)
        self._length.pop(answer, None)
        self._ended.discard(answer)
        if self._playing == answer:
            self._playing = None
            self._gain = self._target = 1.0
        # Counts of answers long gone are of no use to anybody.
        for old in [number for number in self._played if number < answer - 16]:
            del self._played[old]
            self._began.pop(old, None)
