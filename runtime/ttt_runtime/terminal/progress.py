"""What is being done, on stderr, for whatever takes longer than two seconds.

rich, which the tables of the command lines use, would serve on a terminal only: where there is
none its `Progress` prints nothing until the end, and here a line now and then must tell a log that
a long piece of work goes on. tqdm is no dependency of the runtime.
"""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Final

_FIRST_SECONDS: Final = 1.5  # of silence before the first line where stderr is no terminal
_NEXT_SECONDS: Final = 5.0


class Progress:
    """Shows one changing line on a terminal; elsewhere a line now and then."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._message = ""
        self._begin = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="ttt-progress", daemon=True)

    def __enter__(self) -> Progress:
        if not self._terminal:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        else:
            self._stop.set()
            self._thread.join()

    def __call__(self, message: str) -> None:
        """Say what begins now."""
        self._message = message
        if self._terminal:
            print(f"\r\x1b[K{message}", end="", file=sys.stderr, flush=True)

    def _tell(self) -> None:
        # A thread of its own: one long piece of work is reported while it goes on.
        wait = _FIRST_SECONDS
        while not self._stop.wait(wait):
            seconds = time.monotonic() - self._begin
            print(f"[{seconds:.0f} s] {self._message}", file=sys.stderr, flush=True)
            wait = _NEXT_SECONDS
