"""Measure an exported codec on this machine: times, memory, and how few solver steps are enough.

    python -m ttt_runtime.profiler.glm4voice.times BUNDLE

Instead of a bundle it takes a folder of codec graphs with a `codec.json`, which the exporter's
benchmark writes. No torch is needed, so it runs on the device. The last line of stdout is one JSON
document.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from ttt_ref.errors import ConfigError, exit_on_error
from ttt_runtime.backends.ort.session import GraphSession, SessionSettings
from ttt_runtime.bundle.folder import Bundle, check_relative
from ttt_runtime.bundle.graph_spec import GraphSpec
from ttt_runtime.codec.glm4voice import timing
from ttt_runtime.codec.glm4voice.decoder import Glm4VoiceDecoder
from ttt_runtime.codec.glm4voice.load import assemble, load
from ttt_runtime.codec.glm4voice.params import DecoderParams, TokenizerParams
from ttt_runtime.codec.glm4voice.solver import EVALUATIONS_PER_STEP
from ttt_runtime.codec.glm4voice.tokenizer import Glm4VoiceTokenizer

DB = 20 / math.log(10)  # of a difference of natural logarithms of magnitude
CHUNK_TOKENS = 25
PIECE_SAMPLES = 1_600  # a microphone's piece: 0.1 s
SECONDS_PER_TOKEN = 0.08
CODEC_FILE = "codec.json"
PARTS = ("tokenizer", "flow", "vocoder", "stream")
REFERENCE = (10, "euler")
CANDIDATES = (
    *((n, "euler") for n in range(1, 10)),
    *((n, "ab2") for n in range(2, 10)),
    *((n, "midpoint") for n in range(1, 5)),
    *((n, "heun") for n in range(1, 5)),
)


def speechlike(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """Return a test sound at 16 kHz [T]: gliding harmonics and noise in syllables."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * 16_000)) / 16_000
    phase = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * np.pi * 0.7 * t)) / 16_000
    voice = np.sum([np.sin(k * phase) / k for k in range(1, 20)], axis=0)
    syllable = np.clip(np.sin(2 * np.pi * 3.1 * t) + 0.4, 0.02, None)
    sound = 0.1 * syllable * voice + 0.01 * rng.standard_normal(len(t))
    return np.asarray(sound, dtype=np.float32)


def rms(difference: NDArray[Any]) -> float:
    """Return the root mean square of all elements."""
    return float(np.sqrt(np.mean(np.square(difference, dtype=np.float64))))


