"""Processor, memory, board and audio devices, read from file systems of other machines."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ttt_runtime.doctor.audio_devices import list_audio_devices
from ttt_runtime.machine.host import free_disk, read_cpu, read_jetson, read_memory
from ttt_runtime.machine.power import Power, read_power

LAPTOP = """processor\t: 0
model name\t: 12th Gen Core
flags\t\t: fpu sse2 avx avx2 avx_vnni
processor\t: 1
model name\t: 12th Gen Core
flags\t\t: fpu sse2 avx avx2 avx_vnni
"""
ORIN = """processor\t: 0
BogoMIPS\t: 62.50
Features\t: fp asimd aes asimdhp asimddp
CPU implementer\t: 0x41
"""
PCM = """00-00: ALC257 Analog : ALC257 Analog : playback 1 : capture 1
00-03: HDMI 0 : HDMI 0 : playback 1
01-00: USB Audio : USB Audio : capture 1
nonsense
"""


def files(root: Path, **contents: str) -> Path:
    for name, text in contents.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_processor_features_have_one_name_each(tmp_path: Path) -> None:
    laptop = read_cpu(files(tmp_path / "a", proc__cpuinfo=LAPTOP))
    assert (laptop.name, laptop.features) == ("12th Gen Core", ("avx2", "avx_vnni"))
    orin = read_cpu(files(tmp_path / "b", proc__cpuinfo=ORIN))
    assert orin.features == ("neon", "neon_dot")
    assert read_cpu(tmp_path / "nowhere").features == ()
    assert laptop.threads >= 1


def test_memory_is_what_can_be_taken_without_swapping(tmp_path: Path) -> None:
    text = "MemTotal: 8000 kB\nMemFree: 100 kB\nMemAvailable: 3000 kB\nSwapTotal: 0 kB\n"
    memory = read_memory(files(tmp_path, proc__meminfo=text))
    assert memory is not None
    assert (memory.total_bytes, memory.available_bytes) == (8000 * 1024, 3000 * 1024)
    assert read_memory(tmp_path / "nowhere") is None


def test_a_jetson_is_known_by_board_and_release(tmp_path: Path) -> None:
    release = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
    board = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit\0"
    root = files(tmp_path, etc__nv_tegra_release=release)
    (root / "proc" / "device-tree").mkdir(parents=True)
    (root / "proc" / "device-tree" / "model").write_text(board)
    seen = read_jetson(root)
    assert seen == f"{board[:-1]}, Jetson Linux 36.4.3"
    (root / "etc" / "nv_tegra_release").unlink()  # containers lack this file
    assert read_jetson(root) == board[:-1]
    assert read_jetson(tmp_path / "nowhere") is None


def test_a_desktop_board_is_no_jetson(tmp_path: Path) -> None:
    (tmp_path / "proc" / "device-tree").mkdir(parents=True)
    (tmp_path / "proc" / "device-tree" / "model").write_text("Raspberry Pi 5\0")
    assert read_jetson(tmp_path) is None


def test_free_disk_of_a_folder_that_is_not_made_yet(tmp_path: Path) -> None:
    assert free_disk(tmp_path / "a" / "b") == free_disk(tmp_path)


def no_package(name: str) -> Any:
    raise ModuleNotFoundError(name)


def no_portaudio(name: str) -> Any:
    raise OSError("PortAudio library not found")


def test_alsa_is_read_where_sounddevice_is_missing(tmp_path: Path) -> None:
    root = files(tmp_path, proc__asound__pcm=PCM)
    devices = list_audio_devices(root, no_package)
    assert devices.source == "alsa"
    assert devices.inputs == ("hw:0,0 ALC257 Analog", "hw:1,0 USB Audio")
    assert devices.outputs == ("hw:0,0 ALC257 Analog", "hw:0,3 HDMI 0")
    assert "pip install '.[mic]'" in (devices.problem or "")
    assert "libportaudio2" in (list_audio_devices(root, no_portaudio).problem or "")


def test_a_machine_without_sound(tmp_path: Path) -> None:
    devices = list_audio_devices(tmp_path, no_package)
    assert devices.inputs == devices.outputs == ()


def test_sounddevice_knows_the_directions(tmp_path: Path) -> None:
    listed = [
        {"name": "headset", "max_input_channels": 1, "max_output_channels": 2},
        {"name": "speaker", "max_input_channels": 0, "max_output_channels": 2},
    ]
    module = SimpleNamespace(query_devices=lambda: listed)
    devices = list_audio_devices(tmp_path, lambda _: module)
    assert (devices.inputs, devices.outputs) == (("headset",), ("headset", "speaker"))
    assert devices.problem is None


def test_a_sound_server_that_fails_is_no_crash(tmp_path: Path) -> None:
    def fails() -> None:
        raise RuntimeError("Error querying device -1")

    devices = list_audio_devices(tmp_path, lambda _: SimpleNamespace(query_devices=fails))
    assert "Error querying device -1" in (devices.problem or "")


def test_power_mode_clocks_and_warmth(tmp_path: Path) -> None:
    cpu0 = "sys__devices__system__cpu__cpu0__cpufreq__"
    root = files(
        tmp_path,
        **{
            f"{cpu0}scaling_governor": "schedutil\n",
            f"{cpu0}scaling_max_freq": "1510400\n",
            f"{cpu0}cpuinfo_max_freq": "1728000\n",
            "var__lib__nvpmodel__status": "pmode:0002",
        },
    )
    for number, text in enumerate(("48250\n", "61000\n", "invalid\n")):
        zone = root / f"sys/class/thermal/thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "temp").write_text(text)
    assert read_power(root) == Power("schedutil", 1510, 1728, 2, 61.0)
    assert read_power(tmp_path / "nowhere") == Power()
