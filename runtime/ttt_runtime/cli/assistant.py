"""ttt-assistant: answer, transcribe, ask, chat, speak, live."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttt_ref.command_line import run_app
from ttt_runtime.backends.ort.session import share_thread_pool
from ttt_runtime.cli.assistant_options import Options
from ttt_runtime.cli.shared_options import with_options

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
Raw = Annotated[
    str | None,
    typer.Option(
        metavar="RATE[:FORMAT[:CHANNELS]]",
        help="Inputs are samples without a header: 16000, 8000:mulaw, 48000:f32le:2 ...",
    ),
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
    raw: Raw = None,
) -> None:
    """Answer spoken questions, in text and in speech."""
    from ttt_runtime.cli.assistant_run import run_answer

    run_answer(options, inputs, output, play=play, max_seconds=max_seconds, raw=raw)


@app.command()
@with_options(Options, without=("overlap",))
def transcribe(
    options: Options, inputs: Inputs, max_seconds: MaxSeconds = 60.0, raw: Raw = None
) -> None:
    """Write down what is said.

    A published model repeats the speech between its words; it is computed, as in training, and not
    decoded. `--exactness fast --fast text_only` leaves it out.
    """
    from ttt_runtime.cli.assistant_run import run_transcribe

    run_transcribe(options, inputs, max_seconds=max_seconds, raw=raw)


@app.command()
@with_options(Options)
def ask(
    options: Options,
    instruction: Annotated[str, typer.Argument(help="What to do with the audio, in words.")],
    source: Annotated[str, typer.Argument(metavar="IN", help="Sound file; - is stdin.")],
    output: Output = None,
    play: Play = False,
    max_seconds: MaxSeconds = 60.0,
) -> None:
    """Follow a written instruction about a sound, such as: Please generate a caption for it."""
    from ttt_runtime.cli.assistant_run import run_ask

    run_ask(options, instruction, source, output, play=play, max_seconds=max_seconds)


@app.command()
@with_options(Options, without=("overlap",))
def chat(
    options: Options,
    text: Annotated[str, typer.Argument(help="What to answer; - reads it from stdin.")],
) -> None:
    """Answer a written question in text."""
    from ttt_runtime.cli.assistant_run import run_chat

    run_chat(options, text)


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


@app.command()
@with_options(Options)
def live(
    options: Options,
    mode: Annotated[
        str, typer.Option(help="hands_free, push_to_talk or wake_word.")
    ] = "hands_free",
    microphone: Annotated[
        str | None, typer.Option("--mic", help="Part of its name, or its number; default: first.")
    ] = None,
    loudspeaker: Annotated[
        str | None, typer.Option("--speaker", help="Part of its name, or its number.")
    ] = None,
    list_devices: Annotated[
        bool, typer.Option("--list-devices", help="Show microphones and loudspeakers, and end.")
    ] = False,
    echo: Annotated[
        str, typer.Option(help="webrtc (loudspeaker), half_duplex, or off (headphones).")
    ] = "webrtc",
    voice: Annotated[str, typer.Option(help="Voice detector: silero or energy.")] = "silero",
    wake_word: Annotated[str, typer.Option(help="For --mode wake_word.")] = "okay_nabu",
    silence: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=5,
            help="Seconds of silence that end a turn; default: 0.35 "
            "where its transcript reads complete, else 0.9.",
        ),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Keep each turn (sound and figures) in this folder.")
    ] = None,
) -> None:
    """Talk with the assistant: microphone and loudspeaker, interruptions allowed."""
    from ttt_runtime.cli.live_run import LiveOptions, run_live, show_devices, turn_settings

    if list_devices:
        show_devices()
        return
    settings = turn_settings(mode, silence)
    run_live(
        options, LiveOptions(settings, microphone, loudspeaker, echo, voice, wake_word, record)
    )


def main() -> None:
    """Run `ttt-assistant` as a program."""
    share_thread_pool()
    run_app(app)
