"""`ttt-assistant live --json` as a process in the room."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from benchmarks.live.room import Room
from ttt_ref.errors import ConfigError

_PROGRAM: Final = "from ttt_runtime.cli.assistant import main; main()"


class LiveAssistant:
    """Runs while the block lasts; `events` holds what it printed, with its time of arrival."""

    def __init__(self, room: Room, bundle: Path | None, *options: str) -> None:
        self._room = room
        self._command = [sys.executable, "-c", _PROGRAM, "live", "--json", *options]
        if bundle is not None:
            self._command += ["--bundle", str(bundle)]
        self.events: list[dict[str, Any]] = []
        self._new: queue.Queue[dict[str, Any]] = queue.Queue()
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> LiveAssistant:
        self._process = subprocess.Popen(
            self._command,
            env=self._room.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        self.wait_for("state", 60)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self.write("quit")
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = {**json.loads(line), "arrived_s": time.monotonic()}
            self.events.append(event)
            self._new.put(event)

    def write(self, word: str) -> float:
        """Send a word; return when."""
        assert self._process is not None
        assert self._process.stdin is not None
        when = time.monotonic()
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return when

    def wait_for(self, kind: str, timeout_s: float, **fields: Any) -> dict[str, Any] | None:
        """Return the next new event of a kind whose fields are these; None if it does not come."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            try:
                event = self._new.get(timeout=min(left, 0.5))
            except queue.Empty:
                if self._process is not None and self._process.poll() is not None:
                    raise ConfigError("ttt-assistant live ended; see its message") from None
                continue
            if event["event"] == kind and all(event.get(k) == v for k, v in fields.items()):
                return event
        return None

    def forget_events(self) -> None:
        """Wait from here on for what is still to come."""
        while not self._new.empty():
            self._new.get_nowait()

    def cpu_seconds(self) -> float:
        """Return the processor time of the process so far."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))
