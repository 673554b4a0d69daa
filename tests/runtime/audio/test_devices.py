"""Devices by name and streams that die, on a sounddevice without a sound card."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ttt_ref.errors import AudioError
from ttt_runtime.audio.devices import find_device, list_devices, sounddevice_module
from ttt_runtime.audio.duplex import Block, DeviceChange, DuplexDevice
from ttt_runtime.audio.playback import Playback


class PortAudioError(Exception):
    pass


class FakeStream:
    latency = (0.01, 0.02)

    def __init__(self, module: "FakeSoundDevice", **options: Any) -> None:
        if options["samplerate"] not in module.rates:
            raise PortAudioError("Invalid sample rate")
        self.module, self.options, self.is_open = module, options, True
        module.streams.append(self)

    def start(self) -> None:
        pass

    def abort(self) -> None:
        self.is_open = False

    def close(self) -> None:
        self.is_open = False

    def give(self, value: int = 7) -> np.ndarray:
        frames = self.options["blocksize"]
        mic, out = np.full((frames, 1), value, np.int16), np.zeros((frames, 1), np.int16)
        self.options["callback"](mic, out, frames, None, None)
        return out[:, 0]


class FakeSoundDevice:
    """Enough of the module: two devices that can be taken away."""

    PortAudioError = PortAudioError

    def __init__(self) -> None:
        self.rates = {16000}
        self.names = ["USB microphone", "Headset", "HDMI"]
        self.streams: list[FakeStream] = []
        self.begun = 1

    default = SimpleNamespace(device=(0, 2))

    def query_hostapis(self) -> list[dict[str, Any]]:
        return [{"name": "ALSA"}]

    def query_devices(self) -> list[dict[str, Any]]:
        channels = {"USB microphone": (1, 0), "Headset": (1, 2), "HDMI": (0, 2)}
        return [
            {
                "index": index,
                "name": name,
                "hostapi": 0,
                "max_input_channels": channels[name][0],
                "max_output_channels": channels[name][1],
                "default_samplerate": 48000.0,
            }
            for index, name in enumerate(self.names)
        ]

    def _terminate(self) -> None:
        pass

    def _initialize(self) -> None:
        self.begun += 1

    def Stream(self, **options: Any) -> FakeStream:
        return FakeStream(self, **options)


def test_a_device_is_found_by_name_part_or_number():
    devices = list_devices(FakeSoundDevice())
    assert find_device(devices, "input", None) == 0
    assert find_device(devices, "output", None) == 2
    assert find_device(devices, "input", "head") == 1
    assert find_device(devices, "output", "1") == 1


@pytest.mark.parametrize(
    ("direction", "wanted", "message"),
    [
        ("input", "gramophone", "there are 'USB microphone', 'Headset'"),
        ("input", "e", "give more of the microphone's name"),
        ("output", "7", "no loudspeaker has the number 7"),
    ],
)
def test_a_name_that_fits_none_or_several_is_refused(direction, wanted, message):
    with pytest.raises(AudioError, match=message):
        find_device(list_devices(FakeSoundDevice()), direction, wanted)


def test_a_machine_without_a_microphone_says_so():
    module = FakeSoundDevice()
    module.names = ["HDMI"]
    with pytest.raises(AudioError, match="no microphone"):
        DuplexDevice(Playback(16000), sounddevice=module).open()


def test_missing_packages_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(AudioError, match=r"pip install .*\[live\]"):
        sounddevice_module()


def test_blocks_hold_what_was_heard_and_what_was_played():
    module, playback = FakeSoundDevice(), Playback(16000)
    playback.append(1, np.full(320, 0.5, np.float32))
    playback.release(1)
    device = DuplexDevice(playback, sounddevice=module)
    assert device.open() == DeviceChange(True, ("USB microphone", "HDMI"))
    [stream] = module.streams
    out = stream.give(7)
    block = device.read(0.0)
    assert isinstance(block, Block)
    assert set(block.mic) == {7}
    np.testing.assert_array_equal(block.played, out)
    assert out[0] == 16384


def test_a_device_of_another_rate_is_resampled_both_ways():
    module, playback = FakeSoundDevice(), Playback(16000)
    module.rates = {48000}
    playback.append(1, np.full(16000, 0.25, np.float32))
    playback.release(1)
    device = DuplexDevice(playback, sounddevice=module)
    device.open()
    [stream] = module.streams
    outs = np.concatenate([stream.give(1000) for _ in range(40)])
    blocks = [device.read(0.0) for _ in range(40)]
    mic = np.concatenate([b.mic for b in blocks])
    assert len(mic) == pytest.approx(len(outs) / 3, abs=500)
    assert mic[-1000:].mean() == pytest.approx(1000, abs=20)
    assert outs[-3000:].mean() == pytest.approx(0.25 * 32767, rel=0.02)
    assert sum(len(b.played) for b in blocks) == len(mic)


def test_20_a_lost_device_is_noticed_looked_for_and_opened_again():
    """open-webui#28398, rcourtman/presspeech#41: unplugged, and "Listening..." for ever."""
    module, now = FakeSoundDevice(), [0.0]
    device = DuplexDevice(Playback(16000), "usb", sounddevice=module, clock=lambda: now[0])
    device.open()
    module.streams[0].give()
    assert isinstance(device.read(0.0), Block)
    now[0] = 0.9  # a busy machine's sound server pauses as long
    assert device.read(0.0) is None
    now[0] = 1.1
    lost = device.read(0.0)
    assert isinstance(lost, DeviceChange)
    assert not lost.is_there
    assert not module.streams[0].is_open
    module.rates = set()  # still gone: nothing can be opened
    assert device.read(0.0) is None
    now[0] = 2.0
    module.rates = {16000}
    assert device.read(0.0) is None  # not before two seconds are over
    now[0] = 3.2
    assert device.read(0.0) == DeviceChange(True, ("USB microphone", "HDMI"))
    assert module.begun >= 3  # PortAudio looks for devices only when it begins
    module.streams[-1].give()
    assert isinstance(device.read(0.0), Block)


def test_20_where_the_named_device_stays_away_a_default_takes_its_place():
    """open-webui#28398: the headset is gone, the laptop's own microphone is there."""
    module, now = FakeSoundDevice(), [0.0]
    device = DuplexDevice(Playback(16000), "head", sounddevice=module, clock=lambda: now[0])
    device.open()
    module.streams[0].options["finished_callback"]()
    assert device.read(0.0) == DeviceChange(
        False, ("Headset", "HDMI"), "the device gives no sound any more"
    )
    module.names = ["USB microphone", "HDMI"]
    module.default = SimpleNamespace(device=(0, 1))
    assert device.read(0.0) == DeviceChange(True, ("USB microphone", "HDMI"))


def test_a_device_that_cannot_be_opened_is_told_in_one_line():
    module = FakeSoundDevice()
    module.rates = set()
    with pytest.raises(AudioError, match=r"cannot be opened .*close what else uses them"):
        DuplexDevice(Playback(16000), sounddevice=module).open()


def test_blocks_that_nobody_takes_do_not_grow_without_end():
    module = FakeSoundDevice()
    device = DuplexDevice(Playback(16000), sounddevice=module)
    device.open()
    for _ in range(700):
        module.streams[0].give()
    assert device.dropped_blocks > 0
    device.close()
    device.close()
