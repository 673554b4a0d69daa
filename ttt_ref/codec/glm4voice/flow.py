"""The flow: speech tokens (and a prompt) to log-mel frames by guided flow matching.

Axis letters: B batch (always 1), S speech tokens, F mel frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ttt_ref.codec.glm4voice.config import FlowConfig
from ttt_ref.codec.glm4voice.estimator import Estimator
from ttt_ref.codec.glm4voice.flow_encoder import FlowEncoder, LengthRegulator
from ttt_ref.codec.glm4voice.solver import solve
from ttt_ref.codec.glm4voice.timing import frames_of, released_index


class FlowDecoder(nn.Module):
    """Holder of the estimator under its released name."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.estimator = Estimator(config)


@dataclass(frozen=True)
class SolverOptions:
    """How the equation is solved; the defaults are the released decoder's."""

    steps: int = 10
    solver: str = "euler"


class Flow(nn.Module):
    """Speech tokens to mel. Parameter names are those of the released `flow.pt`."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.input_embedding = nn.Embedding(config.num_codes, config.width)
        self.spk_embed_affine_layer = nn.Linear(config.speaker_width, config.mel_bins)
        self.encoder = FlowEncoder(config)
        self.encoder_proj = nn.Linear(config.width, config.mel_bins)
        self.length_regulator = LengthRegulator(config.mel_bins)
        self.decoder = FlowDecoder(config)

    def speaker(self, embedding: Tensor | None = None) -> Tensor:
        """Return the speaker vector [1, 80]; without an embedding [1, 192] it is a constant."""
        if embedding is None:
            embedding = torch.zeros(1, self.config.speaker_width)
        out: Tensor = self.spk_embed_affine_layer(functional.normalize(embedding, dim=1))
        return out

    def encode(self, tokens: Tensor) -> Tensor:
        """Return the encoder's states [1, S, C] of tokens int64 [1, S]."""
        out: Tensor = self.encoder(self.input_embedding(tokens))
        return out

    def frame_means(self, tokens: Tensor, source_index: Tensor) -> Tensor:
        """Return mu [1, 80, F]: the encoder's view of every frame.

        Args:
            tokens: int64 [1, S].
            source_index: token of each frame, int64 [F].
        """
        out: Tensor = self.length_regulator(self.encoder_proj(self.encode(tokens)), source_index)
        return out

    def velocity(self, x: Tensor, t: Tensor, mu: Tensor, speaker: Tensor, cond: Tensor) -> Tensor:
        """Return the guided velocity [1, 80, F]: with and without guidance as one batch of two."""
        guidance = self.config.guidance
        both = self.decoder.estimator(
            torch.cat((x, x)),
            torch.cat((mu, torch.zeros_like(mu))),
            t.expand(2),
            torch.cat((speaker, torch.zeros_like(speaker))),
            torch.cat((cond, torch.zeros_like(cond))),
        )
        out: Tensor = (1 + guidance) * both[:1] - guidance * both[1:]
        return out

    def solve(
        self, mu: Tensor, speaker: Tensor, cond: Tensor, noise: Tensor, options: SolverOptions
    ) -> Tensor:
        """Return the mel [1, 80, F] that the noise [1, 80, F] flows to."""
        return solve(
            lambda x, t: self.velocity(x, t, mu, speaker, cond),
            noise,
            options.steps,
            options.solver,
        )

    def forward(
        self,
        tokens: Tensor,
        noise: Tensor,
        prompt_tokens: Tensor | None = None,
        prompt_mel: Tensor | None = None,
        embedding: Tensor | None = None,
        options: SolverOptions | None = None,
    ) -> Tensor:
        """Decode as the released code does.

        Args:
            tokens: new tokens int64 [1, S].
            noise: [1, 80, F] for the frames of prompt and new tokens together.
            prompt_tokens: tokens int64 [1, S'] already spoken.
            prompt_mel: their mel [1, 80, P].
            embedding: speaker [1, 192]; none is ever used by the released decoder.
            options: solver; the released one by default.

        Returns:
            mel [1, 80, F - P] of what follows the prompt.
        """
        if prompt_tokens is not None:
            tokens = torch.cat((prompt_tokens, tokens), 1)
        frames = frames_of(tokens.shape[1])
        mu = self.frame_means(tokens, released_index(tokens.shape[1], frames))
        cond = torch.zeros_like(mu)
        known = 0
        if prompt_mel is not None:
            known = prompt_mel.shape[2]
            cond[:, :, :known] = prompt_mel
        mel = self.solve(mu, self.speaker(embedding), cond, noise, options or SolverOptions())
        return mel[:, :, known:]
