"""What `ttt-assistant` does once its options are known."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, TextIO

from ttt_ref.errors import AudioError, BundleError, ConfigError
from ttt_ref.outputs import refuse_inputs
from ttt_ref.streams import escaped, print_json, printable
from ttt_runtime.audio.headers import RawFormat
from ttt_runtime.audio.reader import Recording, read_question, require_output_device
from ttt_runtime.audio.wav_writer import StreamingWavWriter
from ttt_runtime.cli.assistant_options import Options
from ttt_runtime.cli.batch import Batch
from ttt_runtime.decode.approximations import exactness_named, parse_approximations
from ttt_runtime.dialogue.assistant import Assistant, AudioPart, Part, Reply, TextPart
from ttt_runtime.dialogue.prompt import Task
from ttt_runtime.dialogue.timeline import PHASES

MAX_TEXT_CHARACTERS: Final = 2000
SHIPPED: Final = Path(__file__).resolve().parent.parent / "bundles" / "tiny"


def load_assistant(options: Options, task: Task) -> Assistant:
    """Load the assistant that the options ask for, and say what a user should know of it.

    `task` is what `--system` gives a text to; a model without it is refused before anything else.
    """
    exactness = exactness_named(options.exactness)
    assistant = Assistant.from_bundle(
        shipped_or(options.bundle),
        options.device,
        exactness,
        preset=options.preset,
        fast=parse_approximations(options.fast or (), exactness),
        threads=options.threads,
        overlap=options.overlap,
    )
    print_notes(assistant)
    if options.system is not None:
        assistant.prompts.replace_system(task, options.system)
    assistant.prompts.prompts.system_text(task)
    return assistant


def print_notes(assistant: Assistant) -> None:
    """Say on standard error what the bundle and this machine leave to be desired."""
    for note in (assistant.engine.runner.note, assistant.prompts.note):
        if note:
            print(f"note: {note}", file=sys.stderr)


def shipped_or(bundle: Path | None) -> Path:
    """Return the bundle asked for, or the shipped one; BundleError if none is shipped."""
    if bundle is not None:
        return bundle
    if not SHIPPED.is_dir():
        raise BundleError(
            f"this installation ships no bundle ({SHIPPED} is missing); give one with --bundle"
        )
    return SHIPPED


class _Sound:
    """Where the answer's sound goes: a WAV file, a pipe, the loudspeaker, or nowhere."""

    def __init__(self, target: str | None, rate_hz: int, *, play: bool) -> None:
        self._stack = contextlib.ExitStack()
        self._writer: StreamingWavWriter | None = None
        self._player: Any = None
        if play:
            device = require_output_device()
            self._player = self._stack.enter_context(
                device.OutputStream(samplerate=rate_hz, channels=1, dtype="float32")
            )
        if target is not None:
            self._writer = self._stack.enter_context(StreamingWavWriter(target, rate_hz))

    def __enter__(self) -> _Sound:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)

    def write(self, part: AudioPart) -> None:
        if self._writer is not None:
            self._writer.write(part.audio)
        if self._player is not None:
            self._player.write(part.audio.reshape(-1, 1))


def run_answer(
    options: Options,
    inputs: Sequence[str],
    output: str | None,
    *,
    play: bool,
    max_seconds: float,
    raw: str | None = None,
) -> None:
    """Answer every input in a conversation of its own."""
    targets = _targets(inputs, output)
    report = sys.stderr if output == "-" else sys.stdout
    raw_format = None if raw is None else RawFormat.parse(raw)
    batch = _checked("answer", inputs, report if options.json else None)
    assistant = load_assistant(options, "answer")

    def answer(source: str, target: str | None) -> None:
        recording = _read(assistant, source, max_seconds, raw_format)
        speak = play or target is not None
        with _Sound(target, _rate_hz(assistant), play=play) as sound:
            parts = assistant.answer(recording.audio, seed=options.seed, speak=speak)
            reply = _follow(parts, sound, None if options.json else report)
        _report(options, reply, source, target, report)

    for number, item in enumerate(zip(inputs, targets, strict=True)):
        batch.attempt(number, partial(answer, *item))
    batch.finish()


def run_transcribe(
    options: Options, inputs: Sequence[str], *, max_seconds: float, raw: str | None = None
) -> None:
    """Transcribe every input."""
    raw_format = None if raw is None else RawFormat.parse(raw)
    batch = _checked("transcribe", inputs, sys.stdout if options.json else None)
    assistant = load_assistant(options, "transcribe")

    def transcribe(source: str) -> None:
        recording = _read(assistant, source, max_seconds, raw_format)
        reply = _follow(assistant.transcribe(recording.audio, seed=options.seed), None, None)
        if options.json:
            _report(options, reply, source, None, sys.stdout)
        else:
            heard = printable(reply.heard)
            print(f"{escaped(source)}: {heard}" if len(inputs) > 1 else heard)

    for number, source in enumerate(inputs):
        batch.attempt(number, partial(transcribe, source))
    batch.finish()


def run_speak(options: Options, text: str, output: str | None, *, play: bool) -> None:
    """Speak a text; `-` reads it from stdin."""
    if output is None and not play:
        raise ConfigError("nowhere to put the sound; give -o OUT.wav or --play")
    report = sys.stderr if output == "-" else sys.stdout
    text = _text(text)
    assistant = load_assistant(options, "speak")
    parts = assistant.speak(text, seed=options.seed)
    with _Sound(output, _rate_hz(assistant), play=play) as sound:
        reply = _follow(parts, sound, None)
    _report(options, reply, None, output, report)


