"""ttt-assistant: answer, transcribe, speak."""

from __future__ import annotations

from typing import Annotated

import typer

from ttt_runtime.backends.ort.session import share_thread_pool
from ttt_runtime.cli.assistant_options import Options
from ttt_runtime.cli.shared_options import with_options
from ttt_runtime.terminal.entry import run_app

app = typer.Typer(
    name="ttt-assistant",
    help="Hear a question, answer it aloud; write down speech; speak a text. All offline.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

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
@with_options(Options)
def answer(
    options: Options,
    inputs: Inputs,
    output: Output = None,
    play: Play = False,
    max_seconds: MaxSeconds = 60.0,
) -> None:
    """Answer spoken questions, in text and in speech."""
    from ttt_runtime.cli.assistant_run import run_answer

    run_answer(options, inputs, output, play=play, max_seconds=max_seconds)


@app.command()
@with_options(Options, without=("overlap",))
def transcribe(options: Options, inputs: Inputs, max_seconds: MaxSeconds = 60.0) -> None:
    """Write down what is said."""
    from ttt_runtime.cli.assistant_run import run_transcribe

    run_transcribe(options, inputs, max_seconds=max_seconds)


@app.command()
@with_options(Options)
def speak(
    options: Options,
    text: Annotated[str, typer.Argument(help="What to say; - reads it from stdin.")],
    output: Output = None,
    play: Play = False,
) -> None:
    """Speak a text."""
    from ttt_runtime.cli.assistant_run import run_speak

    run_speak(options, text, output, play=play)


def main() -> None:
    """Run `ttt-assistant` as a program."""
    share_thread_pool()
    run_app(app)
