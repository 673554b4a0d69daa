"""What a bundle says of its GLM-4-Voice codec beside the graphs, checked when it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ttt_ref.errors import BundleError

SOLVERS = ("euler", "midpoint", "heun", "ab2")


def _from_dict(cls: Any, data: Any, where: str) -> Any:
    names = {f.name for f in fields(cls)}
    if not isinstance(data, Mapping) or set(data) != names:
        seen = sorted(set(data) ^ names) if isinstance(data, Mapping) else [type(data).__name__]
        raise BundleError(
            f"codec params {where}: expected the keys {', '.join(sorted(names))}; see {seen[0]!r}; "
            "export the bundle again"
        )
    values: dict[str, Any] = {}
    for field in fields(cls):
        value, kind = data[field.name], str(field.type)
        if kind.startswith("tuple"):
            wanted: tuple[type, ...] = (int,) if "int" in kind else (int, float)
            good = isinstance(value, list | tuple) and all(_is(v, wanted) for v in value)
            value = tuple(value) if good else value
        else:
            good = _is(value, {"int": (int,), "float": (int, float), "str": (str,)}[kind])
        if not good:
            raise BundleError(
                f"codec params {where}: {field.name!r} is {value!r:.40}; expected {kind}"
            )
        values[field.name] = value
    return cls(**values)


def _is(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool) or not isinstance(value, kinds):
        return False
    return not isinstance(value, float) or math.isfinite(value)


def _require(good: bool, what: str) -> None:
    if not good:
        raise BundleError(f"codec params: {what}; export the bundle again")


@dataclass(frozen=True)
class TokenizerParams:
    """Shape of the speech tokenizer. Positions are 20 ms, a block is what attends both ways."""

    num_codes: int
    mel_bins: int
    width: int
    layers: int
    block_positions: int
    segment_positions: int
    pool_positions: int

    def __post_init__(self) -> None:
        """Refuse shapes that no export of ours has."""
        _require(min(asdict(self).values()) > 0, "a tokenizer size is not positive")
        whole = self.block_positions % self.pool_positions == 0
        _require(whole, "a tokenizer block is no whole number of tokens")

    @classmethod
    def from_dict(cls, data: Any) -> TokenizerParams:
        """Read the JSON form; BundleError names what is wrong."""
        made: TokenizerParams = _from_dict(cls, data, "tokenizer")
        return made

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)


@dataclass(frozen=True)
class DecoderParams:
    """Shape and settings of the speech decoder.

    `steps`, `solver`, `window_tokens`, `hold_frames` and `plan_tokens` are choices, not weights:
    another value gives other speed and quality. `speaker` is the vector that every frame gets;
    the released decoder has a single one.

    A span of one block is 25 codes and an end tag, so chunks of 25 never wait for the next block;
    the first two share one block, so that the first sound comes early.
    """

    num_codes: int
    mel_bins: int
    encoder_block: int
    guidance: float
    harmonics: int
    sine_amplitude: float
    noise_sigma: float
    voiced_threshold_hz: float
    source_weight: tuple[float, ...]
    source_bias: float
    speaker: tuple[float, ...]
    steps: int = 10
    solver: str = "euler"
    window_tokens: int = 20
    hold_frames: int = 34
    plan_tokens: tuple[int, ...] = (12, 13, 25)
    whole_tokens: int = 250
    seed: int = 42

    def __post_init__(self) -> None:
        """Refuse values that the decoder cannot work with."""
        _require(min(self.num_codes, self.mel_bins, self.encoder_block) > 0, "a size is <= 0")
        _require(len(self.source_weight) == self.harmonics + 1, "source_weight has a wrong length")
        _require(len(self.speaker) == self.mel_bins, "speaker has a wrong length")
        _require(1 <= self.steps <= 100, f"steps is {self.steps}, expected 1 to 100")
        known = ", ".join(SOLVERS)
        _require(self.solver in SOLVERS, f"solver is {self.solver!r}, expected one of {known}")
        _require(0 <= self.window_tokens <= 2000, "window_tokens is not 0 to 2000")
        _require(0 <= self.hold_frames <= 500, "hold_frames is not 0 to 500")
        plan = len(self.plan_tokens) > 0 and min(self.plan_tokens) >= 1
        _require(plan and max(self.plan_tokens) <= 2000, "plan_tokens is not 1 to 2000 each")
        _require(0 <= self.whole_tokens <= 3000, "whole_tokens is not 0 to 3000")
        _require(0 <= self.seed < 1 << 32, "seed is not 0 to 2**32 - 1")

    def chunk_tokens(self, chunk: int) -> int:
        """Return the size of a streamed chunk by its number; the plan's last one repeats."""
        return self.plan_tokens[min(chunk, len(self.plan_tokens) - 1)]

    @classmethod
    def from_dict(cls, data: Any) -> DecoderParams:
        """Read the JSON form; BundleError names what is wrong."""
        made: DecoderParams = _from_dict(cls, data, "decoder")
        return made

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)
