"""The approximations of exactness `fast`: what they are, and how a command line names them.

Plain values only: the scheduler reads those that shape spans, the sampler those that choose ids.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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
PRIORS = ("off", "running", "table")
# A grown block is at most so many times as long as the preset's.
LARGEST_GROWTH = 4


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
        early_end: end a block once its first end token and all before it are revealed. What is
            skipped could only have changed ids behind the end, which are cut; so greedy ids stay
            the same.
        end_slot: a span's first block is one slot longer, so that a full block of codes and the
            end token need one block, not two.
        threshold: beside its share a pass reveals every position whose confidence reaches this
            (0..1); the preset's number of passes stays the bound. None reveals the shares only.
        frozen_blocks: K/V of a span's earlier blocks are kept from the next block's first pass
            on, though their tokens would see the later ones. The commit computes the whole span
            again, so the approximation does not outlive it.
        delayed_cache: a position of the open span whose code is revealed is computed once more,
            then its K/V are kept while the rest of the span is open (delayed KV cache, dKV-Cache,
            arXiv 2505.15781): each pass has fewer rows than the one before. What is kept does not
            see what is revealed later; the commit computes the whole span again, so the
            approximation does not outlive it. Covers what `frozen_blocks` does. A span with a text
            id in it (without `constrained_heads`) is computed as ever.
        block_growth: in the last span each block is longer than the one before by this factor, up
            to 4 times the preset's, at the same number of passes; 1 means no growth.
        prior: `running` or `table` ranks positions by log confidence minus the log prior of the
            chosen code (relative to all codes alike), so that frequent codes are not preferred
            for being frequent: the long-tail bias that Chatterbox-Flash (arXiv 2605.30748)
            describes. `running` counts the codes of this answer.
        prior_weight: factor of the subtracted log prior.
        prior_table: for `table`, a positive weight for each code.
        deadline: while sound is playing, choose each block's number of passes by the time left
            (see `deadline.DeadlineSchedule`), from 1 up to the preset's.
    """

    constrained_heads: bool = True
    guidance: Literal["full", "constant", "off"] = "full"
    early_end: bool = False
    end_slot: bool = False
    threshold: float | None = None
    frozen_blocks: bool = False
    delayed_cache: bool = False
    block_growth: float = 1.0
    prior: Literal["off", "running", "table"] = "off"
    prior_weight: float = 1.0
    prior_table: tuple[float, ...] = ()
    deadline: bool = False

    def __post_init__(self) -> None:
        """Refuse unknown values."""
        _one_of("guidance", self.guidance, GUIDANCE)
        _one_of("prior", self.prior, PRIORS)
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ConfigError(f"fast option threshold is {self.threshold}; expected 0 .. 1")
        if not 1 <= self.block_growth <= LARGEST_GROWTH:
            raise ConfigError(
                f"fast option block_growth is {self.block_growth}; expected 1 .. {LARGEST_GROWTH}"
            )
        if not 0 <= self.prior_weight <= 10:
            raise ConfigError(f"fast option prior_weight is {self.prior_weight}; expected 0 .. 10")
        if (self.prior == "table") != bool(self.prior_table):
            raise ConfigError("fast option prior: a table of code weights goes with prior table")
        if not all(math.isfinite(w) and w > 0 for w in self.prior_table):
            raise ConfigError("fast option prior_table: every weight must be a number above 0")


# No approximation at all: what `reference` and `exact` use.
EXACT = Approximations(constrained_heads=False)

_SWITCH = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
# Options that a command line can name; `prior` takes the table's file as its value.
NAMES = tuple(f.name for f in dataclasses.fields(Approximations) if f.name != "prior_table")


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
        if name not in NAMES:
            raise ConfigError(f"unknown fast option {name!r}; known: {', '.join(NAMES)}")
        if name in values:
            raise ConfigError(f"fast option {name} was given twice; give it once")
        if name == "prior" and value not in PRIORS:
            values["prior"], values["prior_table"] = "table", read_prior(value)
        else:
            values[name] = _value(name, value)
    return Approximations(**values)


def read_prior(path: str) -> tuple[float, ...]:
    """Read a JSON list of one positive weight a code."""
    if not path:
        raise ConfigError("fast option prior needs a value: off, running or a JSON file of weights")
    try:
        data = json.loads(Path(path).read_text())
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON list of code weights: {error}") from None
    numbers = isinstance(data, list) and all(
        isinstance(w, int | float) and not isinstance(w, bool) for w in data
    )
    if not numbers or not data:
        raise ConfigError(f"{path} must hold a JSON list of one weight a code")
    return tuple(float(w) for w in data)


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
