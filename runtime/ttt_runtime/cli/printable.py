"""A model's text on a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Replace control characters: a model's text may not steer the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
