"""Microphones and loudspeakers: by sounddevice where it is installed, else from ALSA's list."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ttt_ref.package import install_command

ROOT: Final = Path("/")


@dataclass(frozen=True)
class AudioDevices:
    """Names of inputs and outputs, who listed them, and what stands in the way of using them."""

    source: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    problem: str | None = None


def list_audio_devices(
    root: Path = ROOT, import_module: Callable[[str], Any] = importlib.import_module
) -> AudioDevices:
    """Return the audio devices of this machine. Never raises."""
    try:
        sounddevice = import_module("sounddevice")
        devices = list(sounddevice.query_devices())
    except ModuleNotFoundError:
        return _from_alsa(root, f"sounddevice is not installed ({install_command('mic')})")
    except OSError:  # the package is there, the PortAudio library is not
        return _from_alsa(root, "PortAudio is missing (apt install libportaudio2)")
    except Exception as error:  # PortAudio's own error class exists only with the package
        return _from_alsa(root, f"sounddevice fails: {error}")
    return AudioDevices(
        "sounddevice",
        tuple(d["name"] for d in devices if d["max_input_channels"] > 0),
        tuple(d["name"] for d in devices if d["max_output_channels"] > 0),
    )


def _from_alsa(root: Path, problem: str) -> AudioDevices:
    """Read lines such as `00-00: ALC257 Analog : ALC257 Analog : playback 1 : capture 1`."""
    inputs, outputs = [], []
    try:
        lines = (root / "proc/asound/pcm").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        parts = [part.strip() for part in line.split(":")]
        if len(parts) < 3:
            continue
        card, _, device = parts[0].partition("-")
        if not (card.isdigit() and device.isdigit()):
            continue
        name = f"hw:{int(card)},{int(device)} {parts[1]}"
        inputs += [name for part in parts[3:] if part.startswith("capture")]
        outputs += [name for part in parts[3:] if part.startswith("playback")]
    return AudioDevices("alsa", tuple(inputs), tuple(outputs), problem)
