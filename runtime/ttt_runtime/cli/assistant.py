"""ttt-assistant: answer, transcribe, speak."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttt_runtime.backends.ort.session import share_thread_pool
from ttt_runtime.terminal.entry import run_app

app = typer.Typer(
    name="ttt-assistant",
    help="Hear a question, answer it aloud; write down speech; speak a text. All offline.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Bundle = Annotated[
    Path | None,
    typer.Option("--bundle", "-b", help="Bundle folder; default: the one shipped inside."),
]
Preset = Annotated[str | None, typer.Option(help="Generation preset; default: the bundle's first.")]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, tensorrt or rtx (cpu+onnxruntime, cuda:1+graphs, rtx/cpu).")
]
Exactness = Annotated[str, typer.Option(help="reference, exact or fast.")]
Fast = Annotated[
    list[str] | None,
    typer.Option(
        "--fast", help="An approximation, NAME or NAME=VALUE (needs --exactness fast); repeatable."
    ),
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all CPUs.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of random draws.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line instead of text.")]
Overlap = Annotated[
    bool, typer.Option("--overlap", help="Run model and codec side by side, in two threads.")
]
Play = Annotated[bool, typer.Option("--play", help="Play the answer as it comes.")]
MaxSeconds = Annotated[
    float, typer.Option(min=0.1, max=600, help="Longest sound file that is accepted.")
]
Inputs = Annotated[list[str], typer.Argument(help="Sound files; - is stdin.")]
Output = Annotated[
    str | None,
    typer.Option("--output", "-o", help="WAV file; a folder for several inputs; - is stdout."),
]


@app.command()
def answer(
    inputs: Inputs,
    output: Output = None,
    bundle: Bundle = None,
    preset: Preset = None,
    device: Device = "cpu",
    exactness: Exactness = "exact",
    fast: Fast = None,
    threads: Threads = None,
    seed: Seed = 0,
    json: Json = False,
    play: Play = False,
    overlap: Overlap = False,
    max_seconds: MaxSeconds = 60.0,
) -> None:
    """Answer spoken questions, in text and in speech."""
    from ttt_runtime.cli.assistant_run import Options, run_answer

    options = Options(
        bundle, preset, device, exactness, threads, seed, json, tuple(fast or ()), overlap
    )
    run_answer(options, inputs, output, play=play, max_seconds=max_seconds)


@app.command()
def transcribe(
    inputs: Inputs,
    bundle: Bundle = None,
    preset: Preset = None,
    device: Device = "cpu",
    exactness: Exactness = "exact",
    fast: Fast = None,
    threads: Threads = None,
    seed: Seed = 0,
    json: Json = False,
    max_seconds: MaxSeconds = 60.0,
) -> None:
    """Write down what is said."""
    from ttt_runtime.cli.assistant_run import Options, run_transcribe

    options = Options(bundle, preset, device, exactness, threads, seed, json, tuple(fast or ()))
    run_transcribe(options, inputs, max_seconds=max_seconds)


@app.command()
def speak(
    text: Annotated[str, typer.Argument(help="What to say; - reads it from stdin.")],
    output: Output = None,
    bundle: Bundle = None,
    preset: Preset = None,
    device: Device = "cpu",
    exactness: Exactness = "exact",
    fast: Fast = None,
    threads: Threads = None,
    seed: Seed = 0,
    json: Json = False,
    play: Play = False,
    overlap: Overlap = False,
) -> None:
    """Speak a text."""
    from ttt_runtime.cli.assistant_run import Options, run_speak

    options = Options(
        bundle, preset, device, exactness, threads, seed, json, tuple(fast or ()), overlap
    )
    run_speak(options, text, output, play=play)


def main() -> None:
    """Run `ttt-assistant` as a program."""
    share_thread_pool()
    run_app(app)
