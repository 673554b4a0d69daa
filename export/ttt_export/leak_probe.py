"""The causal-leak probe: who reacts when one input token changes?

A generic exporter turns a mask-predict model causal, and it still runs and speaks noise. So for
each position the probe changes one token and looks which hidden rows move. They must be exactly
those that the mask rule lets see it; the rule's closure over layers is the rule itself, because a
run of audio is contiguous.
"""

from __future__ import annotations

import numpy as np

from ttt_export.cases import Case, Pass, SequenceMaker, probe_sequence, sees
from ttt_export.checks import Check
from ttt_export.executors import Executor
from ttt_ref.config import TokenLayout

# A row may round differently when others change (kernels group rows); a true leak is far larger.
STILL = 1e-4
# A far token may move a row by less than a rounding step; one of several changes must show.
CHANGES = 3


def probe_leaks(
    executor: Executor, layout: TokenLayout, seed: int = 0, stride: int = 1
) -> list[Check]:
    """Probe one forward over a whole sequence, and one on top of a cache.

    Args:
        executor: runs the graphs under test.
        layout: token ids.
        seed: draws the sequence.
        stride: every how many positions one is changed.

    Returns:
        Two checks: rows that moved and must not (largest movement), and rows that had to move and
        did not (their number, of which none is allowed).
    """
    ids = probe_sequence(layout, seed)
    allowed = sees(ids, layout.is_audio)  # [row, changed position]
    make = SequenceMaker(layout, seed + 1)
    probed = list(range(0, len(ids), stride))
    runs = [(position, _changes(ids, position, layout, make)) for position in probed]
    # The last run of audio with the text before it cached: its rows react within the cache rule.
    start = max(i for i in range(1, len(ids)) if _starts_run(ids, i, layout))
    base = [_case(ids, 0), _case(ids, start)]
    varied = [_case(other, 0) for _, others in runs for other in others]
    cached = [
        _case(other, start) for position, others in runs if position >= start for other in others
    ]
    results = executor.hidden([*base, *varied, *cached])
    moved = {
        0: _moved(results[0][-1], results[2 : 2 + len(varied)], probed),
        start: _moved(
            results[1][-1], results[2 + len(varied) :], [p for p in probed if p >= start]
        ),
    }
    leak, silent = 0.0, 0
    for first, by_position in moved.items():
        for position, movement in by_position.items():
            expected = allowed[first:, position]
            if (~expected).any():
                leak = max(leak, float(movement[~expected].max()))
            silent += int((movement[expected] == 0.0).sum())
    return [
        Check("leak probe, rows that must not see a change", leak, leak, STILL),
        Check("leak probe, rows blind to a change they must see", float(silent), 0.0, 0.0),
    ]


def _case(ids: list[int], start: int) -> Case:
    whole = Pass(tuple(ids), start)
    if start == 0:
        return Case("probe", (whole,))
    return Case("probe", (Pass(tuple(ids[:start]), 0), whole))


def _starts_run(ids: list[int], index: int, layout: TokenLayout) -> bool:
    return layout.is_audio(ids[index]) and not layout.is_audio(ids[index - 1])


def _changes(
    ids: list[int], position: int, layout: TokenLayout, make: SequenceMaker
) -> list[list[int]]:
    """Return the sequence with another id of the same side at a position, a few times."""
    made: list[list[int]] = []
    while len(made) < CHANGES:
        (new,) = make.codes(1) if layout.is_audio(ids[position]) else make.text(1)
        if new != ids[position] or layout.num_codes == 1:
            made.append([*ids[:position], new, *ids[position + 1 :]])
    return made


def _moved(
    base: np.ndarray, results: list[list[np.ndarray]], positions: list[int]
) -> dict[int, np.ndarray]:
    """Return for each changed position the largest movement of every row [Q]."""
    scale = max(1.0, float(np.abs(base).max()))
    moved = {}
    for number, position in enumerate(positions):
        group = results[number * CHANGES : (number + 1) * CHANGES]
        movement = [np.abs(passes[-1] - base).max(axis=1) for passes in group]
        moved[position] = np.max(movement, axis=0) / scale
    return moved
