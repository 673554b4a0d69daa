"""Profiles over a grid of bundles (precisions), passes a block, block lengths and threads.

Each point is measured in a process of its own, so that its memory is its own:
`python -m ttt_runtime.profiler.sweep OPTIONS` measures one.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ttt_ref.errors import ConfigError, exit_on_error
from ttt_runtime.backends.ort.session import share_thread_pool
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.profiler.bench import ProfileOptions, generation_config
from ttt_runtime.profiler.measure import Progress, measure, quiet
from ttt_runtime.profiler.options_json import options_from_json, options_to_json
from ttt_runtime.profiler.report import cell, document

MOST_POINTS: Final = 400
# Figures of a point: key, title, whether less is better.
FIGURES: Final = (
    ("ttfa_ms", "TTFA ms", True),
    ("rtf", "RTF", True),
    ("tpot_ms", "ms a text token", True),
    ("passes_a_second_of_audio", "passes a second of audio", False),
    ("rss_peak_mib", "peak MiB", True),
)
# Pairs of figures that a front is drawn for.
FRONTS: Final = (("rtf", "ttfa_ms"), ("rtf", "passes_a_second_of_audio"), ("rtf", "rss_peak_mib"))


def grid(
    options: ProfileOptions,
    bundles: Sequence[Path],
    steps: Sequence[int | None],
    blocks: Sequence[int | None],
    threads: Sequence[int | None],
) -> list[ProfileOptions]:
    """Return the options of every point; None keeps what `options` say.

    Raises:
        ConfigError: too many points, or a value that cannot be.
    """
    count = len(bundles) * len(steps) * len(blocks) * len(threads)
    if count > MOST_POINTS:
        raise ConfigError(f"the sweep has {count} points; at most {MOST_POINTS} are measured")
    opened = {path: Bundle.open(path, "sizes") for path in bundles}
    points = []
    for bundle, step, block, thread in itertools.product(bundles, steps, blocks, threads):
        axes = (("bundle", bundle), ("steps", step), ("block", block), ("threads", thread))
        changes: dict[str, Any] = {name: value for name, value in axes if value is not None}
        point = dataclasses.replace(options, **changes)
        generation_config(point, opened[bundle])  # a mistake is reported before hours of measuring
        points.append(point)
    return points


def sweep(points: Sequence[ProfileOptions], progress: Progress = quiet) -> dict[str, Any]:
    """Measure all points and return one document."""
    cells: list[dict[str, Any]] = []
    for number, point in enumerate(points):
        progress(
            f"point {number + 1} of {len(points)}: {point.bundle.name}, "
            + ", ".join(
                f"{name} {getattr(point, name)}"
                for name in ("steps", "block", "threads")
                if getattr(point, name) is not None
            )
        )
        cells.append(_cell(_measured(point)))
    return {
        "sweep": cells,
        "fronts": {f"{y} over {x}": front(cells, x, y) for x, y in FRONTS},
        "machine": cells[0].pop("machine") if cells else {},
    }


def _measured(point: ProfileOptions) -> dict[str, Any]:
    command = [sys.executable, "-m", "ttt_runtime.profiler.sweep", options_to_json(point)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise ConfigError(f"{point.bundle.name}: {lines[-1].removeprefix('error: ')}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _cell(doc: Mapping[str, Any]) -> dict[str, Any]:
    generation = doc["generation"]
    blocks = max(1, generation["diffusion_gen_length"] // generation["block_length"])
    return {
        "bundle": doc["bundle"],
        "precision": doc["precision"],
        "steps": generation["diffusion_steps"] // blocks,
        "block": generation["block_length"],
        "threads": doc["machine"]["threads"],
        **{key: doc["turn"][key]["p50"] for key, _, _ in FIGURES if key in doc["turn"]},
        "rss_peak_mib": doc["rss_peak_mib"],
        "underruns": doc["underruns"],
        "energy": doc["energy"],
        "machine": doc["machine"],
    }


def front(cells: Sequence[Mapping[str, Any]], x: str, y: str) -> list[int]:
    """Return the numbers of the points that no other beats in both figures, by rising x."""
    less = {key: is_less for key, _, is_less in FIGURES}

    def cost(cell: Mapping[str, Any]) -> tuple[float, float] | None:
        if cell.get(x) is None or cell.get(y) is None:
            return None
        return cell[x] * (1 if less[x] else -1), cell[y] * (1 if less[y] else -1)

    costs = {i: c for i, cell in enumerate(cells) if (c := cost(cell)) is not None}
    best = [
        i
        for i, (a, b) in costs.items()
        if not any(p <= a and q <= b and (p, q) != (a, b) for p, q in costs.values())
    ]
    return sorted(best, key=lambda i: costs[i])


def sweep_markdown(doc: Mapping[str, Any]) -> str:
    """Return the points as a table; a star marks those of the front of TTFA over RTF."""
    machine = doc["machine"]
    titles = [title for _, title, _ in FIGURES]
    starred = doc["fronts"]["ttfa_ms over rtf"]
    lines = [
        f"# {len(doc['sweep'])} points on {machine['cpu']}, load average {machine['load_average']}",
        "",
        f"| bundle | precision | passes | block | threads | {' | '.join(titles)} | underruns | |",
        f"| --- | --- |{' ---: |' * (len(titles) + 4)} --- |",
    ]
    for number, row in enumerate(doc["sweep"]):
        cells = [row["bundle"], row["precision"], row["steps"], row["block"], row["threads"]]
        cells += [cell(row[key]) for key, _, _ in FIGURES]
        cells += [row["underruns"], "*" if number in starred else ""]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*lines, "", "\\* no other point has both a lower TTFA and a lower RTF"])


def sweep_rows(doc: Mapping[str, Any]) -> list[list[Any]]:
    """Return the points as rows of a CSV file."""
    keys = ["bundle", "precision", "steps", "block", "threads", *(k for k, _, _ in FIGURES)]
    keys.append("underruns")
    return [[*keys], *([row[key] for key in keys] for row in doc["sweep"])]


if __name__ == "__main__":
    share_thread_pool()
    with exit_on_error():
        print(json.dumps(document(measure(options_from_json(sys.argv[1])))))