def run_ask(
    options: Options,
    instruction: str,
    source: str,
    output: str | None,
    *,
    play: bool,
    max_seconds: float,
) -> None:
    """Follow an instruction about one input."""
    (target,) = _targets([source], output)
    report = sys.stderr if output == "-" else sys.stdout
    _checked("ask", [source], None)
    assistant = load_assistant(options, "ask")
    recording = _read(assistant, source, max_seconds)
    speak = play or target is not None
    parts = assistant.ask(_text(instruction), recording.audio, seed=options.seed, speak=speak)
    with _Sound(target, _rate_hz(assistant), play=play) as sound:
        reply = _follow(parts, sound, None if options.json else report)
    _report(options, reply, source, target, report)


def run_chat(options: Options, text: str) -> None:
    """Answer a text in text; `-` reads it from stdin."""
    text = _text(text)
    assistant = load_assistant(options, "chat")
    parts = assistant.chat(text, seed=options.seed)
    reply = _follow(parts, None, None if options.json else sys.stdout)
    if options.json:
        _report(options, reply, None, None, sys.stdout)


def _text(text: str) -> str:
    """Return a text of the command line (`-`: of stdin) that is not too long."""
    if text == "-":
        text = _stdin_text()
    if len(text) > MAX_TEXT_CHARACTERS:
        raise ConfigError(
            f"the text has {len(text)} characters; at most {MAX_TEXT_CHARACTERS} are taken at once"
        )
    return text


def _stdin_text() -> str:
    try:
        return sys.stdin.read(MAX_TEXT_CHARACTERS + 1)
    except UnicodeDecodeError:
        raise ConfigError("stdin is not text (UTF-8); give the words to speak") from None


def _targets(inputs: Sequence[str], output: str | None) -> list[str | None]:
    """Return one output name for each input; ConfigError for one that would be written over."""
    if output is None:
        return [None] * len(inputs)
    if not output:
        raise ConfigError("the output's name is empty (an unset variable?); give -o OUT.wav")
    folder = Path(output)
    if len(inputs) == 1 and not folder.is_dir() and not output.endswith("/"):
        _refuse_inputs(inputs, [output])
        return [output]
    if output == "-" or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"{len(inputs)} inputs cannot all go to {output!r}; give a folder")
    names = ["stdin" if source == "-" else Path(source).stem for source in inputs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two inputs are named {name!r}; answer them one by one")
    targets = [str(folder / f"{name}.wav") for name in names]
    _refuse_inputs(inputs, targets)
    folder.mkdir(parents=True, exist_ok=True)
    return list(targets)


def _refuse_inputs(inputs: Sequence[str], targets: Sequence[str]) -> None:
    """Refuse to write over a recording that is read."""
    files = [target for target in targets if target != "-"]
    refuse_inputs(files, [Path(source) for source in inputs if source != "-"])


def _checked(task: str, inputs: Sequence[str], records: TextIO | None) -> Batch:
    """Return the inputs as a batch; those that need no model to be refused have failed in it."""
    if list(inputs).count("-") > 1:
        raise ConfigError("stdin (-) was given twice; it can be read only once")
    batch = Batch(task, inputs, records)
    batch.check(_check_input)
    return batch


def _check_input(source: str) -> None:
    if source != "-":
        if Path(source).is_dir():
            raise AudioError(f"{source} is a folder; give a sound file")
        Path(source).stat()


def _read(
    assistant: Assistant, source: str, max_seconds: float, raw: RawFormat | None = None
) -> Recording:
    assert assistant.tokenizer is not None
    recording = read_question(source, assistant.tokenizer, max_seconds=max_seconds, raw=raw)
    for note in recording.notes:
        _note(note)
    return recording


def _note(text: str) -> None:
    print(f"note: {printable(text)}", file=sys.stderr)


def _rate_hz(assistant: Assistant) -> int:
    assert assistant.decoder is not None
    return assistant.decoder.sample_rate_hz


def _follow(parts: Iterable[Part], sound: _Sound | None, live: TextIO | None) -> Reply:
    """Pass the parts on as they come; return the last."""
    reply: Reply | None = None
    for part in parts:
        if isinstance(part, TextPart):
            if live is not None:
                print(printable(part.text), end="", file=live, flush=True)
        elif isinstance(part, AudioPart):
            if sound is not None:
                sound.write(part)
        else:
            reply = part
    if live is not None:
        print(file=live)
    assert reply is not None
    for note in reply.notes:
        _note(note)
    return reply


def _report(
    options: Options, reply: Reply, source: str | None, target: str | None, stream: TextIO
) -> None:
    figures = reply.timeline.figures(reply.audio_seconds)
    if options.json:
        record = {
            "task": reply.task,
            "input": source,
            "output": target,
            "heard": reply.heard,
            "text": reply.text,
            "reason": reply.reason,
            "notes": list(reply.notes),
            "seed": options.seed,
            **figures,
        }
        print_json(record, stream)
        return
    print(_table(figures), file=stream)
    if target not in (None, "-"):
        print(f"{reply.audio_seconds:.2f} s of speech in {escaped(str(target))}", file=stream)


def _table(figures: dict[str, float | None]) -> str:
    rows = [
        (phase, f"{figures[f'{phase}_ms']:.1f} ms", f"{figures[f'{phase}_count']:.0f} x")
        for phase in PHASES
        if figures[f"{phase}_count"]
    ]
    rows.append(("in all", f"{figures['total_ms']:.1f} ms", ""))
    if figures["ttfa_ms"] is not None:
        rows.append(("to first audio", f"{figures['ttfa_ms']:.1f} ms", ""))
    if figures["rtf"] is not None:
        rows.append(("compute / audio", f"{figures['rtf']:.3f}", "RTF"))
    return "\n".join(f"  {name:<16}{value:>12}  {note}".rstrip() for name, value, note in rows)
