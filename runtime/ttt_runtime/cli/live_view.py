"""What `ttt-assistant live` shows: a status line that moves, and the conversation above it."""

from __future__ import annotations

import json
import sys
from time import monotonic
from types import TracebackType
from typing import Final, Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ttt_ref.streams import printable
from ttt_runtime.dialogue.live_events import LiveEvent

_REFRESH_S: Final = 0.12
_BAR: Final = " ▁▂▃▄▅▆▇█"
_STATES: Final = {
    "asleep": ("asleep", "dim"),
    "listening": ("listening", "green"),
    "speaking": ("you speak", "bold green"),
    "thinking": ("thinking", "yellow"),
    "held": ("ready", "yellow"),
    "playing": ("speaking", "cyan"),
    "interrupted": ("speaking?", "magenta"),
    "deaf": ("no device", "bold red"),
}


class View(Protocol):
    """Shows a conversation."""

    def __enter__(self) -> View:
        """Begin to show."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""

    def event(self, event: LiveEvent) -> None:
        """Show what happened."""

    def level(self, level_db: float) -> None:
        """Show how loud the microphone is."""


class JsonView:
    """One JSON object a line."""

    def __enter__(self) -> JsonView:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return

    def event(self, event: LiveEvent) -> None:
        """Print the event."""
        print(json.dumps(event.to_json(), ensure_ascii=False), flush=True)

    def level(self, level_db: float) -> None:
        """Say nothing: levels change a hundred times a second."""


class TerminalView:
    """A terminal of any width; where there is none, plain lines."""

    def __init__(self, hint: str, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, file=sys.stdout)
        self._hint = hint
        self._state = "listening"
        self._bars = 0
        self._transcript = ""
        self._answer = ""
        self._figures = ""
        self._live: Live | None = None
        self._shown_at = 0.0
        self._is_stale = True

    def __enter__(self) -> TerminalView:
        if self._console.is_terminal:
            # Refreshed by hand and only after a change: an idle assistant costs next to nothing.
            self._live = Live(self._render(), console=self._console, auto_refresh=False)
            self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.update(Text(""), refresh=True)
            self._live.__exit__(kind, error, trace)

    def event(self, event: LiveEvent) -> None:
        """Show what happened."""
        fields, kind = event.fields, event.kind
        if kind == "state":
            self._state = str(fields["state"])
        elif kind == "transcript":
            self._transcript, self._answer = printable(str(fields["text"])), ""
        elif kind == "text":
            self._answer += printable(str(fields["text"]))
        elif kind in ("dropped", "reopened"):
            self._transcript = self._answer = self._figures = ""
        elif kind == "turn":
            self._figures = latency_line(fields)
        elif kind == "interrupted":
            said = printable(str(fields["text"])).strip()
            self._answer = f"{said} … (interrupted after {fields['played_s']:.1f} s)".strip()
            self._print_turn()
        elif kind == "finished":
            self._print_turn()
        elif kind == "abandoned" and fields["why"] in ("no_answer", "failed"):
            self._print(Text("no answer came", "red"))
        elif kind == "device":
            self._print(Text(device_line(fields), "green" if fields["is_there"] else "bold red"))
        elif kind == "error":
            self._print(Text(printable(str(fields["reason"])), "red"))
        self._is_stale = True
        self._refresh()

    def level(self, level_db: float) -> None:
        """Show how loud the microphone is, in steps of 5 dB."""
        bars = min(max(int((level_db + 65) / 5), 0), len(_BAR) - 1)
        if bars != self._bars:
            self._bars = bars
            self._is_stale = True
        self._refresh()

    def _refresh(self) -> None:
        now = monotonic()
        if self._live is None or not self._is_stale or now - self._shown_at < _REFRESH_S:
            return
        self._shown_at, self._is_stale = now, False
        self._live.update(self._render(), refresh=True)

    def _render(self) -> Text:
        name, style = _STATES.get(self._state, (self._state, ""))
        line = Text()
        line.append(f" {_BAR[self._bars]} ", "green")
        line.append(f"{name:<10}", style)
        if self._transcript:
            line.append(f" {self._transcript}", "bold")
        if self._answer.strip():
            line.append(f" → {self._answer.strip()}", "cyan")
        if not self._transcript:
            line.append(f" {self._hint}", "dim")
        return line

    def _print_turn(self) -> None:
        line = Text(f"you  {self._transcript or '(not written down)'}\n", "bold")
        line.append(f"     {self._answer.strip()}", "not bold cyan")
        if self._figures:
            line.append(f"\n     {self._figures}", "not bold dim")
        self._print(line)
        self._transcript = self._answer = self._figures = ""

    def _print(self, text: Text) -> None:
        self._console.print(text)


def latency_line(fields: dict[str, object]) -> str:
    """Return a turn's latency in words."""
    return (
        f"first sound {fields['latency_ms']:.0f} ms after you fell silent: timer "
        f"{fields['timer_ms']:.0f} ({fields['why']}) + computing {fields['visible_ms']:.0f} "
        f"(of {fields['compute_ms']:.0f}) + sound card {fields['card_ms']:.0f}"
    )


def device_line(fields: dict[str, object]) -> str:
    """Return a change of the devices in words."""
    names = f"microphone {fields['microphone']!r}, loudspeaker {fields['loudspeaker']!r}"
    if fields["is_there"]:
        return names
    return f"lost: {names} ({fields['reason']}); trying again"
