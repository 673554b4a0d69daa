"""Single keys from a terminal, or words from a pipe, without stopping for them."""

from __future__ import annotations

import os
import select
import sys
from types import TracebackType
from typing import Any

_ESCAPE = "\x1b"


class Keys:
    """While open, `read` returns keys of the terminal at once, without Enter and without echo.

    Where standard input is a pipe, `read` returns its whole lines instead; at its end, nothing
    more. The terminal is left as it was found, whatever happens.
    """

    def __init__(self) -> None:
        self._fd: int | None = None
        self._before: list[Any] | None = None
        self._is_terminal = False
        self._rest = b""

    def __enter__(self) -> Keys:
        try:
            self._fd = sys.stdin.fileno()
        except (AttributeError, OSError, ValueError):  # closed, or replaced in a test
            return self
        self._is_terminal = os.isatty(self._fd)
        # A program in the background that touches the terminal would be stopped.
        if self._is_terminal and os.getpgrp() == os.tcgetpgrp(self._fd):
            import termios
            import tty

            self._before = termios.tcgetattr(self._fd)
            tty.setcbreak(self._fd)
        elif self._is_terminal:
            self._fd = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None and self._fd is not None:
            import termios

            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    @property
    def is_terminal(self) -> bool:
        """Whether keys come one by one."""
        return self._is_terminal and self._fd is not None

    def read(self) -> list[str]:
        """Return the keys pressed, or the lines that came, since the last call."""
        if self._fd is None or not select.select([self._fd], [], [], 0)[0]:
            return []
        try:
            data = os.read(self._fd, 4096)
        except OSError:
            data = b""
        if not data:
            self._fd = None
            return []
        if self._is_terminal:
            text = data.decode(errors="ignore")
            return [] if text.startswith(_ESCAPE) else list(text)  # arrows and the like
        self._rest += data
        *lines, self._rest = self._rest.split(b"\n")
        self._rest = self._rest[-4096:]
        return [line.decode(errors="replace").strip() for line in lines]
