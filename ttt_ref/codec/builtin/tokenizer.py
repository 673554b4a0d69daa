"""The speech tokenizer: 16 kHz audio to 25 Hz codes, trained with CTC on phonemes and letters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ttt_ref.codec.builtin.config import TokenizerConfig
from ttt_ref.codec.builtin.features import LogMel
from ttt_ref.codec.builtin.layers import ConvNeXtBlock, digits_to_ids, round_codes
from ttt_ref.errors import AudioError


class FoldableNorm(nn.Module):
    """Batch normalisation without affine part, over the valid tokens only.

    Without it before the tanh all codes collapse into the centre one. At inference it is a fixed
    shift and scale per digit.
    """

    def __init__(self, channels: int, momentum: float = 0.02):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))
        self.mean: Tensor
        self.var: Tensor

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, S, C] -> [B, S, C], float32."""
        x = x.float()
        if not self.training:
            return (x - self.mean) * torch.rsqrt(self.var + 1e-5)
        valid = x[mask.squeeze(-1) > 0] if mask is not None else x.flatten(0, 1)
        mean, var = valid.mean(0), valid.var(0, unbiased=False)
        with torch.no_grad():
            self.mean.lerp_(mean, self.momentum)
            self.var.lerp_(var, self.momentum)
        return (x - mean) * torch.rsqrt(var + 1e-5)


class SpeechEncoder(nn.Module):
    """Log-mel [B, 4 S, mel] -> tanh values [B, S, digits] before rounding.

    Token s depends on the audio of tokens s - look_back .. s + look_ahead only. The strided
    convolutions and the analysis window together reach one token back and two ahead.
    """

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        self.config = config
        self.halve1 = nn.Conv1d(config.mel_bins, config.width, 5, stride=2)
        self.halve2 = nn.Conv1d(config.width, config.width, 5, stride=2)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(config.width, config.kernel, right, config.expansion)
            for right in config.right_context
        )
        self.norm = nn.LayerNorm(config.width)
        self.to_digits = nn.Linear(config.width, config.code_digits)
        self.digit_norm = FoldableNorm(config.code_digits)

    def forward(self, mel: Tensor, tokens: Tensor | None = None) -> Tensor:
        """``tokens`` int [B]: valid tokens of each row; the rest is treated as absent."""
        x, mask = self._features(mel, tokens)
        return torch.tanh(self.digit_norm(self.to_digits(x), mask))

    def features(self, mel: Tensor) -> Tensor:
        """[B, 4 S, mel] -> [B, S, width]: what is heard, before it is narrowed to the digits."""
        return self._features(mel, None)[0]

    def _features(self, mel: Tensor, tokens: Tensor | None) -> tuple[Tensor, Tensor | None]:
        mask4 = mask2 = mask = None
        if tokens is not None:
            index = torch.arange(mel.shape[1], device=mel.device)
            mask4 = (index < 4 * tokens[:, None]).float().unsqueeze(1)
            mask2 = (index[: mel.shape[1] // 2] < 2 * tokens[:, None]).float().unsqueeze(1)
            mask = (index[: mel.shape[1] // 4] < tokens[:, None]).float().unsqueeze(2)
        x = mel.transpose(1, 2)
        if mask4 is not None:
            x = x * mask4
        x = F.gelu(self.halve1(F.pad(x, (1, 2))))
        if mask2 is not None:
            x = x * mask2
        x = F.gelu(self.halve2(F.pad(x, (1, 2)))).transpose(1, 2)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x), mask


class CtcHead(nn.Module):
    """Training only: quantised digits -> phoneme and letter logits at twice the token rate."""

    def __init__(self, digits: int, phones: int, letters: int, width: int = 256, blocks: int = 4):
        super().__init__()
        self.enter = nn.Linear(digits, width)
        self.blocks = nn.ModuleList(ConvNeXtBlock(width, 9, 4, 3) for _ in range(blocks))
        self.upsample = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width)
        self.phones = nn.Linear(width, phones)
        self.letters = nn.Linear(width, letters)

    def forward(self, digits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S, digits], int [B] -> logits [B, 2 S, phones], [B, 2 S, letters]."""
        mask = (torch.arange(digits.shape[1]) < tokens[:, None]).float().unsqueeze(2)
        x = self.enter(digits)
        for block in self.blocks:
            x = block(x, mask)
        x = F.gelu(self.upsample(x)).reshape(x.shape[0], -1, x.shape[2])
        x = self.norm(x)
        return self.phones(x), self.letters(x)


class SpeechTokenizer(nn.Module):
    """Audio to speech tokens: ``pad_samples`` of silence are put on both sides first."""

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        self.config = config
        self.mel = LogMel(config)
        self.encoder = SpeechEncoder(config)

    @property
    def sample_rate_hz(self) -> int:
        """Sample rate of the audio that is taken."""
        return self.config.sample_rate_hz

    @property
    def frame_rate_hz(self) -> float:
        """Speech tokens in a second."""
        return self.config.frame_rate_hz

    @property
    def num_codes(self) -> int:
        """Size of the code book."""
        return self.config.num_codes

    def count_tokens(self, samples: int) -> int:
        """Tokens of an utterance of ``samples``, the silence around it included (0 for none)."""
        if samples == 0:
            return 0
        return -(-(samples + 2 * self.config.pad_samples) // self.config.code_samples)

    def pad_batch(self, audios: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Utterances [T_i] -> audio [B, T] with silence on both sides, token counts int64 [B]."""
        counts = [self.count_tokens(len(a)) for a in audios]
        pad, total = self.config.pad_samples, max(counts) * self.config.code_samples
        batch = torch.zeros(len(audios), total)
        for row, audio in zip(batch, audios, strict=True):
            row[pad : pad + len(audio)] = audio
        return batch, torch.tensor(counts)

    @torch.inference_mode()
    def encode_batch(self, audios: list[Tensor]) -> list[Tensor]:
        """Utterances float32 [T_i] -> ids int64 [S_i] each; equals encoding them one by one."""
        batch, counts = self.pad_batch(audios)
        ids = digits_to_ids(self.encoder(self.mel(batch), counts))
        return [row[:count] for row, count in zip(ids, counts.tolist(), strict=True)]

    def encode(self, audio: Tensor) -> Tensor:
        """Audio float32 [T] at 16 kHz -> ids int64 [S]; empty audio gives no tokens.

        Raises:
            AudioError: not one-dimensional, or values that are not finite.
        """
        if audio.ndim != 1:
            raise AudioError(f"audio has the shape {tuple(audio.shape)}; give one channel [T]")
        if not bool(torch.isfinite(audio).all()):
            raise AudioError("audio contains NaN or infinite samples; repair the recording")
        if len(audio) == 0:
            return torch.zeros(0, dtype=torch.int64)
        return self.encode_batch([audio.float()])[0]


def quantise(u: Tensor, soft: Tensor | None = None) -> Tensor:
    """Round with straight-through gradient; with ``soft`` noise in [-0.5, 0.5] add it instead."""
    return round_codes(u) if soft is None else u + soft
