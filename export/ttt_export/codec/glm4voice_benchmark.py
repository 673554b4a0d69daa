"""Measure the GLM-4-Voice codec: work, real-time factor, memory and file size by precision.

    python -m ttt_ref.codec.glm4voice.random_weights /tmp/codec
    python -m ttt_export.codec.glm4voice_benchmark /tmp/codec/tokenizer /tmp/codec/decoder

Each precision is exported to a temporary folder, or one that is kept, and measured in a fresh
process that has no torch, so that memory is its own. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ttt_export.codec.glm4voice import FLOAT32, export_glm4voice
from ttt_export.codec.glm4voice_check import Gates
from ttt_export.codec.glm4voice_flow import write_flow_single
from ttt_export.codec.graph_work import gflop
from ttt_export.codec_export import CODEC_REPORT_FILE
from ttt_ref.codec.glm4voice.weights import load_flow
from ttt_ref.errors import ExportError, exit_on_error
from ttt_runtime.bundle.folder import BundleWriter
from ttt_runtime.bundle.manifest import CodecEntry, GraphEntry
from ttt_runtime.codec.glm4voice import graphs, timing
from ttt_runtime.codec.glm4voice.params import DecoderParams, TokenizerParams
from ttt_runtime.profiler.glm4voice.times import (
    CHUNK_TOKENS,
    CODEC_FILE,
    REFERENCE,
    SECONDS_PER_TOKEN,
)

KEPT_REPORT = "benchmark.json"
OPEN_GATES = Gates(min_agreement=0.0, max_mel_db=1e9, max_spectrum_db=1e9)


def work(folder: Path, entry: CodecEntry) -> dict[str, float]:
    """Return GFLOP of the stages: of a second of sound, and of one guided evaluation of the flow.

    The tokenizer's figure is that of a block of 4 s behind 4 s; the flow's that of a chunk of 25
    tokens behind the window.
    """
    params = DecoderParams.from_dict(entry.params["decoder"])
    block = TokenizerParams.from_dict(entry.params["tokenizer"]).block_positions
    tokens = params.window_tokens + CHUNK_TOKENS
    frames = timing.frames_before(tokens)
    dims = {"W": 2 * block + 4, "L": block, "P": block, "S": tokens, "F": frames}
    dims["T"] = frames * timing.HOP
    whole = {name: gflop(folder / f"{name}.onnx", dims) for name in graphs.ALL}
    chunk_s = CHUNK_TOKENS * SECONDS_PER_TOKEN
    frames_per_s = timing.RATE_HZ / timing.HOP
    vocoder = whole[graphs.VOCODER] + whole[graphs.VOCODER_F0]
    return {
        "tokenizer_per_s": whole[graphs.TOKENIZER] / (block * 0.02),
        "flow_encoder_per_s": whole[graphs.FLOW_ENCODER] / chunk_s,
        "flow_evaluation": whole[graphs.FLOW_VELOCITY],
        "flow_10_evaluations_per_s": 10 * whole[graphs.FLOW_VELOCITY] / chunk_s,
        "vocoder_per_s": vocoder / frames * frames_per_s,
    }


def export_codec_only(
    tokenizer: Path, decoder: Path, precision: str, out: Path
) -> tuple[CodecEntry, dict[str, Any]]:
    """Write the codec's graphs and `codec.json` into `out`; return its entry and a report."""
    start = time.perf_counter()
    with BundleWriter(out) as writer:
        entry = export_glm4voice(
            tokenizer, decoder, writer, "cpu", precision, solver=REFERENCE, gates=OPEN_GATES
        )
        seconds = time.perf_counter() - start
        report = json.loads(writer.path(CODEC_REPORT_FILE).read_text())
        kept = dict(entry.graphs)
        if precision == "fp32":  # what the released code evaluates one after the other
            file = f"codec/{graphs.FLOW_SINGLE}.onnx"
            spec = write_flow_single(writer.path(file), load_flow(decoder), FLOAT32)
            kept[graphs.FLOW_SINGLE] = GraphEntry(spec, file)
        data = {
            "params": dict(entry.params),
            "graphs": {
                name: {"spec": graph.spec.to_dict(), "file": graph.file}
                for name, graph in kept.items()
            },
        }
        writer.add_bytes(CODEC_FILE, json.dumps(data).encode())
        writer.folder.rename(out)
    sizes = {
        name: sum(f.stat().st_size for f in (out / "codec").glob(f"{name}.onnx*")) / 1e6
        for name in entry.graphs
    }
    return entry, {"export_s": seconds, "file_mb": sizes, "difference": report["difference"]}


