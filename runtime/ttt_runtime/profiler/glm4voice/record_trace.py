"""Record when a model's speech tokens come, for the playback simulator (`continuity`).

    python -m ttt_runtime.profiler.glm4voice.record_trace BUNDLE -o trace.json

The bundle's model does all its work on a question of given length; a script decides what it says,
so a bundle of random weights records like a trained one of its shape. No codec is needed.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ttt_ref.errors import exit_on_error
from ttt_ref.outputs import write_whole
from ttt_runtime.backends.ort.session import SessionSettings
from ttt_runtime.decode.events import SpeechEvent
from ttt_runtime.dialogue.assistant import pick_preset
from ttt_runtime.profiler.machine import describe_machine
from ttt_runtime.profiler.workload import (
    DEFAULT_FRAME_RATE_HZ,
    ScriptedEngine,
    TurnShape,
    scripted_config,
)


def record(engine: ScriptedEngine, shape: TurnShape) -> list[tuple[float, int]]:
    """Return (seconds since the end of the question, speech tokens that came then)."""
    assert engine.bundle is not None
    layout = engine.layout
    engine.shape = shape
    config = scripted_config(pick_preset(engine.bundle, None), shape)
    question = range(round(shape.question_seconds * DEFAULT_FRAME_RATE_HZ))
    prompt = [layout.im_start_id, layout.begin_of_audio_id]
    prompt += [layout.code_to_id(n * 7919 % layout.num_codes) for n in question]
    prompt += [layout.end_of_audio_id]
    start = time.perf_counter()
    return [
        (round(time.perf_counter() - start, 4), count)
        for event in engine.generate(prompt, config)
        if isinstance(event, SpeechEvent) and (count := sum(map(layout.is_code, event.ids)))
    ]


def main(
    bundle: Annotated[Path, typer.Argument(help="Bundle; its codec is not used.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="JSON file to write.")],
    question: Annotated[float, typer.Option(help="Seconds of the question.")] = 3.0,
    spans: Annotated[int, typer.Option(help="Spans of speech.")] = 8,
    text: Annotated[int, typer.Option(help="Text tokens before each span.")] = 13,
    blocks: Annotated[int, typer.Option(help="Blocks in each span.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: all CPUs.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, tensorrt or rtx.")] = "cpu",
) -> None:
    """Record a trace of speech tokens."""
    with exit_on_error():
        shape = TurnShape(question, spans, text, blocks)
        engine = ScriptedEngine.from_bundle(bundle, device, threads=threads)
        assert isinstance(engine, ScriptedEngine)
        record(engine, shape)  # the first turn makes pages and pools
        engine.reset()
        arrivals = record(engine, shape)
        about: dict[str, Any] = {
            "bundle": bundle.resolve().name,
            "question_s": question,
            "spans": spans,
            "text_tokens": text,
            "blocks": blocks,
            "machine": describe_machine(SessionSettings("cpu", threads).thread_count),
        }
        write_whole(out, json.dumps({"about": about, "arrivals": arrivals}, indent=1) + "\n")
        print(f"{sum(count for _, count in arrivals)} speech tokens in {arrivals[-1][0]:.2f} s")


if __name__ == "__main__":
    typer.run(main)
