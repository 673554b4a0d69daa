"""Microphone and loudspeaker in one stream, so that what was heard and what was played belong
together; a stream that died is opened again, by name, until its device is back.

The callback copies two blocks and nothing else. Where a device refuses 16 kHz it runs at its own
rate, and both ways are resampled.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ttt_ref.errors import AudioError
from ttt_runtime.audio.devices import find_device, list_anew, list_devices, sounddevice_module
from ttt_runtime.audio.echo import RATE_HZ, Pcm
from ttt_runtime.audio.playback import Playback
from ttt_runtime.audio.resampler import Resampler

BLOCK_SAMPLES: Final = 320  # 20 ms
LATENCY_S: Final = 0.03  # asked for; less makes gaps
# No callback for so long: the device is gone. A busy machine's sound server pauses half a second.
SILENT_S: Final = 1.0
RETRY_S: Final = 2.0
_WAITING_BLOCKS: Final = 500  # 5 s; older ones are dropped when nobody takes them


@dataclass(frozen=True, slots=True)
class Block:
    """What was heard and what was played in the same moment, int16 [T] at 16 kHz each."""

    mic: Pcm
    played: Pcm


@dataclass(frozen=True, slots=True)
class DeviceChange:
    """The devices are lost, or there (again). `names`: microphone and loudspeaker."""

    is_there: bool
    names: tuple[str, str]
    reason: str = ""


class DuplexDevice:
    """The sound card of one conversation.

    Args:
        playback: what is played; its rate is 16 kHz.
        microphone: number or part of the name of the input; None is the default.
        loudspeaker: the same of the output.
        clock: seconds that never go back; replaced in tests.
        sounddevice: the module; replaced in tests.

    Raises:
        AudioError: no library, no device, or none that can be opened.
    """

    def __init__(
        self,
        playback: Playback,
        microphone: str | None = None,
        loudspeaker: str | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sounddevice: Any = None,
    ) -> None:
        self._sd = sounddevice_module() if sounddevice is None else sounddevice
        self._playback = playback
        self._wanted = (microphone, loudspeaker)
        self._clock = clock
        self._blocks: queue.Queue[Block] = queue.Queue(_WAITING_BLOCKS)
        self._stream: Any = None
        self._names = ("", "")
        self._last_callback = 0.0
        self._ended = False
        self._next_try = 0.0
        self._mic: Resampler | None = None
        self._speaker: Resampler | None = None
        self._ready = np.zeros(0, np.float32)  # resampled, still to be played
        self.dropped_blocks = 0

    def open(self) -> DeviceChange:
        """Begin; the first failure is the caller's to tell."""
        self._open(list_devices(self._sd))
        return DeviceChange(True, self._names)

    def close(self) -> None:
        """Stop the stream. Safe to call twice."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(Exception):  # a device that is gone may fail to be closed
                stream.abort()
                stream.close()

    @property
    def latency_s(self) -> float:
        """Seconds from a block's callback to its sound."""
        return float(self._stream.latency[1]) if self._stream is not None else 0.0

    def read(self, timeout_s: float = 0.1) -> Block | DeviceChange | None:
        """Return the next block, a change of the devices, or None when neither came in time."""
        try:
            return self._blocks.get(timeout=timeout_s)
        except queue.Empty:
            return self._watch()

    def _watch(self) -> DeviceChange | None:
        now = self._clock()
        if self._stream is not None:
            if not self._ended and now - self._last_callback < SILENT_S:
                return None
            self.close()
            self._next_try = now
            return DeviceChange(False, self._names, "the device gives no sound any more")
        if now < self._next_try:
            return None
        self._next_try = now + RETRY_S
        try:
            devices = list_anew(self._sd)
            try:
                self._open(devices)
            except AudioError:
                # What was asked for is not there: any default is better than silence.
                self._open(devices, by_default=True)
        except AudioError:
            return None
        return DeviceChange(True, self._names)

    def _open(self, devices: list[Any], *, by_default: bool = False) -> None:
        wanted = (None, None) if by_default else self._wanted
        pair = (find_device(devices, "input", wanted[0]), find_device(devices, "output", wanted[1]))
        by_index = {device.index: device for device in devices}
        names = (by_index[pair[0]].name, by_index[pair[1]].name)
        own_hz = by_index[pair[0]].rate_hz
        problem: Exception | None = None
        for rate_hz in dict.fromkeys((RATE_HZ, own_hz, 48_000)):
            self._mic = self._speaker = None
            if rate_hz != RATE_HZ:
                self._mic = Resampler(rate_hz, RATE_HZ, "LQ")
                self._speaker = Resampler(RATE_HZ, rate_hz, "LQ")
            self._ready = np.zeros(0, np.float32)
            self._ended = False
            try:
                stream = self._sd.Stream(
                    samplerate=rate_hz,
                    blocksize=BLOCK_SAMPLES * rate_hz // RATE_HZ,
                    device=pair,
                    channels=1,
                    dtype="int16",
                    latency=LATENCY_S,
                    callback=self._callback,
                    finished_callback=self._finished,
                )
                stream.start()
            except (self._sd.PortAudioError, ValueError) as error:
                problem = error
                continue
            self._stream, self._names = stream, names
            self._last_callback = self._clock()
            return
        raise AudioError(
            f"microphone {names[0]!r} with loudspeaker {names[1]!r} cannot be opened ({problem}); "
            "close what else uses them, or choose others (--list-devices)"
        )

    def _callback(self, mic: Any, out: Any, frames: int, times: Any, status: Any) -> None:
        self._last_callback = self._clock()
        heard: Pcm = mic[:, 0].copy()
        if self._mic is None or self._speaker is None:
            played = _pcm(self._playback.take(frames))
            out[:, 0] = played
        else:
            heard = _pcm(self._mic.push(heard.astype(np.float32) / 32768.0))
            sound = self._playback.take(len(heard))
            played = _pcm(sound)
            self._ready = np.concatenate([self._ready, self._speaker.push(sound)])
            part, self._ready = self._ready[:frames], self._ready[frames:]
            out[:, 0] = 0
            out[: len(part), 0] = _pcm(part)
        try:
            self._blocks.put_nowait(Block(heard, played))
        except queue.Full:
            self.dropped_blocks += 1

    def _finished(self) -> None:
        self._ended = True


def _pcm(audio: Any) -> Pcm:
    samples: Pcm = np.rint(np.clip(audio, -1.0, 1.0) * 32767.0).astype(np.int16)
    return samples