def export_once(tokenizer: Path, decoder: Path, precision: str, out: Path) -> dict[str, Any]:
    """Export into `out` unless it is there; return the report, with the work of all graphs."""
    if not (out / KEPT_REPORT).is_file():
        entry, report = export_codec_only(tokenizer, decoder, precision, out)
        if precision == "fp32":  # the work is the same in all
            report["gflop"] = work(out / "codec", entry)
        (out / KEPT_REPORT).write_text(json.dumps(report))
    kept: dict[str, Any] = json.loads((out / KEPT_REPORT).read_text())
    return kept


def benchmark(
    tokenizer: Path, decoder: Path, precision: str, folder: Path, options: list[str]
) -> dict[str, Any]:
    """Export in one precision and measure in a process of its own."""
    out = folder / precision
    result = export_once(tokenizer, decoder, precision, out)
    command = [sys.executable, "-m", "ttt_runtime.profiler.glm4voice.times", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ExportError(f"measuring {precision} failed: {done.stderr.strip()[-300:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result | measured


def _print_rows(name: str, result: dict[str, Any]) -> None:
    for key, value in result.items():
        if isinstance(value, dict):
            text = ", ".join(f"{k} {v:.4g}" for k, v in value.items())
        elif isinstance(value, list):
            text = "".join(
                f"\n    {row['solver']:9} {row['steps']:3} steps {row['evaluations']:3} "
                f"evaluations {row['mel_rms_db']:8.3f} dB"
                for row in value
            )
        else:
            text = f"{value:.4g}"
        print(f"{name:5} {key:26} {text}")


def main(
    tokenizer: Annotated[Path, typer.Argument(help="Tokenizer folder.")],
    decoder: Annotated[Path, typer.Argument(help="Decoder folder.")],
    precision: Annotated[list[str] | None, typer.Option(help="Repeat for several.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs to take the median of.")] = 5,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: all CPUs.")] = None,
    stream_seconds: Annotated[float, typer.Option(help="Length of the timed stream.")] = 60.0,
    solvers: Annotated[bool, typer.Option(help="Also the table of solvers.")] = False,
    steps: Annotated[int, typer.Option(min=1, help="Solver steps of the timed stream.")] = 10,
    solver: Annotated[str, typer.Option(help="Solver of the timed stream.")] = "euler",
    keep: Annotated[Path | None, typer.Option(help="Export into this folder, or reuse.")] = None,
    export_only: Annotated[bool, typer.Option(help="Measure nothing (with --keep).")] = False,
) -> None:
    """Export and measure the codec in each precision."""
    options = ["--repeats", str(repeats), "--stream-seconds", str(stream_seconds)]
    options += [] if threads is None else ["--threads", str(threads)]
    options += ["--solvers"] if solvers else []
    options += ["--steps", str(steps), "--solver", solver]
    with exit_on_error(), tempfile.TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        results: dict[str, Any] = {}
        for name in precision or ["fp32", "fp16", "int8"]:
            if export_only:
                results[name] = export_once(tokenizer, decoder, name, folder / name)
            else:
                results[name] = benchmark(tokenizer, decoder, name, folder, options)
            _print_rows(name, results[name])
        print(json.dumps(results))


if __name__ == "__main__":
    typer.run(main)
