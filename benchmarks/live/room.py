"""A room without hardware: PulseAudio with one stereo null sink, whose channels share a clock.

    left   the loudspeaker: what `ttt-assistant live` plays
    right  the room's air: what the user says, and the loudspeaker's echo 60 ms later

The assistant's microphone is the right channel. One recording of both channels therefore tells
every latency to the sample, whatever the programs around it buffer.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ttt_ref.errors import ConfigError

RATE_HZ: Final = 48_000
Audio = NDArray[np.float32]


class Room:
    """A sound server of its own, ended with the block.

    Args:
        echo: the loudspeaker is heard in the room.
        echo_ms: how much later.
    """

    def __init__(self, *, echo: bool = True, echo_ms: int = 60) -> None:
        for program in ("pulseaudio", "pactl", "pacat", "parec"):
            if shutil.which(program) is None:
                raise ConfigError(
                    f"{program} is missing; run: sudo apt install pulseaudio pulseaudio-utils "
                    "libasound2-plugins libportaudio2"
                )
        self._echo, self._echo_ms = echo, echo_ms
        self._folder = tempfile.TemporaryDirectory(prefix="ttt-room-")
        home = Path(self._folder.name)
        (home / "run").mkdir(mode=0o700)
        (home / ".asoundrc").write_text(
            "pcm.!default { type pulse }\nctl.!default { type pulse }\n", encoding="utf-8"
        )
        self.env = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(home / "run"),
            "HOME": str(home),
            "PULSE_SINK": "speaker",
            "PULSE_SOURCE": "microphone",
        }
        self._server: subprocess.Popen[bytes] | None = None
        self._modules: dict[str, str] = {}

    def __enter__(self) -> Room:
        self._server = subprocess.Popen(
            [
                *("pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1"),
                # A real-time thread that a busy machine delays is killed for its lateness.
                *("--disallow-exit", "--log-level=error", "--realtime=no"),
                *("-L", "module-native-protocol-unix"),
            ],
            env=self.env,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while subprocess.run(
            ["pactl", "info"], env=self.env, capture_output=True, check=False
        ).returncode:
            if time.monotonic() > deadline:
                raise ConfigError("pulseaudio does not begin")
            time.sleep(0.1)
        self.load(
            "module-null-sink",
            "sink_name=world",
            f"rate={RATE_HZ}",
            "channels=2",
            "channel_map=front-left,front-right",
        )
        self.plug()
        self.load(
            "module-remap-sink",
            "sink_name=air",
            "master=world",
            "channels=1",
            "channel_map=mono",
            "master_channel_map=front-right",
            "remix=no",
        )
        if self._echo:
            self.load(
                "module-remap-source",
                "source_name=cone",
                "master=world.monitor",
                "channels=1",
                "channel_map=mono",
                "master_channel_map=front-left",
                "remix=no",
            )
            self.load("module-loopback", "source=cone", "sink=air", f"latency_msec={self._echo_ms}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.terminate()
            self._server.wait(10)
        self._folder.cleanup()

    def plug(self) -> None:
        """Plug microphone and loudspeaker in."""
        self.load(
            "module-remap-sink",
            "sink_name=speaker",
            "master=world",
            "channels=1",
            "channel_map=mono",
            "master_channel_map=front-left",
            "remix=no",
        )
        self.load(
            "module-remap-source",
            "source_name=microphone",
            "master=world.monitor",
            "channels=1",
            "channel_map=mono",
            "master_channel_map=front-right",
            "remix=no",
        )

    def load(self, module: str, *arguments: str) -> str:
        """Load a module; return its number."""
        done = subprocess.run(
            ["pactl", "load-module", module, *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ConfigError(f"pulseaudio refuses {module}: {done.stderr.strip()}")
        number = done.stdout.strip()
        for argument in arguments:
            if argument.startswith(("sink_name=", "source_name=")):
                self._modules[argument.partition("=")[2]] = number
        return number

    def unload(self, name: str) -> None:
        """Unload the module of a sink or source."""
        subprocess.run(
            ["pactl", "unload-module", self._modules.pop(name)], env=self.env, check=True
        )

    def play(self, audio: Audio) -> None:
        """Say audio float32 [T] at 48 kHz into the room; returns when it was handed over."""
        subprocess.run(
            [
                *("pacat", "-d", "air", "--format=float32le", f"--rate={RATE_HZ}"),
                *("--channels=1", "--latency-msec=30"),
            ],
            input=audio.astype("<f4").tobytes(),
            env=self.env,
            check=True,
        )


class Recorder:
    """Records both channels for as long as the block lasts.

    `sample_of` turns a moment of the wall clock into a sample: late by at most the recording's own
    delay, some milliseconds, so that latencies counted from it are not flattered.
    """

    def __init__(self, room: Room) -> None:
        self._room = room
        self._pieces: list[bytes] = []
        self._bytes = 0
        self._offset = float("inf")  # earliest wall-clock time of sample 0 that was seen
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Recorder:
        self._process = subprocess.Popen(
            [
                *("parec", "-d", "world.monitor", "--format=float32le"),
                *(f"--rate={RATE_HZ}", "--channels=2", "--latency-msec=10"),
            ],
            env=self._room.env,
            stdout=subprocess.PIPE,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        assert self._thread is not None
        self._process.terminate()
        self._process.wait(10)
        self._thread.join(10)

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        fd = self._process.stdout.fileno()
        while data := os.read(fd, 65536):
            now = time.monotonic()
            self._pieces.append(data)
            self._bytes += len(data)
            self._offset = min(self._offset, now - self._bytes / 8 / RATE_HZ)

    def sample_of(self, monotonic_s: float) -> int:
        """Return the sample that was recorded at a time of `time.monotonic`."""
        return round((monotonic_s - self._offset) * RATE_HZ)

    @property
    def samples(self) -> int:
        """Samples so far."""
        return self._bytes // 8

    def audio(self, start: int = 0, stop: int | None = None) -> Audio:
        """Return the recording float32 [T, 2], left and right."""
        data = b"".join(self._pieces)
        whole = np.frombuffer(data[: len(data) - len(data) % 8], "<f4").reshape(-1, 2)
        return whole[start:stop]
