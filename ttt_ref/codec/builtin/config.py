"""Shapes of the built-in codec's two networks. Torch-free, so that every part can share it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Self

from ttt_ref.errors import ConfigError
from ttt_ref.ranges import ContextTokens, PadSamples, RateHz, Seed, WindowSamples
from ttt_ref.schema import Length, Range, build, check

Width = Annotated[int, Range(1, 8192)]
Small = Annotated[int, Range(1, 64)]
Digits = Annotated[int, Range(1, 12)]
Taps = Annotated[tuple[Annotated[int, Range(0, 64)], ...], Length(0, 64)]
Decibels = Annotated[float, Range(-200, 200)]


class _Record:
    """Mixin: a frozen dataclass that is read from and written to plain JSON values."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from JSON values; unknown keys are refused, lists become tuples."""
        return build(cls, values, cls.__name__)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values (tuples become lists)."""
        values = asdict(self)  # type: ignore[call-overload]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


@dataclass(frozen=True)
class TokenizerConfig(_Record):
    """Speech tokenizer: log-mel at 100 Hz, two halvings, ConvNeXt blocks, finite scalar codes.

    ``right_context`` holds, block by block, how many of the kernel's taps lie in the future: the
    sum, with the two strided convolutions and the analysis window, is the look-ahead.
    """

    sample_rate_hz: RateHz = 16_000
    fft_samples: WindowSamples = 512
    window_samples: WindowSamples = 400
    hop_samples: WindowSamples = 160
    mel_bins: Annotated[int, Range(1, 4096)] = 80
    pad_samples: PadSamples = 3_200
    width: Width = 256
    expansion: Small = 3
    kernel: Small = 7
    right_context: Taps = (2, 2, 2, 1, 1, 1)
    code_digits: Digits = 6
    code_levels: int = 3

    def __post_init__(self) -> None:
        check(self, type(self).__name__)
        if self.code_levels != 3:
            raise ConfigError(f"code_levels is {self.code_levels}; only 3 is supported")
        if any(not 0 <= r < self.kernel for r in self.right_context):
            raise ConfigError(
                f"right_context {self.right_context} must lie in 0..{self.kernel - 1}, the kernel"
            )
        if self.window_samples > self.fft_samples or self.hop_samples > self.window_samples:
            raise ConfigError("need hop_samples <= window_samples <= fft_samples")
        if self.pad_samples % self.code_samples:
            raise ConfigError(
                f"pad_samples is {self.pad_samples}; use a multiple of {self.code_samples}"
            )

    @property
    def code_samples(self) -> int:
        """Samples that one speech token stands for: four mel frames."""
        return 4 * self.hop_samples

    @property
    def num_codes(self) -> int:
        """Size of the code book."""
        return int(self.code_levels**self.code_digits)

    @property
    def frame_rate_hz(self) -> float:
        """Speech tokens in a second."""
        return self.sample_rate_hz / self.code_samples

    @property
    def look_ahead_tokens(self) -> int:
        """Whole tokens to the right that a token depends on (see ``tokenizer.SpeechEncoder``)."""
        return sum(self.right_context) + 2

    @property
    def look_back_tokens(self) -> int:
        """Whole tokens to the left that a token depends on."""
        return sum(self.kernel - 1 - r for r in self.right_context) + 1


@dataclass(frozen=True)
class DecoderConfig(_Record):
    """Speech decoder: codes to pitch and per-frame filters of a pulse and a noise source.

    The network is causal; it sees ``look_ahead_tokens`` codes beyond the one it renders because
    its output is read that much later.
    """

    sample_rate_hz: RateHz = 16_000
    hop_samples: WindowSamples = 160
    fft_samples: WindowSamples = 512
    code_digits: Digits = 6
    code_levels: int = 3
    width: Width = 256
    expansion: Small = 3
    kernel: Small = 7
    code_blocks: Small = 4
    frame_blocks: Small = 6
    filter_blocks: Small = 2
    look_ahead_tokens: ContextTokens = 4
    noise_seed: Seed = 20_509
    gate_db: Decibels = -62.0
    gate_range_db: Decibels = 6.0

    def __post_init__(self) -> None:
        check(self, type(self).__name__)
        if self.code_levels != 3:
            raise ConfigError(f"code_levels is {self.code_levels}; only 3 is supported")
        if not 2 * self.hop_samples < self.fft_samples <= 4 * self.hop_samples:
            raise ConfigError("fft_samples must lie in 2..4 hops, the overlap that is summed")

    @property
    def code_samples(self) -> int:
        """Samples that one speech token stands for: four frames."""
        return 4 * self.hop_samples

    @property
    def num_codes(self) -> int:
        """Size of the code book."""
        return int(self.code_levels**self.code_digits)

    @property
    def bins(self) -> int:
        """Frequency bins of a frame."""
        return self.fft_samples // 2 + 1

    @property
    def lead_samples(self) -> int:
        """Samples by which frame ``i`` starts before ``i * hop``.

        Chosen so that frame ``i`` ends with the source of frame ``i + 1``: rendering a frame
        needs exactly one frame more of pitch.
        """
        return self.fft_samples - 2 * self.hop_samples
