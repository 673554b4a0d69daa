"""Which part of an answer's text is the transcript of the question."""

from __future__ import annotations


class TranscriptSplit:
    """Parts an answer's text into the transcript, its first line, and what is said.

    Args:
        transcript_first: False for a model that writes no transcript.
    """

    def __init__(self, transcript_first: bool) -> None:
        self.is_over = not transcript_first

    def push(self, text: str) -> tuple[str, str]:
        """Return what of this text belongs to the transcript and what to the answer."""
        if self.is_over:
            return "", text
        heard, newline, said = text.partition("\n")
        self.is_over = bool(newline)
        return heard, said
