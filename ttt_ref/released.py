"""The tasks of the published checkpoints, which bring no prompts of their own.

The texts stand in `released_tasks.toml` beside this module; the exporter, the runtime and the
preparation of training data all read them here. No torch, as `ttt_ref.config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ttt_ref.config import TokenLayout
from ttt_ref.toml import tomllib

RELEASED_CODES: Final = 16_384  # code book of the GLM-4-Voice tokenizer
TASKS_FILE: Final = Path(__file__).with_name("released_tasks.toml")
NO_SPEAK: Final = (
    "the published checkpoints were trained without a text for 'speak'; give one with --system "
    "TEXT, or with --prompts FILE at export"
)
ADDED_NOTE: Final = (
    "this bundle brings no prompts; it has the published token layout, so the published tasks are "
    "used (--system TEXT replaces one)"
)


def is_released(layout: TokenLayout) -> bool:
    """Tell whether a token layout is the published one: its code book, its order of specials.

    The ids themselves do not matter: they follow the text vocabulary, whose size differs.
    """
    first = layout.begin_of_audio_id
    after = layout.code_offset + layout.num_codes
    order = (
        first,
        layout.end_of_audio_id,
        layout.begin_of_quad_id,
        layout.audio_start,
        layout.code_offset,
    )
    tail = (layout.mask_id, layout.end_of_audio_new_id, layout.end_of_audio_span_last_id)
    return (
        layout.num_codes == RELEASED_CODES
        and order == tuple(range(first, first + len(order)))
        and tail == (after, after + 1, after + 2)
    )


def released_prompts() -> dict[str, Any]:
    """Return the published tasks as a bundle's `prompts` table."""
    return tomllib.loads(TASKS_FILE.read_text(encoding="utf-8"))


def prompts_or_released(own: Mapping[str, Any], layout: TokenLayout) -> tuple[dict[str, Any], bool]:
    """Return the prompts to use, and whether they are the published ones, not `own`."""
    if own or not is_released(layout):
        return dict(own), False
    return released_prompts(), True
