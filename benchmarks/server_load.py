"""How many conversations at a time one `ttt-server` holds on this machine.

    python -m benchmarks.server_load [--sessions 8] [--seconds 40] [--bundle DIR] [--recordings DIR]

Simulated people ask a recorded question at the speed of speech, hear the answer to its end, wait a
moment and ask again. Measured is the time from the commit of a question to the first sound of its
answer. Without --sessions their number grows until 95 of 100 answers do not begin in time; the
answer is the largest that held. Clients run on the same machine and take their share of it.

Prints a table, then one JSON document. Without --recordings (a folder of WAV files) the questions
are said by espeak-ng and flite.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import numpy as np
import soundfile
import typer

from benchmarks.live.voices import QUESTIONS, prepared, say
from benchmarks.realtime_client import RATE_HZ, Person, Server, pcm, running_server
from ttt_ref.errors import ConfigError, exit_on_error

_VOICES = ("espeak:en-us", "flite:slt", "espeak:en-gb+f2", "flite:kal16")


@dataclass(frozen=True)
class Row:
    """What one number of sessions gave; milliseconds from the commit to the first sound."""

    sessions: int
    turns: int
    p50_ms: float
    p95_ms: float
    most_ms: float
    gaps: int  # answers whose sound ran dry while it was played
    server_cores: float
    memory_mb: float

    def line(self) -> str:
        """Return the row as Markdown."""
        return (
            f"| {self.sessions} | {self.turns} | {self.p50_ms:.0f} | {self.p95_ms:.0f} | "
            f"{self.most_ms:.0f} | {self.gaps} | {self.server_cores:.2f} | {self.memory_mb:.0f} |"
        )


HEAD = (
    "| sessions | turns | p50 ms | p95 ms | most ms | gaps | cores | MB |\n"
    "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def questions(folder: Path | None) -> list[bytes]:
    """Return questions as PCM.

    Raises:
        ConfigError: a folder without WAV files.
    """
    if folder is None:
        return [pcm(say(text, _VOICES[i % 4], RATE_HZ)) for i, text in enumerate(QUESTIONS)]
    files = sorted(folder.glob("*.wav"))
    if not files:
        raise ConfigError(f"{folder} holds no .wav file; give a folder of recorded questions")
    sounds = (soundfile.read(file, dtype="float32") for file in files[:200])
    return [pcm(prepared(audio, rate, RATE_HZ)) for audio, rate in sounds]


async def converse(
    server: Server, clips: list[bytes], ends_at: float, seed: int
) -> tuple[list[float], int]:
    """Ask until the time is over; return the latencies in ms and the answers with gaps."""
    draw = random.Random(seed)
    latencies, gaps = [], 0
    async with Person(server) as person:
        await person.detection(None)
        await asyncio.sleep(draw.random() * 4)
        while monotonic() < ends_at:
            await person.speak(draw.choice(clips))
            asked = await person.commit()
            plays_until, is_first, has_gap = 0.0, True, False
            while (event := await person.next())["type"] != "response.done":
                if event["type"] != "response.output_audio.delta":
                    continue
                now = monotonic()
                if is_first:
                    latencies.append(1e3 * (now - asked))
                    plays_until, is_first = now, False
                has_gap |= now > plays_until + 0.05
                seconds = len(base64.b64decode(event["delta"])) / 2 / RATE_HZ
                plays_until = max(plays_until, now) + seconds
            gaps += has_gap
            await asyncio.sleep(max(plays_until - monotonic(), 0.0) + 0.5 + draw.random())
    return latencies, gaps


async def _together(
    server: Server, clips: list[bytes], sessions: int, seconds: float
) -> tuple[list[float], int]:
    ends_at = monotonic() + seconds
    people = (converse(server, clips, ends_at, seed) for seed in range(sessions))
    found = await asyncio.gather(*people)
    return [value for values, _ in found for value in values], sum(gaps for _, gaps in found)


def measure(sessions: int, seconds: float, clips: list[bytes], bundle: Path | None) -> Row:
    """Run so many conversations against a fresh server."""
    with running_server(bundle, "--sessions", str(sessions)) as server:
        began, before = monotonic(), server.cpu_seconds()
        values, gaps = asyncio.run(_together(server, clips, sessions, seconds))
        cores = (server.cpu_seconds() - before) / (monotonic() - began)
        memory_mb = server.rss_mb()
    p50, p95 = np.percentile(values, (50, 95))
    figures = (round(float(value), 1) for value in (p50, p95, max(values)))
    return Row(sessions, len(values), *figures, gaps, round(cores, 2), round(memory_mb))


def search(limit_ms: float, run: Any, most: int) -> tuple[int, list[Row]]:
    """Return the largest number of sessions within the limit, and all rows: double, then halve.

    Args:
        limit_ms: of p95.
        run: measures a number of sessions.
        most: sessions that are not exceeded.
    """
    rows, holds, fails, sessions = [], 0, 0, 2
    while True:
        row = run(sessions)
        rows.append(row)
        if row.p95_ms <= limit_ms and not row.gaps:
            holds = sessions
        else:
            fails = sessions
        if holds >= most or (fails and fails - holds <= max(1, holds // 8)):
            return holds, rows
        sessions = (holds + fails) // 2 if fails else min(2 * holds, most)
        if sessions == 0:
            return 0, rows


def main(
    sessions: Annotated[int | None, typer.Option(min=1, help="Only this number.")] = None,
    seconds: Annotated[float, typer.Option(min=5)] = 40.0,
    limit_ms: Annotated[float, typer.Option(min=1, help="Of p95.")] = 500.0,
    most: Annotated[int, typer.Option(min=2)] = 128,
    bundle: Annotated[Path | None, typer.Option()] = None,
    recordings: Annotated[Path | None, typer.Option(help="Folder of WAV files.")] = None,
) -> None:
    """Measure, print."""
    clips = questions(recordings)
    print(HEAD, flush=True)

    def run(count: int) -> Row:
        row = measure(count, seconds, clips, bundle)
        print(row.line(), flush=True)
        return row

    if sessions is not None:
        rows, holds = [run(sessions)], None
    else:
        holds, rows = search(limit_ms, run, most)
        print(f"\n{holds} conversations at a time with p95 <= {limit_ms:g} ms and without gaps")
    print(json.dumps({"holds": holds, "limit_ms": limit_ms, "rows": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    with exit_on_error():
        typer.run(main)
