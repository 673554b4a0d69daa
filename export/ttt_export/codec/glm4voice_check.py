"""Hold exported codec graphs to torch, and find how few solver steps are enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ttt_ref.codec.glm4voice.codec import Glm4VoiceDecoder as TorchDecoder
from ttt_ref.codec.glm4voice.codec import Glm4VoiceTokenizer as TorchTokenizer
from ttt_ref.codec.glm4voice.flow import Flow, SolverOptions
from ttt_ref.codec.glm4voice.hift import Hift
from ttt_ref.codec.glm4voice.tokenizer import SpeechEncoder
from ttt_ref.errors import ExportError
from ttt_runtime.codec.glm4voice.decoder import Glm4VoiceDecoder
from ttt_runtime.codec.glm4voice.solver import EVALUATIONS_PER_STEP
from ttt_runtime.codec.glm4voice.tokenizer import Glm4VoiceTokenizer

DB = 20 / math.log(10)  # of a difference of natural logarithms of magnitude
CHECK_SECONDS = 6  # a closed block and an open one
CHECK_TOKENS = 26
CHECK_STEPS = 2
REFERENCE = (10, "euler")
CANDIDATES = (
    *((n, "euler") for n in range(1, 10)),
    *((n, "ab2") for n in range(2, 10)),
    *((n, "midpoint") for n in range(1, 5)),
    *((n, "heun") for n in range(1, 5)),
)


@dataclass(frozen=True)
class Reference:
    """The codec in torch."""

    encoder: SpeechEncoder
    flow: Flow
    hift: Hift


@dataclass(frozen=True)
class Made:
    """The codec as exported and loaded."""

    tokenizer: Glm4VoiceTokenizer
    decoder: Glm4VoiceDecoder


@dataclass(frozen=True)
class Gates:
    """What exported graphs must reach against torch.

    Attributes:
        min_agreement: share of equal speech tokens.
        max_mel_db: root mean square difference of the mel after two solver steps.
        max_spectrum_db: root mean square difference of the audio's log spectrum for equal mels.
    """

    min_agreement: float
    max_mel_db: float
    max_spectrum_db: float


def check_audio(seconds: float = CHECK_SECONDS, seed: int = 0) -> NDArray[np.float32]:
    """Return a speech-like test sound at 16 kHz [T]: gliding harmonics and noise in syllables."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * 16_000)) / 16_000
    pitch = 140 + 40 * np.sin(2 * np.pi * 0.7 * t)
    phase = 2 * np.pi * np.cumsum(pitch) / 16_000
    voice = sum(np.sin(k * phase) / k for k in range(1, 20))
    syllable = np.clip(np.sin(2 * np.pi * 3.1 * t) + 0.4, 0.02, None)
    sound = 0.1 * syllable * voice + 0.01 * rng.standard_normal(len(t))
    return sound.astype(np.float32)


def log_spectrum(audio: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the log power of frames of 512 samples in bands of 8 bins, in dB."""
    whole = np.lib.stride_tricks.sliding_window_view(audio, 512)[::256]
    frames = whole * np.hanning(512)
    power = np.square(np.abs(np.fft.rfft(frames)))[:, 1:].reshape(len(frames), 32, 8).mean(2)
    return np.asarray(10 * np.log10(power + 1e-10), dtype=np.float64)


def _rms(difference: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(difference, dtype=np.float64))))


@torch.inference_mode()
def compare(reference: Reference, made: Made) -> dict[str, float]:
    """Return how far the graphs are from torch on synthetic speech and random tokens."""
    audio = check_audio()
    want = TorchTokenizer(reference.encoder).encode(torch.from_numpy(audio)).numpy()
    got = made.tokenizer.encode(audio)
    agreement = float(np.mean(want == got)) if len(want) == len(got) else 0.0
    codes = np.random.default_rng(1).integers(0, reference.flow.config.num_codes, CHECK_TOKENS)
    torch_decoder = TorchDecoder(reference.flow, reference.hift, SolverOptions(CHECK_STEPS))
    frames = torch_decoder.decode_mel(torch.from_numpy(codes))
    mel = made.decoder.with_options(steps=CHECK_STEPS, solver="euler").decode_mel(codes)
    difference = frames.numpy() - mel
    vocoder = made.decoder.vocoder
    pitch = reference.hift.f0_predictor(frames).numpy() - vocoder.pitch(frames.numpy())
    # The same excitation for both: its phase would magnify a rounding of the pitch.
    rng = np.random.default_rng(2)
    source = 0.1 * np.tanh(rng.standard_normal(frames.shape[2] * 256)).astype(np.float32)
    sound = reference.hift.generate(frames, torch.from_numpy(source)[None, None])[0].numpy()
    made_sound = vocoder.generate(frames.numpy(), source)
    return {
        "token_agreement": agreement,
        "mel_max": float(np.abs(difference).max()),
        "mel_rms_db": _rms(difference) * DB,
        "pitch_max_hz": float(np.abs(pitch).max()),
        "audio_max": float(np.abs(sound - made_sound).max()),
        "spectrum_rms_db": _rms(log_spectrum(sound) - log_spectrum(made_sound)),
    }


def check_gates(report: dict[str, float], gates: Gates) -> None:
    """Raise ExportError with every figure if one misses its gate."""
    good = (
        report["token_agreement"] >= gates.min_agreement
        and report["mel_rms_db"] <= gates.max_mel_db
        and report["spectrum_rms_db"] <= gates.max_spectrum_db
    )
    if not good:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in report.items())
        raise ExportError(
            f"the exported codec is too far from torch: {figures}; expected token_agreement >= "
            f"{gates.min_agreement:g}, mel_rms_db <= {gates.max_mel_db:g}, spectrum_rms_db <= "
            f"{gates.max_spectrum_db:g}"
        )


def solver_table(
    decoder: Glm4VoiceDecoder, tokens: int = CHECK_TOKENS, seed: int = 3
) -> list[dict[str, Any]]:
    """Measure every candidate against ten Euler steps, cheapest first.

    Returns:
        rows of solver, steps, evaluations and mel_rms_db (root mean square of the log-mel).
    """
    codes = np.random.default_rng(seed).integers(0, decoder.params.num_codes, tokens)

    def mel(steps: int, solver: str) -> NDArray[np.float32]:
        return decoder.with_options(steps=steps, solver=solver).decode_mel(codes)

    target = mel(*REFERENCE)
    rows = [
        {
            "solver": solver,
            "steps": steps,
            "evaluations": steps * EVALUATIONS_PER_STEP[solver],
            "mel_rms_db": _rms(mel(steps, solver) - target) * DB,
        }
        for steps, solver in CANDIDATES
    ]
    return sorted(rows, key=lambda row: (row["evaluations"], row["mel_rms_db"]))


def fastest_solver(
    decoder: Glm4VoiceDecoder, max_mel_db: float
) -> tuple[tuple[int, str], list[dict[str, Any]]]:
    """Return the cheapest solver within the distance, else the released one, and all rows."""
    rows = solver_table(decoder)
    for row in rows:
        if row["mel_rms_db"] <= max_mel_db:
            return (row["steps"], row["solver"]), rows
    return REFERENCE, rows
