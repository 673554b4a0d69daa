"""Long texts in the pieces in which they are spoken: sentence by sentence."""

from __future__ import annotations

import re
from typing import Final

# The end of a sentence, and white space after it.
_END: Final = re.compile(r"(?<=[.!?;:\n])\s+")
LONGEST_PIECE: Final = 240


def sentences(text: str) -> list[str]:
    """Return the sentences of a text; one that is very long is cut between words."""
    pieces: list[str] = []
    for sentence in _END.split(text.strip()):
        words = sentence.strip()
        while len(words) > LONGEST_PIECE:
            cut = words.rfind(" ", 0, LONGEST_PIECE)
            cut = cut if cut > 0 else LONGEST_PIECE
            pieces.append(words[:cut].strip())
            words = words[cut:].strip()
        if words:
            pieces.append(words)
    return pieces


class SentenceStream:
    """Gives sentences out as a text comes in."""

    def __init__(self) -> None:
        self._waiting = ""

    def push(self, text: str) -> list[str]:
        """Take in text; return the sentences that are whole now."""
        self._waiting += text
        ends = [match.end() for match in _END.finditer(self._waiting)]
        if not ends:
            return []
        whole, self._waiting = self._waiting[: ends[-1]], self._waiting[ends[-1] :]
        return sentences(whole)

    def finish(self) -> list[str]:
        """Return what is left."""
        rest, self._waiting = self._waiting, ""
        return sentences(rest)
