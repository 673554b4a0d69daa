"""What a bundle says of its GLM-4-Voice codec beside the graphs, checked when it is read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from ttt_ref.errors import BundleError, ConfigError
from ttt_ref.ranges import CodeBook, Layers, Seed, Width
from ttt_ref.schema import Length, OneOf, Range, build, check

Size = Annotated[int, Range(1, 4096)]
Amount = Annotated[float, Range(-1e6, 1e6)]

SOLVERS = ("euler", "midpoint", "heun", "ab2")


def _from_dict(cls: Any, data: Any, where: str) -> Any:
    try:
        return build(cls, data, f"codec params {where}", complete=True)
    except ConfigError as error:
        raise BundleError(f"{error}; export the bundle again") from None


def _check(params: Any) -> None:
    try:
        check(params, "codec params")
    except ConfigError as error:
        raise BundleError(f"{error}; export the bundle again") from None


def _require(good: bool, what: str) -> None:
    if not good:
        raise BundleError(f"codec params: {what}; export the bundle again")


@dataclass(frozen=True)
class TokenizerParams:
    """Shape of the speech tokenizer. Positions are 20 ms, a block is what attends both ways."""

    num_codes: CodeBook
    mel_bins: Size
    width: Width
    layers: Layers
    block_positions: Size
    segment_positions: Annotated[int, Range(1, 15_000)]
    pool_positions: Size

    def __post_init__(self) -> None:
        """Refuse shapes that no export of ours has."""
        _check(self)
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

    num_codes: CodeBook
    mel_bins: Size
    encoder_block: Size
    guidance: Amount
    harmonics: Annotated[int, Range(0, 256)]
    sine_amplitude: Amount
    noise_sigma: Amount
    voiced_threshold_hz: Amount
    source_weight: Annotated[tuple[Amount, ...], Length(1, 257)]
    source_bias: Amount
    speaker: Annotated[tuple[Amount, ...], Length(1, 4096)]
    steps: Annotated[int, Range(1, 100)] = 10
    solver: Annotated[str, OneOf(*SOLVERS)] = "euler"
    window_tokens: Annotated[int, Range(0, 2000)] = 20
    hold_frames: Annotated[int, Range(0, 500)] = 34
    plan_tokens: Annotated[tuple[Annotated[int, Range(1, 2000)], ...], Length(1, 64)] = (12, 13, 25)
    whole_tokens: Annotated[int, Range(0, 3000)] = 250
    seed: Seed = 42

    def __post_init__(self) -> None:
        """Refuse values that the decoder cannot work with."""
        _check(self)
        _require(len(self.source_weight) == self.harmonics + 1, "source_weight has a wrong length")
        _require(len(self.speaker) == self.mel_bins, "speaker has a wrong length")

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
