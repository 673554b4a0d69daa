"""Microphones and loudspeakers by name, through sounddevice (PortAudio)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ttt_ref.errors import AudioError
from ttt_ref.package import install_command

Direction = Literal["input", "output"]


@dataclass(frozen=True, slots=True)
class AudioDevice:
    """A device as PortAudio lists it. `index` holds until the list is read anew."""

    index: int
    name: str
    host: str
    inputs: int
    outputs: int
    rate_hz: int
    is_default_input: bool
    is_default_output: bool


def sounddevice_module() -> Any:
    """Return the module sounddevice.

    Raises:
        AudioError: it, or the PortAudio library, is not installed.
    """
    try:
        import sounddevice
    except ImportError:
        raise AudioError(
            f"microphone and loudspeaker need sounddevice; run: {install_command('live')}"
        ) from None
    except OSError:
        raise AudioError(
            "sounddevice finds no PortAudio library; run: sudo apt install libportaudio2"
        ) from None
    return sounddevice


def list_devices(sounddevice: Any) -> list[AudioDevice]:
    """Return all devices that PortAudio knows now."""
    try:
        hosts = [host["name"] for host in sounddevice.query_hostapis()]
        default_input, default_output = sounddevice.default.device
        return [
            AudioDevice(
                device["index"],
                device["name"],
                hosts[device["hostapi"]],
                device["max_input_channels"],
                device["max_output_channels"],
                round(device["default_samplerate"]),
                device["index"] == default_input,
                device["index"] == default_output,
            )
            for device in sounddevice.query_devices()
        ]
    except sounddevice.PortAudioError as error:
        raise AudioError(f"PortAudio cannot list the sound devices: {error}") from None


def list_anew(sounddevice: Any) -> list[AudioDevice]:
    """List after a change: PortAudio looks for devices only when it begins."""
    try:
        sounddevice._terminate()
        sounddevice._initialize()
    except sounddevice.PortAudioError as error:
        raise AudioError(f"PortAudio cannot begin anew: {error}") from None
    return list_devices(sounddevice)


def find_device(devices: list[AudioDevice], direction: Direction, wanted: str | None) -> int:
    """Return the index of a device by its number or a part of its name; None: the default.

    Raises:
        AudioError: there is none, or a part of a name fits none or several.
    """
    usable = [d for d in devices if (d.inputs if direction == "input" else d.outputs)]
    kind = "microphone" if direction == "input" else "loudspeaker"
    if not usable:
        raise AudioError(
            f"this machine has no {kind} that PortAudio knows; plug one in, or see docs/live.md"
        )
    names = ", ".join(repr(d.name) for d in usable)
    if wanted is None:
        for device in usable:
            if device.is_default_input if direction == "input" else device.is_default_output:
                return device.index
        return usable[0].index
    if wanted.isdigit():
        for device in usable:
            if device.index == int(wanted):
                return device.index
        raise AudioError(f"no {kind} has the number {wanted}; see --list-devices")
    exact = [d for d in usable if d.name.casefold() == wanted.casefold()]
    found = exact or [d for d in usable if wanted.casefold() in d.name.casefold()]
    if not found:
        raise AudioError(f"no {kind} is called {wanted!r}; there are {names}")
    if len({d.name for d in found}) > 1:
        some = ", ".join(repr(d.name) for d in found)
        raise AudioError(f"{wanted!r} may be {some}; give more of the {kind}'s name")
    return found[0].index
