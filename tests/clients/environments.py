"""Where a client runs: an environment of its own below .venv-clients, made when it is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import soundfile
import soxr

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "clients"
ENVIRONMENTS = ROOT / ".venv-clients"
QUESTION = ROOT / "samples" / "question.wav"
HEARD = "tell me the capital of france"
LONGEST_SECONDS = 240


@dataclass(frozen=True)
class Served:
    """Where the server is, and a folder for what a client needs."""

    url: str
    wyoming: str
    folder: Path
    pictures: Path | None = None


def python(name: str, *packages: str) -> Path:
    """Return the Python of an environment with these packages."""
    folder = ENVIRONMENTS / name
    stamp = folder / "packages.txt"
    if not stamp.is_file() or stamp.read_text() != "\n".join(packages):
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--progress-bar", "off"]
        subprocess.run([*pip, *packages], check=True)
        stamp.write_text("\n".join(packages))
    return folder / "bin" / "python"


def node(name: str, *packages: str) -> Path:
    """Return a folder with these npm packages."""
    folder = ENVIRONMENTS / name
    if not (folder / "node_modules").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        install = ["npm", "install", "--silent", "--no-fund", "--prefix", str(folder)]
        subprocess.run([*install, *packages], check=True)
    return folder


def run(*command: str | Path, env: dict[str, str] | None = None) -> None:
    """Run a client; CalledProcessError if it fails."""
    added = {**os.environ, **(env or {})}
    subprocess.run([str(c) for c in command], check=True, env=added, timeout=LONGEST_SECONDS)


def raw_question(served: Served, rate_hz: int = 24000) -> Path:
    """Return the question as raw 16-bit samples."""
    audio, rate = soundfile.read(QUESTION, dtype="float32")
    file = served.folder / f"question_{rate_hz}.pcm"
    file.write_bytes((soxr.resample(audio, rate, rate_hz) * 32767).astype("<i2").tobytes())
    return file


def wav_question(served: Served, folder: str = ".") -> Path:
    """Return the question as a WAV file of 16 kHz, x.wav in a folder of the server's."""
    audio, rate = soundfile.read(QUESTION, dtype="float32")
    file = served.folder / folder / "x.wav"
    file.parent.mkdir(exist_ok=True)
    soundfile.write(file, soxr.resample(audio, rate, 16000), 16000, "PCM_16")
    return file


# What a client's own version is told by.
_NAMED = ("openai", "agents", "wyoming-bench", "playwright", "pipecat-ai", "homeassistant",
          "livekit-plugins-openai", "openai-agents", "speech-to-speech",
          "@openai/agents-realtime")  # fmt: skip


def versions(name: str) -> str:
    """Return the versions of what a client's environment was made for."""
    folder = ENVIRONMENTS / name
    found = []
    for package in folder.glob("lib/python*/site-packages/*.dist-info"):
        known, _, number = package.name.removesuffix(".dist-info").rpartition("-")
        if known.replace("_", "-").lower() in _NAMED:
            found.append(f"{known.replace('_', '-')} {number}")
    for file in folder.glob("node_modules/**/package.json"):
        if file.parent.parent.parent == folder or file.parent.parent.parent.parent == folder:
            package_name = str(file.parent.relative_to(folder / "node_modules"))
            if package_name in _NAMED:
                found.append(f"{package_name} {json.loads(file.read_text())['version']}")
    return ", ".join(sorted(found))
