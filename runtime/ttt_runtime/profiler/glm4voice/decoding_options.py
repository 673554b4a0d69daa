"""Measure every way to decode faster against the released one: ten Euler steps over the whole.

    python -m ttt_runtime.profiler.glm4voice.decoding_options FOLDER [--other FOLDER ...]

FOLDER is a bundle or what the exporter's benchmark keeps, in float32; `--other` are the same codec
in other precisions. Each row has the time of one evaluation of the estimator, or how far the mel
is from the released way's. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from ttt_ref.errors import ConfigError, exit_on_error
from ttt_runtime.backends.ort.session import GraphSession, SessionSettings
from ttt_runtime.bundle.graph_spec import GraphSpec
from ttt_runtime.codec.base import Audio
from ttt_runtime.codec.glm4voice import graphs, timing
from ttt_runtime.codec.glm4voice.decoder import NO_AUDIO, Glm4VoiceDecoder, Glm4VoiceDecoderStream
from ttt_runtime.codec.glm4voice.noise import FLOW_STREAM, IndexedNoise
from ttt_runtime.profiler.glm4voice.times import (
    CHUNK_TOKENS,
    CODEC_FILE,
    DB,
    REFERENCE,
    median_s,
    open_codec,
    rms,
    solver_table,
)

WINDOWS = (0, 10, 20, 40, 80, 160)  # tokens of prompt before a chunk
STREAM_TOKENS = 200  # the last chunk has the widest window
STEPS, SOLVER = REFERENCE
Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """One way to decode.

    Attributes:
        option: what is varied.
        value: its value.
        evaluation_s: seconds of one guided evaluation; None where it was not timed.
        evaluations: for a chunk.
        mel_rms_db: root mean square of the log-mel's difference from the released way's; None
            where it was not compared.
    """

    option: str
    value: str
    evaluation_s: float | None
    evaluations: int
    mel_rms_db: float | None

    def line(self) -> str:
        """Return the row as text."""
        each = "-" if self.evaluation_s is None else f"{self.evaluation_s:.3f} s"
        far = "-" if self.mel_rms_db is None else f"{self.mel_rms_db:.3f} dB"
        return f"{self.option:10} {self.value:24} {self.evaluations:3} x {each:>9} {far:>11}"


class _MelOnly:
    """Stands in for the vocoder and keeps the mel."""

    def __init__(self) -> None:
        self.parts: list[Float32] = []

    def push(self, mel: Float32, ahead: Float32) -> Audio:
        self.parts.append(mel)
        return NO_AUDIO


def streamed_mel(decoder: Glm4VoiceDecoder, codes: NDArray[np.int64]) -> Float32:
    """Return the mel [1, 80, F] that a stream gives out."""
    kept = _MelOnly()
    noise = IndexedNoise(decoder.params.mel_bins, decoder.params.seed, FLOW_STREAM)
    stream = Glm4VoiceDecoderStream(decoder.flow, kept, noise)  # type: ignore[arg-type]
    stream.push(codes)
    stream.finish()
    return np.concatenate(kept.parts, 2)


class Inputs:
    """What one evaluation takes for a chunk behind a window."""

    def __init__(self, decoder: Glm4VoiceDecoder, tokens: int) -> None:
        params, rng = decoder.params, np.random.default_rng(0)
        frames = timing.frames_before(tokens)
        shape = (1, params.mel_bins, frames)
        self.row = {
            "x": rng.standard_normal(shape, dtype=np.float32),
            "t": np.zeros(1, np.float32),
            "mu": rng.standard_normal(shape, dtype=np.float32),
            "cond": np.zeros(shape, np.float32),
            "speaker": np.array([params.speaker], np.float32),
        }
        self.guidance = np.array([params.guidance], np.float32)

    def batched(self, decoder: Glm4VoiceDecoder) -> Float32:
        """Evaluate both rows in one call."""
        velocity: Float32 = decoder.flow.velocity.run(self.row | {"guidance": self.guidance})[0]
        return velocity

    def apart(self, single: GraphSession) -> Float32:
        """Evaluate the rows one after the other, as the released code does."""
        guided = single.run(self.row)[0]
        nothing = {name: np.zeros_like(self.row[name]) for name in ("mu", "cond", "speaker")}
        alone = single.run(self.row | nothing)[0]
        out: Float32 = (1 + self.guidance) * guided - self.guidance * alone
        return out


def time_rows(
    decoder: Glm4VoiceDecoder,
    single: GraphSession | None,
    others: dict[str, Glm4VoiceDecoder],
    repeats: int,
) -> list[Row]:
    """Time one evaluation of a chunk of 25 tokens: windows, guidance, precisions."""
    rows, usual = [], None
    for window in WINDOWS:
        inputs = Inputs(decoder, window + CHUNK_TOKENS)
        seconds = median_s(lambda inputs=inputs: inputs.batched(decoder), repeats)  # type: ignore[misc]
        rows.append(Row("window", f"{window} tokens", seconds, STEPS, None))
        if window == decoder.params.window_tokens:
            usual = seconds
    inputs = Inputs(decoder, decoder.params.window_tokens + CHUNK_TOKENS)
    if single is not None:
        seconds = median_s(lambda: inputs.apart(single), repeats)
        gap = float(np.abs(inputs.apart(single) - inputs.batched(decoder)).max())
        rows.append(Row("guidance", "two calls, as released", seconds, STEPS, None))
        rows.append(Row("guidance", f"one of two (max {gap:.0e})", usual, STEPS, None))
    for name, other in others.items():
        seconds = median_s(lambda other=other: inputs.batched(other), repeats)  # type: ignore[misc]
        rows.append(Row("precision", name, seconds, STEPS, None))
    return rows


def distance_rows(
    decoder: Glm4VoiceDecoder, others: dict[str, Glm4VoiceDecoder], windows: bool = True
) -> list[Row]:
    """Compare mels with those of ten Euler steps over all tokens at once."""
    rows = []
    for row in solver_table(decoder):
        name = f"{row['steps']} {row['solver']}"
        rows.append(Row("solver", name, None, row["evaluations"], row["mel_rms_db"]))
    released: dict[str, Any] = {"steps": STEPS, "solver": SOLVER}
    rng = np.random.default_rng(5)
    codes = rng.integers(0, decoder.params.num_codes, CHUNK_TOKENS)
    whole = decoder.with_options(**released).decode_mel(codes)
    for name, other in others.items():
        far = rms(other.with_options(**released).decode_mel(codes) - whole) * DB
        rows.append(Row("precision", name, None, STEPS, far))
    if windows:
        codes = rng.integers(0, decoder.params.num_codes, STREAM_TOKENS)
        # All at once, by the stream's rule for which token a frame belongs to.
        once = {"plan_tokens": (len(codes),), "hold_frames": 0}
        whole = streamed_mel(decoder.with_options(**released, **once), codes)
        for window in WINDOWS:
            made = decoder.with_options(window_tokens=window, **released)
            far = rms(streamed_mel(made, codes) - whole) * DB
            rows.append(Row("window", f"{window} tokens", None, STEPS, far))
    return rows


def open_single(folder: Path, settings: SessionSettings) -> GraphSession | None:
    """Load the single-row graph where the benchmark has kept one."""
    path = folder / "codec" / f"{graphs.FLOW_SINGLE}.onnx"
    if not path.is_file():
        return None
    entry = json.loads((folder / CODEC_FILE).read_text())["graphs"][graphs.FLOW_SINGLE]
    return GraphSession(path, GraphSpec.from_dict(entry["spec"]), settings)


def main(
    folder: Annotated[Path, typer.Argument(help="Bundle or kept folder, float32.")],
    other: Annotated[list[Path] | None, typer.Option(help="The codec in other precisions.")] = None,
    only: Annotated[str, typer.Option(help="all, times, distances or solvers.")] = "all",
    repeats: Annotated[int, typer.Option(min=1, help="Runs to take the median of.")] = 5,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Default: all CPUs.")] = None,
) -> None:
    """Measure faster ways to decode."""
    with exit_on_error():
        if only not in ("all", "times", "distances", "solvers"):
            raise ConfigError(f"--only is {only!r}; expected all, times, distances or solvers")
        settings = SessionSettings(device, threads)
        decoder = open_codec(folder, settings)[1]
        others = {path.name: open_codec(path, settings)[1] for path in other or []}
        rows = []
        if only in ("all", "times"):
            rows += time_rows(decoder, open_single(folder, settings), others, repeats)
        if only != "times":
            rows += distance_rows(decoder, others, windows=only != "solvers")
        for row in rows:
            print(row.line())
        print(json.dumps([asdict(row) for row in rows]))


if __name__ == "__main__":
    typer.run(main)
