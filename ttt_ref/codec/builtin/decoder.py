"""The speech decoder: 25 Hz codes to the 16 kHz voice it was trained on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt_ref.codec.builtin.config import DecoderConfig
from ttt_ref.codec.builtin.layers import ConvNeXtBlock, ids_to_digits
from ttt_ref.codec.builtin.source import F0_HIGH_HZ, F0_LOW_HZ, noise_like, render
from ttt_ref.errors import CodecError

F0_CENTRE_HZ, F0_SCALE = 180.0, 2.0


def pitch_to_unit(f0_hz: Tensor) -> Tensor:
    """Hz -> the network's scale (about -2..2)."""
    return torch.log(f0_hz / F0_CENTRE_HZ) * F0_SCALE


def unit_to_pitch(value: Tensor) -> Tensor:
    """The network's scale -> Hz, within the range that the source can render."""
    return (F0_CENTRE_HZ * torch.exp(value / F0_SCALE)).clamp(F0_LOW_HZ, F0_HIGH_HZ)


class DecoderNetwork(nn.Module):
    """Codes [B, N] -> pitch and filters of 4 N frames, ``look_ahead_tokens`` tokens late.

    Strictly causal: every convolution sees the past only. The id ``num_codes`` stands for "no
    code", before the end is reached by the late output.
    """

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        c = config
        self.embed = nn.Embedding(c.num_codes + 1, c.width)
        self.digits = nn.Linear(c.code_digits, c.width, bias=False)

        def block() -> ConvNeXtBlock:
            return ConvNeXtBlock(c.width, c.kernel, 0, c.expansion)

        self.code_blocks = nn.ModuleList(block() for _ in range(c.code_blocks))
        self.upsample = nn.Linear(c.width, 2 * c.width)
        self.frame_blocks = nn.ModuleList(block() for _ in range(c.frame_blocks))
        self.to_pitch = nn.Linear(c.width, 4)
        self.from_pitch = nn.Linear(4, c.width)
        self.filter_blocks = nn.ModuleList(block() for _ in range(c.filter_blocks))
        self.norm = nn.LayerNorm(c.width)
        self.to_filters = nn.Linear(c.width, 2 * 3 * c.bins)
        nn.init.normal_(self.embed.weight, std=0.5)
        nn.init.normal_(self.to_filters.weight, std=0.02)
        with torch.no_grad():
            bias = self.to_filters.bias.view(2, 3, c.bins)
            bias.zero_()
            bias[:, 0], bias[:, 2] = -4.0, -6.0

    def state_shapes(self) -> list[tuple[int, int, int]]:
        """Shapes [1, kernel - 1, width] of the convolutions' pasts, in the order of the blocks."""
        c = self.config
        blocks = c.code_blocks + c.frame_blocks + c.filter_blocks
        return [(1, c.kernel - 1, c.width)] * blocks

    def forward(
        self,
        ids: Tensor,
        pitch: Tensor | None = None,
        past: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Run over the codes of one utterance, or of its next part.

        Args:
            ids: int64 [B, N].
            pitch: teacher values [B, 4 N, 2] (unit pitch, voicing 0/1); None feeds back its own.
            past: the last ``kernel - 1`` inputs of each block [B, kernel - 1, width]; None = zeros.

        Returns:
            Unit pitch [B, 4 N], voicing logit [B, 4 N], filters [B, 4 N, 3, bins], new pasts.
        """
        keep = self.config.kernel - 1
        given = iter(past) if past is not None else None
        new: list[Tensor] = []

        def run(blocks: nn.ModuleList, x: Tensor) -> Tensor:
            for block in blocks:
                before = (
                    next(given) if given is not None else x.new_zeros(x.shape[0], keep, x.shape[2])
                )
                new.append(torch.cat([before, x], dim=1)[:, -keep:])
                x = block(x, None, before)
            return x

        real = (ids < self.config.num_codes).unsqueeze(-1)
        digits = ids_to_digits(ids, self.config.code_digits) * real
        x = run(self.code_blocks, self.embed(ids) + self.digits(digits))
        rows, width = ids.shape[0], self.config.width
        x = self.upsample(x).reshape(rows, -1, width)
        x = run(self.frame_blocks, x)
        heard = self.to_pitch(x).float()  # [B, 2 N, (pitch, voicing) of two frames]
        unit, logit = heard.reshape(rows, -1, 2).unbind(2)
        if pitch is None:
            pitch = torch.stack([unit, (logit > 0).float()], dim=2)
        x = x + self.from_pitch(pitch.reshape(rows, -1, 4))
        x = run(self.filter_blocks, x)
        filters = self.to_filters(self.norm(x)).reshape(rows, -1, 3, self.config.bins)
        return unit, logit, filters, new


class SpeechDecoder(nn.Module):
    """Speech tokens to audio, with the network, both sources and the silence gate."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.config = config
        self.network = DecoderNetwork(config)

    @property
    def sample_rate_hz(self) -> int:
        """Sample rate of the audio that is made."""
        return self.config.sample_rate_hz

    @torch.inference_mode()
    def decode(self, ids: Tensor) -> Tensor:
        """Ids int64 [S] -> audio float32 [S * code_samples]; no codes give no audio.

        Raises:
            CodecError: not one-dimensional, or ids outside the code book.
        """
        if ids.ndim != 1:
            raise CodecError(f"speech tokens have the shape {tuple(ids.shape)}; give [S]")
        if len(ids) == 0:
            return torch.zeros(0)
        if int(ids.min()) < 0 or int(ids.max()) >= self.config.num_codes:
            raise CodecError(
                f"speech tokens {int(ids.min())}..{int(ids.max())} are outside the code book "
                f"0..{self.config.num_codes - 1}"
            )
        ahead = self.config.look_ahead_tokens
        padded = F.pad(ids[None], (0, ahead), value=self.config.num_codes)
        unit, logit, filters, _ = self.network(padded)
        first = 4 * ahead
        noise = noise_like(self.config, len(ids) * self.config.code_samples)
        return render(
            unit_to_pitch(unit[:, first:]),
            (logit[:, first:] > 0).float(),
            filters[:, first:],
            self.config,
            noise,
            torch.zeros(1, dtype=torch.float64),
            gate=True,
        )[0]
