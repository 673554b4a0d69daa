"""Hold exported codec graphs to torch."""

from __future__ import annotations

from dataclasses import dataclass

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
from ttt_runtime.codec.glm4voice.tokenizer import Glm4VoiceTokenizer
from ttt_runtime.profiler.glm4voice.times import DB, rms, speechlike

CHECK_SECONDS = 6  # a closed block and an open one
CHECK_TOKENS = 26
CHECK_STEPS = 2


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


def log_spectrum(audio: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the log power of frames of 512 samples in bands of 8 bins, in dB."""
    whole = np.lib.stride_tricks.sliding_window_view(audio, 512)[::256]
    frames = whole * np.hanning(512)
    power = np.square(np.abs(np.fft.rfft(frames)))[:, 1:].reshape(len(frames), 32, 8).mean(2)
    return np.asarray(10 * np.log10(power + 1e-10), dtype=np.float64)


@torch.inference_mode()
def compare(reference: Reference, made: Made) -> dict[str, float]:
    """Return how far the graphs are from torch on synthetic speech and random tokens."""
    audio = speechlike(CHECK_SECONDS)
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
        "mel_rms_db": rms(difference) * DB,
        "pitch_max_hz": float(np.abs(pitch).max()),
        "audio_max": float(np.abs(sound - made_sound).max()),
        "spectrum_rms_db": rms(log_spectrum(sound) - log_spectrum(made_sound)),
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