def solver_table(
    decoder: Glm4VoiceDecoder, tokens: int = CHUNK_TOKENS, seed: int = 3
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
            "mel_rms_db": rms(mel(steps, solver) - target) * DB,
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


def median_s(run: Callable[[], object], repeats: int) -> float:
    """Return the median of the seconds that a call takes, after one that does not count."""
    run()  # the first run allocates
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def memory_mb(field: str = "VmRSS") -> float:
    """Return this process's resident memory (VmHWM: its peak) in MB; 0 where it is not told."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) * 1024e-6 for line in lines if line.startswith(field))


def measure(
    tokenizer: Glm4VoiceTokenizer,
    decoder: Glm4VoiceDecoder,
    repeats: int = 5,
    audio_seconds: float = 10.0,
    stream_seconds: float = 60.0,
    parts: Collection[str] = PARTS,
) -> dict[str, float]:
    """Return real-time factors of the stages and of a stream with the codec's own options.

    The flow's figures are those of a chunk of 25 tokens behind the window.
    """
    params = decoder.params
    out: dict[str, float] = {}
    if "tokenizer" in parts:
        audio = speechlike(audio_seconds)
        encoded = median_s(lambda: tokenizer.encode(audio), repeats)
        out["rtf_tokenizer"] = encoded / audio_seconds
        out["encode_rest_s"] = _rest(tokenizer, audio)
    rng = np.random.default_rng(0)
    tokens = params.window_tokens + CHUNK_TOKENS
    codes = rng.integers(0, params.num_codes, tokens)
    frames = timing.frames_before(tokens)
    index = timing.exact_index(0, frames)
    chunk_s = CHUNK_TOKENS * SECONDS_PER_TOKEN
    if "flow" in parts:
        flow = decoder.flow
        out["rtf_flow_encoder"] = median_s(lambda: flow.means(codes, index), repeats) / chunk_s
        mu = flow.means(codes, index)
        noise = rng.standard_normal(mu.shape, dtype=np.float32)
        one = decoder.with_options(steps=1, solver="euler").flow
        evaluation = median_s(lambda: one.solve(mu, mu[:, :, :0], noise), repeats)
        out["flow_evaluation_s"] = evaluation
        out["rtf_flow_10_steps"] = 10 * evaluation / chunk_s
        evaluations = params.steps * EVALUATIONS_PER_STEP[params.solver]
        out["rtf_flow_own_steps"] = evaluations * evaluation / chunk_s
    if "vocoder" in parts:
        mel = rng.standard_normal((1, params.mel_bins, frames), dtype=np.float32)
        made = median_s(lambda: decoder.vocoder_stream().push(mel, mel[:, :, :0]), repeats)
        out["rtf_vocoder"] = made * timing.RATE_HZ / timing.HOP / frames
    return out | (_stream(decoder, stream_seconds) if "stream" in parts else {})


def _rest(tokenizer: Glm4VoiceTokenizer, audio: NDArray[np.float32]) -> float:
    """Return the seconds that a streamed recording takes after its last sample."""
    stream = tokenizer.stream()
    for begin in range(0, len(audio), PIECE_SAMPLES):
        stream.push(audio[begin : begin + PIECE_SAMPLES])
    start = time.perf_counter()
    stream.finish()
    return time.perf_counter() - start


def _stream(decoder: Glm4VoiceDecoder, seconds: float) -> dict[str, float]:
    """Time the chunks of a stream: the first sound, and whether later chunks cost more."""
    params = decoder.params
    count = round(seconds / SECONDS_PER_TOKEN)
    codes = np.random.default_rng(1).integers(0, params.num_codes, count)
    stream, at = decoder.stream(), 0
    times: list[float] = []
    work: list[float] = []  # CPU seconds: what a chunk costs, whatever else the machine does
    while at + (size := params.chunk_tokens(len(times))) <= count:
        start, busy = time.perf_counter(), time.process_time()
        stream.push(codes[at : at + size])
        times.append(time.perf_counter() - start)
        work.append(time.process_time() - busy)
        at += size
    if len(times) < 4:
        return {}
    return {
        "stream_first_chunk_s": times[0],
        "stream_later_chunk_s": statistics.median(times[2:]),
        "stream_last_over_third": times[-1] / times[2],
        "stream_last_over_third_cpu": work[-1] / work[2],
        "rtf_stream": sum(times) / (at * SECONDS_PER_TOKEN),
    }


def open_codec(
    folder: Path, settings: SessionSettings
) -> tuple[Glm4VoiceTokenizer, Glm4VoiceDecoder]:
    """Load the codec of a bundle, or of a folder with `codec.json`."""
    if not (folder / CODEC_FILE).is_file():
        return load(Bundle.open(folder, verify="sizes"), settings)
    data = json.loads((folder / CODEC_FILE).read_text())

    def session(name: str) -> GraphSession:
        entry = data["graphs"][name]
        spec = GraphSpec.from_dict(entry["spec"])
        return GraphSession(folder / check_relative(entry["file"]), spec, settings)

    tokenizer = TokenizerParams.from_dict(data["params"]["tokenizer"])
    return assemble(tokenizer, DecoderParams.from_dict(data["params"]["decoder"]), session)


def main(
    folder: Annotated[Path, typer.Argument(help="Bundle with a GLM-4-Voice codec.")],
    repeats: Annotated[int, typer.Option(min=1, help="Runs to take the median of.")] = 5,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Default: all CPUs.")] = None,
    stream_seconds: Annotated[float, typer.Option(help="Length of the timed stream.")] = 60.0,
    steps: Annotated[int | None, typer.Option(min=1, help="In place of the codec's own.")] = None,
    solver: Annotated[str | None, typer.Option(help="In place of the codec's own.")] = None,
    part: Annotated[list[str] | None, typer.Option(help=f"Only {', '.join(PARTS)}.")] = None,
    solvers: Annotated[bool, typer.Option(help="Also measure every solver.")] = False,
) -> None:
    """Measure the codec of a bundle."""
    with exit_on_error():
        before, start = memory_mb(), time.perf_counter()
        tokenizer, decoder = open_codec(folder, SessionSettings(device, threads))
        out: dict[str, Any] = {"load_s": time.perf_counter() - start}
        out["loaded_mb"] = memory_mb() - before
        own = {"steps": steps, "solver": solver}
        decoder = decoder.with_options(**{k: v for k, v in own.items() if v is not None})
        parts = part or PARTS
        if unknown := set(parts) - set(PARTS):
            raise ConfigError(f"--part {unknown.pop()!r}; expected one of {', '.join(PARTS)}")
        out |= measure(tokenizer, decoder, repeats, stream_seconds=stream_seconds, parts=parts)
        out["peak_mb"] = memory_mb("VmHWM")
        if solvers:
            out["solvers"] = solver_table(decoder)
        print(json.dumps(out))


if __name__ == "__main__":
    typer.run(main)
