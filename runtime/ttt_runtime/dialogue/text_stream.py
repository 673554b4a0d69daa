"""An answer's text as it comes: whole characters, without the model's own note."""

from __future__ import annotations

from ttt_runtime.dialogue.prompt import PromptBuilder

# Tokens that one character can take; what is not whole after them never will be.
_LONGEST_CHARACTER = 4


def least_of(one: float | None, other: float | None) -> float | None:
    """Return the smaller probability; None is not known, and the other one counts."""
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)


class TextStream:
    """Decodes text ids one by one; bytes of an unfinished character wait for the rest.

    What stands behind `working_mark` on the first line (empty: nothing) is kept back: it is the
    model's own note.
    """

    def __init__(self, prompts: PromptBuilder, working_mark: str) -> None:
        self._prompts = prompts
        self._waiting: list[int] = []
        self._mark = working_mark
        self._on_first_line = True
        self._in_note = False
        self.whole = ""

    def push(self, token_id: int) -> str:
        """Return what is to be shown of the text that this id completes."""
        self._waiting.append(token_id)
        # Byte-level tokens stand for bytes: what is whole decodes the same without its neighbours.
        text = self._prompts.decode(self._waiting)
        if text.endswith("\ufffd") and len(self._waiting) < _LONGEST_CHARACTER:
            return ""
        self._waiting.clear()
        self.whole += text
        if not (self._mark and self._on_first_line):
            return text
        first, newline, rest = text.partition("\n")
        shown = ""
        if not self._in_note:
            shown, mark, _ = first.partition(self._mark)
            self._in_note = bool(mark)
        self._on_first_line = not newline
        return shown + newline + rest
