"""What the bundle says of the built-in codec: framing and context, beside the graphs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar

from ttt_ref.errors import BundleError, ConfigError
from ttt_ref.ranges import CodeBook, ContextTokens, PadSamples, RateHz, Seed, WindowSamples
from ttt_ref.schema import build, check

_Own = TypeVar("_Own", bound="_Params")

LONGEST_CONTEXT_S: Final = 60  # of padding and of what a token sees on each side


@dataclass(frozen=True)
class _Params:
    """Mixin: read strictly from the bundle, see `ttt_ref.schema`."""

    @classmethod
    def from_dict(cls: type[_Own], data: Any) -> _Own:
        """Read the JSON form; BundleError for missing, unknown or impossible values."""
        try:
            return build(cls, data, "the built-in codec's params", complete=True)
        except ConfigError as error:
            raise BundleError(f"{error}; export the bundle again") from None

    def to_dict(self) -> dict[str, int]:
        """Return the JSON form."""
        return asdict(self)


def _check_context(params: TokenizerParams | DecoderParams, **samples: int) -> None:
    most = LONGEST_CONTEXT_S * params.sample_rate_hz
    for name, value in samples.items():
        if value > most:
            raise BundleError(
                f"the built-in codec's {name} stands for {value} samples; expected at most "
                f"{LONGEST_CONTEXT_S} s, {most}; export the bundle again"
            )


@dataclass(frozen=True)
class TokenizerParams(_Params):
    """Framing of the tokenizer: four hops are one token; contexts in whole tokens."""

    sample_rate_hz: RateHz
    fft_samples: WindowSamples
    window_samples: WindowSamples
    hop_samples: WindowSamples
    pad_samples: PadSamples
    num_codes: CodeBook
    look_back_tokens: ContextTokens
    look_ahead_tokens: ContextTokens

    def __post_init__(self) -> None:
        """Refuse framings that cannot be."""
        _check_ranges(self)
        if not self.hop_samples <= self.window_samples <= self.fft_samples:
            raise BundleError("the built-in codec needs hop <= window <= fft samples")
        if self.pad_samples % (4 * self.hop_samples):
            raise BundleError("the built-in codec pads whole tokens")
        _check_context(
            self,
            pad_samples=self.pad_samples,
            look_back_tokens=self.look_back_tokens * self.code_samples,
            look_ahead_tokens=self.look_ahead_tokens * self.code_samples,
        )

    @property
    def code_samples(self) -> int:
        """Samples of one token."""
        return 4 * self.hop_samples


@dataclass(frozen=True)
class DecoderParams(_Params):
    """Framing of the decoder: four hops are one token; its output is ``look_ahead`` late."""

    sample_rate_hz: RateHz
    fft_samples: WindowSamples
    hop_samples: WindowSamples
    lead_samples: PadSamples
    num_codes: CodeBook
    look_ahead_tokens: ContextTokens
    noise_seed: Seed

    def __post_init__(self) -> None:
        """Refuse framings that cannot be."""
        _check_ranges(self)
        hop, fft = self.hop_samples, self.fft_samples
        if not 2 * hop < fft <= 4 * hop:
            raise BundleError("the built-in decoder's window must be 2 to 4 hops")
        if self.lead_samples != fft - 2 * hop:
            raise BundleError(
                f"the built-in decoder's lead is {self.lead_samples}; expected {fft - 2 * hop}"
            )
        _check_context(self, look_ahead_tokens=self.look_ahead_tokens * self.code_samples)

    @property
    def code_samples(self) -> int:
        """Samples of one token."""
        return 4 * self.hop_samples


def _check_ranges(params: _Params) -> None:
    try:
        check(params, "the built-in codec's params")
    except ConfigError as error:
        raise BundleError(f"{error}; export the bundle again") from None
