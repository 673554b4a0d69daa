"""What the bundle says of the built-in codec: framing and context, beside the graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

from ttt_ref.errors import BundleError

_Own = TypeVar("_Own", bound="_Params")


@dataclass(frozen=True)
class _Params:
    """Mixin: whole positive numbers, read strictly from the bundle."""

    @classmethod
    def from_dict(cls: type[_Own], data: Any) -> _Own:
        """Read the JSON form; BundleError for missing, unknown or impossible values."""
        names = [f.name for f in fields(cls)]
        if not isinstance(data, Mapping) or data.keys() != set(names):
            seen = sorted(data) if isinstance(data, Mapping) else type(data).__name__
            raise BundleError(f"the built-in codec's params are {seen}; expected {sorted(names)}")
        for name in names:
            value = data[name]
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
                raise BundleError(
                    f"the built-in codec's {name} is {value!r}; expected a whole number"
                )
        return cls(**data)

    def to_dict(self) -> dict[str, int]:
        """Return the JSON form."""
        return asdict(self)


@dataclass(frozen=True)
class TokenizerParams(_Params):
    """Framing of the tokenizer: four hops are one token; contexts in whole tokens."""

    sample_rate_hz: int
    fft_samples: int
    window_samples: int
    hop_samples: int
    pad_samples: int
    num_codes: int
    look_back_tokens: int
    look_ahead_tokens: int

    def __post_init__(self) -> None:
        """Refuse framings that cannot be."""
        if not 0 < self.hop_samples <= self.window_samples <= self.fft_samples <= 1 << 16:
            raise BundleError("the built-in codec needs 0 < hop <= window <= fft samples")
        if self.pad_samples % (4 * self.hop_samples) or self.sample_rate_hz == 0:
            raise BundleError("the built-in codec pads whole tokens and has a sample rate")

    @property
    def code_samples(self) -> int:
        """Samples of one token."""
        return 4 * self.hop_samples


@dataclass(frozen=True)
class DecoderParams(_Params):
    """Framing of the decoder: four hops are one token; its output is ``look_ahead`` late."""

    sample_rate_hz: int
    fft_samples: int
    hop_samples: int
    lead_samples: int
    num_codes: int
    look_ahead_tokens: int
    noise_seed: int

    def __post_init__(self) -> None:
        """Refuse framings that cannot be."""
        hop, fft = self.hop_samples, self.fft_samples
        if not (hop > 0 and 2 * hop < fft <= 4 * hop) or self.sample_rate_hz == 0:
            raise BundleError("the built-in decoder's window must be 2 to 4 hops")
        if self.lead_samples != fft - 2 * hop:
            raise BundleError(
                f"the built-in decoder's lead is {self.lead_samples}; expected {fft - 2 * hop}"
            )

    @property
    def code_samples(self) -> int:
        """Samples of one token."""
        return 4 * self.hop_samples
