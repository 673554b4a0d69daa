"""Measure `ttt-assistant live` on the real clock, in a room of PulseAudio.

    python -m benchmarks.live [--turns 20] [--interruptions 10] [--only NAME ...] [--bundle DIR]

hands-free   end of the user's speech to the first sound at the loudspeaker, through its echo
push         the key's release to the first sound
barge-in     the user's first sample over an answer to the loudspeaker's silence
idle         share of one core while nobody speaks
unplugged    the sound card taken away and given back

Prints a table, then one JSON document. Needs Debian's pulseaudio, pulseaudio-utils,
libasound2-plugins, libportaudio2, espeak-ng and flite.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.live.measure import MEASUREMENTS, measure
from ttt_ref.errors import ConfigError, exit_on_error


def main(
    turns: Annotated[int, typer.Option(min=1)] = 20,
    interruptions: Annotated[int, typer.Option(min=1)] = 10,
    only: Annotated[list[str] | None, typer.Option(help=", ".join(MEASUREMENTS))] = None,
    bundle: Annotated[Path | None, typer.Option()] = None,
    keep: Annotated[Path | None, typer.Option(help="Keep recordings and events here.")] = None,
) -> None:
    """Measure, print."""
    for name in only or ():
        if name not in MEASUREMENTS:
            raise ConfigError(f"unknown measurement {name!r}; there are {', '.join(MEASUREMENTS)}")
    found: dict[str, Any] = {}
    for name in only or MEASUREMENTS:
        count = interruptions if name == "barge-in" else turns
        found[name] = measure(name, count, bundle, keep)
        for key, value in found[name].items():
            if not isinstance(value, list):
                print(f"{name:<12}{key:<34}{value}", flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    with exit_on_error():
        typer.run(main)
