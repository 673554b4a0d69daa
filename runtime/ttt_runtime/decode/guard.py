"""One generation at a time, whichever thread asks.

An engine is one conversation: its cache and its tensors belong to the newest generation. Within a
thread a new generation ends the one before, which may have been left in the middle. But while a
generation of another thread is on its way, whatever would change the engine is refused.
"""

from __future__ import annotations

import threading

from ttt_ref.errors import TttError


class GenerationGuard:
    """Tells generations apart by number and by thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self._owner: threading.Thread | None = None  # who runs the newest generation, if it runs

    def begin(self) -> int:
        """Enter a generation, or any other change of the engine; return its number.

        Raises:
            TttError: a generation of another thread is on its way; nothing was changed.
        """
        me = threading.current_thread()
        with self._lock:
            owner = self._owner
            if owner is not None and owner is not me and owner.is_alive():
                raise TttError(
                    f"this engine is in the middle of an answer (thread {owner.name}); one engine "
                    "serves one conversation: wait for its end or cancel it, or load another engine"
                )
            self._number += 1
            self._owner = me
            return self._number

    def go_on(self, number: int) -> None:
        """Enter a generation again after its caller had the word, maybe in another thread.

        Raises:
            TttError: it is no longer the newest one.
        """
        with self._lock:
            if number != self._number:
                raise TttError(
                    "another generation began on this engine; "
                    "use one engine for each conversation that runs at the same time"
                )
            self._owner = threading.current_thread()

    def is_newest(self, number: int) -> bool:
        """Tell whether a generation is the newest one still."""
        return number == self._number

    def end(self, number: int) -> None:
        """Leave a generation, from any thread. An older one has nothing to leave."""
        with self._lock:
            if number == self._number:
                self._owner = None
