"""What the builder is doing: its progress monitor as a line or a bar, and a way to stop it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Reporter(Protocol):
    """Receives what the builder does, and returns whether it should go on."""

    def phase(self, name: str, step: int, steps: int) -> None:
        """Report an outermost phase: `step` of `steps` are done."""
        ...

    def detail(self, name: str) -> None:
        """Report the phase inside it that runs now; empty when none does."""
        ...

    @property
    def cancelled(self) -> bool:
        """True once the build should stop."""
        ...


class Silent:
    """Reports nothing; `cancel` stops the build at its next step."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def phase(self, name: str, step: int, steps: int) -> None:
        """See `Reporter`."""

    def detail(self, name: str) -> None:
        """See `Reporter`."""

    @property
    def cancelled(self) -> bool:
        """See `Reporter`."""
        return self._event.is_set()

    def cancel(self) -> None:
        """Ask the builder to stop."""
        self._event.set()


class Bar(Silent):
    """A progress bar on stderr; without a terminal, one line when a graph begins.

    Args:
        title: what is being built.
        console: where to draw.
    """

    def __init__(self, title: str, console: Console | None = None) -> None:
        super().__init__()
        console = console or Console(file=sys.stderr)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", style="dim", markup=False),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task(title, total=None, detail="")
        if not console.is_terminal:
            console.print(f"... {title}", markup=False)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def phase(self, name: str, step: int, steps: int) -> None:
        """See `Reporter`."""
        self._progress.update(self._task, total=steps, completed=step)

    def detail(self, name: str) -> None:
        """See `Reporter`."""
        self._progress.update(self._task, detail=name)


def make_monitor(trt: Any, reporter: Reporter) -> Any:
    """Return an IProgressMonitor of this module that tells a reporter.

    Exceptions must not cross the builder's native code, so the only way to stop it is the return
    value of `step_complete`.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._inner: list[str] = []

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self._steps[name] = steps
                reporter.phase(name, 0, steps)
            else:
                self._inner.append(name)
                reporter.detail(name)

        def step_complete(self, name: str, step: int) -> bool:
            if name in self._steps:
                reporter.phase(name, step + 1, self._steps[name])
            return not reporter.cancelled

        def phase_finish(self, name: str) -> None:
            if name in self._steps:  # the builder does not report its last step
                reporter.phase(name, self._steps[name], self._steps[name])
            if self._inner and self._inner[-1] == name:
                self._inner.pop()
            reporter.detail(self._inner[-1] if self._inner else "")

    return Monitor()


@contextmanager
def interruptible(reporter: Silent) -> Iterator[None]:
    """Turn Ctrl-C inside the block into a cancelled build; KeyboardInterrupt follows the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def cancel(signum: int, frame: FrameType | None) -> None:
        reporter.cancel()

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if reporter.cancelled:
            raise KeyboardInterrupt
