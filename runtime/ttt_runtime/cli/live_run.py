"""What `ttt-assistant live` does once its options are known."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

from ttt_runtime.audio.devices import list_devices, sounddevice_module
from ttt_runtime.audio.duplex import DeviceChange, DuplexDevice
from ttt_runtime.audio.echo import RATE_HZ, echo_processor
from ttt_runtime.audio.front_end import FrontEnd
from ttt_runtime.audio.playback import Playback
from ttt_runtime.audio.voice_activity import voice_detector
from ttt_runtime.audio.wake_word import MicroWakeWord, WakeWord
from ttt_runtime.cli.assistant_run import load_assistant
from ttt_runtime.cli.live_view import JsonView, TerminalView, View
from ttt_runtime.cli.turn_recorder import TurnRecorder
from ttt_runtime.dialogue.live import LiveConversation
from ttt_runtime.dialogue.live_events import LiveEvent
from ttt_runtime.dialogue.turn_settings import TurnSettings
from ttt_runtime.terminal.keys import Keys

if TYPE_CHECKING:
    from ttt_runtime.cli.assistant_options import Options

_HINTS: Final = {
    "hands_free": "just speak; q ends",
    "push_to_talk": "space: talk, space again: answer; q ends",
    "wake_word": "say the wake word; q ends",
}


@dataclass(frozen=True)
class LiveOptions:
    """Options of the conversation, beside those of the model."""

    settings: TurnSettings
    microphone: str | None
    loudspeaker: str | None
    echo: str
    voice: str
    wake_word: str
    record: Path | None


def show_devices() -> None:
    """Print the sound devices."""
    table = Table(box=None, pad_edge=False)
    for title in ("", "name", "driver", "in", "out", "Hz", "default"):
        table.add_column(title)
    for device in list_devices(sounddevice_module()):
        default = [
            name
            for name, is_it in (
                ("microphone", device.is_default_input),
                ("loudspeaker", device.is_default_output),
            )
            if is_it
        ]
        numbers = (device.inputs, device.outputs, device.rate_hz)
        table.add_row(
            str(device.index), device.name, device.host, *map(str, numbers), ", ".join(default)
        )
    Console(highlight=False).print(table)


def run_live(options: Options, live: LiveOptions) -> None:
    """Hold a conversation until q, Ctrl-C, or the end of standard input's word `quit`."""
    mode = live.settings.mode
    # What is missing is reported before the model is loaded.
    playback = Playback(RATE_HZ)
    device = DuplexDevice(playback, live.microphone, live.loudspeaker)
    front_end = FrontEnd(echo_processor(live.echo), voice_detector(live.voice))
    wake_word: WakeWord | None = MicroWakeWord(live.wake_word) if mode == "wake_word" else None
    recorder = None if live.record is None else TurnRecorder(live.record, RATE_HZ)
    assistant = load_assistant(replace(options, overlap=True), "answer")
    view: View = JsonView() if options.json else TerminalView(_HINTS[mode])
    conversation = LiveConversation(
        assistant,
        front_end,
        playback,
        live.settings,
        view.event,
        wake_word=wake_word,
        output_latency_s=lambda: device.latency_s,
        keep=None if recorder is None else recorder.keep,
        seed=options.seed,
    )
    try:
        conversation.answerer.wait_idle(60.0)  # warm before anybody speaks
        opened = device.open()
        with view, Keys() as keys:
            view.event(_device_event(opened, conversation))
            view.event(_state_event(conversation))
            _loop(device, conversation, view, keys)
    finally:
        device.close()
        conversation.close()
        if recorder is not None:
            print(recorder.summary(), file=sys.stderr)


def _loop(device: DuplexDevice, conversation: LiveConversation, view: View, keys: Keys) -> None:
    is_talking = False
    while True:
        item = device.read()
        if isinstance(item, DeviceChange):
            view.event(_device_event(item, conversation))
            if item.is_there:
                conversation.device_back()
            else:
                conversation.device_lost()
        elif item is not None:
            conversation.block(item.mic, item.played)
            view.level(conversation.level_db)
        else:
            conversation.pump()
        for key in keys.read():
            if key in ("q", "quit"):
                return
            if key == " ":
                is_talking = not is_talking
                key = "down" if is_talking else "up"
            if key == "down":
                conversation.key_down()
            elif key == "up":
                conversation.key_up()
            elif key in ("n", "new"):
                conversation.reset()


def _device_event(change: DeviceChange, conversation: LiveConversation) -> LiveEvent:
    microphone, loudspeaker = change.names
    fields = {
        "is_there": change.is_there,
        "microphone": microphone,
        "loudspeaker": loudspeaker,
        "reason": change.reason,
    }
    return LiveEvent("device", conversation.front_end.seconds, fields)


def _state_event(conversation: LiveConversation) -> LiveEvent:
    return LiveEvent("state", conversation.front_end.seconds, {"state": conversation.phase.value})


def turn_settings(mode: str, silence_s: float | None) -> TurnSettings:
    """Return the settings of the command line's words.

    Raises:
        ConfigError: an unknown mode.
    """
    return TurnSettings(mode=mode, fixed_s=silence_s)  # type: ignore[arg-type]  # it checks
