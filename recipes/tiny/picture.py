"""Draw a question and its answer: ``python -m recipes.tiny.picture Q.wav A.wav OUT.png``.

Two waveforms over two spectrograms on one time axis; the picture in docs/model_card.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import soundfile
import typer

from ttt_ref.errors import exit_on_error

_FFT = 512
_HOP = 128


def spectrogram(audio: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Log power [frames, bins] of audio [T], in dB below its loudest cell."""
    padded = np.pad(audio, _FFT // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP]
    power = np.abs(np.fft.rfft(windows * np.hanning(_FFT), axis=1)) ** 2
    db = 10 * np.log10(power / max(float(power.max()), 1e-12) + 1e-9)
    return db.astype(np.float32)


def draw(question: Path, answer: Path, out: Path, titles: tuple[str, str]) -> None:
    """Write the picture to ``out``."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        2, 2, figsize=(11, 4.2), sharex="col", height_ratios=[1, 2], layout="constrained"
    )
    for column, (path, title) in enumerate(zip((question, answer), titles, strict=True)):
        audio, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        mono = audio[:, 0]
        seconds = len(mono) / rate_hz
        axes[0, column].plot(np.arange(len(mono)) / rate_hz, mono, linewidth=0.5, color="#1f4e79")
        axes[0, column].set_title(title, fontsize=10)
        axes[0, column].set_ylim(-0.8, 0.8)
        axes[1, column].imshow(
            spectrogram(mono).T, origin="lower", aspect="auto", vmin=-70, vmax=0, cmap="magma",
            extent=(0, seconds, 0, rate_hz / 2000),
        )  # fmt: skip
        axes[1, column].set_xlabel("seconds")
    axes[1, 0].set_ylabel("kHz")
    figure.savefig(out, dpi=110)


def main(
    question: Annotated[Path, typer.Argument(help="WAV of the question")],
    answer: Annotated[Path, typer.Argument(help="WAV of the answer")],
    out: Annotated[Path, typer.Argument(help="PNG to write")],
    heard: Annotated[str, typer.Option(help="title of the question")] = "question",
    said: Annotated[str, typer.Option(help="title of the answer")] = "answer",
) -> None:
    """Draw waveforms and spectrograms of one turn."""
    with exit_on_error():
        draw(question, answer, out, (heard, said))


if __name__ == "__main__":
    typer.run(main)
