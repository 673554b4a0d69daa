"""Join parts of the corpus into one: ``python -m recipes.tiny.merge OUT PART...``."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from ttt_ref.errors import exit_on_error


def merge(out: Path, parts: list[Path]) -> int:
    """Write the utterances of all ``parts`` into ``out``; returns how many there are.

    Only what a part's manifest speaks of is taken, so that a part may still be growing.
    """
    out.mkdir(parents=True, exist_ok=True)
    base, count = 0, 0
    audio_tmp, manifest_tmp = out / "audio.tmp", out / "manifest.tmp"
    with audio_tmp.open("wb") as audio, manifest_tmp.open("w", encoding="utf-8") as manifest:
        for part in parts:
            text = (part / "manifest.jsonl").read_text(encoding="utf-8")
            complete = text[: text.rfind("\n") + 1].splitlines()
            entries = [json.loads(line) for line in complete]
            samples = max((e["offset"] + e["samples"] for e in entries), default=0)
            with (part / "audio.i16").open("rb") as source:
                shutil.copyfileobj(_Head(source, 2 * samples), audio, 1 << 20)
            for entry in entries:
                entry["offset"] += base
                manifest.write(json.dumps(entry, ensure_ascii=False) + "\n")
            base += samples
            count += len(entries)
    os.replace(audio_tmp, out / "audio.i16")
    os.replace(manifest_tmp, out / "manifest.jsonl")
    return count


class _Head:
    """The first ``size`` bytes of an open file."""

    def __init__(self, file: object, size: int):
        self._file, self._left = file, size

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data: bytes = self._file.read(wanted)  # type: ignore[attr-defined]
        self._left -= len(data)
        return data


def main(
    out: Annotated[Path, typer.Argument(help="folder to write")],
    parts: Annotated[list[Path], typer.Argument(help="corpus folders, in order")],
) -> None:
    """Join corpora; safe to run while a part is still being spoken."""
    with exit_on_error():
        print(f"{out}: {merge(out, parts)} utterances")


if __name__ == "__main__":
    typer.run(main)
