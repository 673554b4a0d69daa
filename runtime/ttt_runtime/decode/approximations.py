"""The approximations of exactness `fast`: what they are, and how a command line names them.

Plain values only: the scheduler reads those that shape spans, the sampler those that choose ids.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ttt_ref.errors import ConfigError

Exactness = Literal["reference", "exact", "fast"]
EXACTNESS: tuple[Exactness, ...] = ("reference", "exact", "fast")


def exactness_named(name: str) -> Exactness:
    """Return the exactness of this name; ConfigError if there is none."""
    for exactness in EXACTNESS:
        if exactness == name:
            return exactness
    raise ConfigError(f"unknown exactness {name!r}; known: {', '.join(EXACTNESS)}")


GUIDANCE = ("full", "constant", "off")


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"fast option {name} is {value!r}; expected {', '.join(known)}")


@dataclass(frozen=True)
class Approximations:
    """Approximations of exactness `fast`, each on its own.

    Attributes:
        constrained_heads: choose text ids in text and audio-side ids in a span; the released
            code chooses over all rows in both.
        guidance: `full` runs the second row in every step; `constant` uses the constant vector
            of a block's first step in all of them; `off` ignores cfg_scale.
        end_slot: a span's first block is one slot longer, so that a full block of codes and the
            end token need one block, not two.
        threshold: beside its share a pass reveals every position whose confidence reaches this
            (0..1); the preset's number of passes stays the bound. None reveals the shares only.
        delayed_cache: a position of the open span whose code is revealed is computed once more,
            then its K/V are kept while the rest of the span is open (delayed KV cache, dKV-Cache,
            arXiv 2505.15781): each pass has fewer rows than the one before. What is kept does not
            see what is revealed later; the commit computes the whole span again, so the
            approximation does not outlive it. A span with a text id in it (without
            `constrained_heads`) is computed as ever.
        deadline: while sound is playing, choose each block's number of passes by the time left
            (see `deadline.DeadlineSchedule`), from 1 up to the preset's.
        text_only: begin no span at all: what a model would say aloud between its words is neither
            computed nor seen by the words after it. For transcripts of models that repeat the
            speech.
    """

    constrained_heads: bool = True
    guidance: Literal["full", "constant", "off"] = "full"
    end_slot: bool = False
    threshold: float | None = None
    delayed_cache: bool = False
    deadline: bool = False
    text_only: bool = False

    def __post_init__(self) -> None:
        """Refuse unknown values."""
        _one_of("guidance", self.guidance, GUIDANCE)
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ConfigError(f"fast option threshold is {self.threshold}; expected 0 .. 1")


# No approximation at all: what `reference` and `exact` use.
EXACT = Approximations(constrained_heads=False)

_SWITCH = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
NAMES = tuple(f.name for f in dataclasses.fields(Approximations))
# Options of the release before that gained less than 3 % (docs/approximations.md).
REMOVED = ("early_end", "frozen_blocks", "block_growth", "prior", "prior_weight")


def parse_approximations(items: Sequence[str], exactness: str) -> Approximations | None:
    """Return the options that `name` or `name=value` items ask for, the others at their default.

    Args:
        items: as given on a command line; a switch may leave out `=on`.
        exactness: must be `fast` if there are items.

    Returns:
        None without items.

    Raises:
        ConfigError: unknown names or values, or another exactness.
    """
    if not items:
        return None
    if exactness != "fast":
        raise ConfigError(f"--fast needs --exactness fast; it is {exactness!r}")
    values: dict[str, Any] = {}
    for item in items:
        name, _, value = item.partition("=")
        name = name.replace("-", "_")
        if name in REMOVED:
            raise ConfigError(f"fast option {name} was removed, it gained nothing; leave it out")
        if name not in NAMES:
            raise ConfigError(f"unknown fast option {name!r}; known: {', '.join(NAMES)}")
        if name in values:
            raise ConfigError(f"fast option {name} was given twice; give it once")
        values[name] = _value(name, value)
    return Approximations(**values)


def _value(name: str, text: str) -> Any:
    default = getattr(Approximations, name)
    if isinstance(default, bool):
        if text and text not in _SWITCH:
            raise ConfigError(f"fast option {name} is {text!r}; expected on or off")
        return _SWITCH.get(text, True)
    if isinstance(default, str):
        return text
    try:
        return float(text)
    except ValueError:
        raise ConfigError(
            f"fast option {name} needs a number ({name}=VALUE); got {text!r}"
        ) from None
