"""Slow generation: every step recomputes everything. This defines what the runtime must return.

Text is decoded one token at a time; a begin token starts a span, which is denoised block by block
(mask-predict) until an end token appears; then text goes on. Batch of one throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttt_ref.config import GenerationConfig, TokenLayout
from ttt_ref.errors import ConfigError
from ttt_ref.mask import attend_mask
from ttt_ref.model import TttModel


@dataclass(frozen=True)
class StepTrace:
    """What one denoising step saw and did; lists have one entry per position of the block.

    Attributes:
        block: running number of the block in this generation, from 0.
        step: number of the step inside its block, from 0.
        start: position of the block's first token, prompt included.
        count: how many positions the step reveals.
        ids_before: block ids fed to the model.
        ids_after: block ids after the step.
        predicted: best id of each position; where already revealed, that id.
        confidence: confidence of each position; -inf where already revealed.
    """

    block: int
    step: int
    start: int
    count: int
    ids_before: list[int]
    ids_after: list[int]
    predicted: list[int]
    confidence: list[float]


Trace = Callable[[StepTrace], None]


@torch.no_grad()
def generate(
    model: TttModel,
    layout: TokenLayout,
    prompt_ids: Sequence[int],
    config: GenerationConfig,
    *,
    generator: torch.Generator | None = None,
    trace: Trace | None = None,
) -> list[int]:
    """Continue a prompt.

    Generation always starts with a text token, even if the prompt ends with a begin token. It
    stops at ``<|im_end|>`` (which is returned) or when ``config.max_gen_len`` is reached; the
    latter is tested only before a text token and before a run of ``diffusion_gen_length`` span
    tokens, so the result may be longer and may end inside a span or right after a begin token.

    Args:
        model: weights, on any device.
        layout: token ids.
        prompt_ids: at least one id.
        config: all options.
        generator: source of the random draws (on the CPU); None is torch's global one. Nothing is
            drawn when text is greedy, the diffusion temperature is 0 and remasking is by
            confidence: the result is then fixed.
        trace: called after each denoising step.

    Returns:
        The newly generated ids only, without the prompt.

    Raises:
        ConfigError: an id outside the vocabulary, an empty prompt, or, when the first span
            starts, lengths that do not divide each other.
    """
    ids = _checked(prompt_ids, layout)
    prompt_tokens = len(ids)
    spans = _SpanDecoder(model, layout, config, generator, trace)
    in_span = False
    ban_left = 0  # text tokens to come before <|im_end|> is allowed again
    while len(ids) < prompt_tokens + config.max_gen_len:
        if in_span:
            in_span = not spans.extend(ids)
            if not in_span:
                ban_left = max(ban_left, config.min_text_tokens_after_audio)
            continue
        logits = _logits(model, layout, torch.tensor([ids]), len(ids) - 1)[0, 0]  # [V]
        if ban_left > 0:
            logits[layout.im_end_id] = -torch.inf
        token = choose_text(logits, config, generator)
        ids.append(token)
        if token in layout.begin_ids:
            in_span, ban_left = True, 0
        elif token == layout.im_end_id:
            break
        else:
            ban_left = max(ban_left - 1, 0)
    return ids[prompt_tokens:]


def choose_text(
    logits: Tensor, config: GenerationConfig, generator: torch.Generator | None = None
) -> int:
    """Choose the next text token from logits [V]: argmax, or a draw if the options ask for one."""
    if not config.samples_text:
        return int(logits.argmax())
    # top_k or top_p at temperature 0 sample with temperature 1: the released script does so.
    temperature = config.ar_temperature if config.ar_temperature > 0 else 1.0
    probabilities = torch.softmax(logits / temperature, dim=-1).float().cpu()
    if config.filters_text:
        probabilities = filter_top(probabilities, config.top_k, config.top_p)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def filter_top(probabilities: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Keep the likeliest ids of probabilities [V] and renormalise.

    First the ``top_k`` likeliest; then, by falling probability and without renormalising in
    between, ids as long as the mass before them is below ``top_p``. At least one id stays.
    """
    if top_k:
        kept = torch.topk(probabilities, min(top_k, probabilities.shape[-1])).indices
        probabilities = torch.zeros_like(probabilities).scatter(0, kept, probabilities[kept])
    if top_p is not None and 0.0 < top_p < 1.0:
        ordered, order = torch.sort(probabilities, descending=True)
        mass_before = torch.cumsum(ordered, dim=0) - ordered
        keep = mass_before < top_p
        keep[0] = True
        probabilities = torch.zeros_like(probabilities).scatter(0, order, ordered * keep)
    return probabilities / probabilities.sum().clamp(min=1e-12)


class _SpanDecoder:
    """Denoises blocks and appends them to the sequence."""

    def __init__(
        self,
        model: TttModel,
        layout: TokenLayout,
        config: GenerationConfig,
        generator: torch.Generator | None,
        trace: Trace | None,
    ) -> None:
        self.model = model
        self.layout = layout
        self.config = config
        self.generator = generator
        self.trace = trace
        self.blocks_done = 0

    def extend(self, ids: list[int]) -> bool:
        """Append one run of up to ``diffusion_gen_length`` span tokens; tell if the span ended.

        The span is cut right after its first end token, of either kind. Without one the caller
        simply calls again: a span may be longer than a run.
        """
        steps = self.config.steps_per_block()
        for _ in range(self.config.diffusion_gen_length // self.config.block_length):
            block = self._denoise(ids, steps)
            for offset, token in enumerate(block):
                if token in self.layout.end_ids:
                    ids.extend(block[: offset + 1])
                    return True
            ids.extend(block)
        return False

    def _denoise(self, ids: list[int], steps: int) -> list[int]:
        """Return one finished block after ``ids``; all its steps run, ended or not."""
        size, start = self.config.block_length, len(ids)
        block = torch.full((size,), self.layout.mask_id)
        base, remainder = divmod(size, steps)
        for step in range(steps):
            count = base + (step < remainder)  # 0 when there are more steps than positions
            before = block.clone()
            predicted, confidence = self._predict(ids, block)
            # A predicted mask id stays open: its position can be chosen again in a later step.
            is_open = block == self.layout.mask_id
            predicted = torch.where(is_open, predicted, block)
            confidence = confidence.masked_fill(~is_open, -torch.inf)
            # Stable: of equal confidences the leftmost position wins.
            revealed = torch.argsort(confidence, descending=True, stable=True)[:count]
            block[revealed] = predicted[revealed]
            if self.trace is not None:
                record = StepTrace(
                    self.blocks_done,
                    step,
                    start,
                    count,
                    before.tolist(),
                    block.tolist(),
                    predicted.tolist(),
                    confidence.tolist(),
                )
                self.trace(record)
        self.blocks_done += 1
        return block.tolist()

    def _predict(self, ids: list[int], block: Tensor) -> tuple[Tensor, Tensor]:
        """Return best id and confidence, [block] each, at every position of the block."""
        start, scale = len(ids), self.config.cfg_scale
        sequence = torch.cat((torch.tensor(ids), block))[None]  # [1, L]
        if scale > 0:
            # The unconditional row knows the block only: all before it is masked.
            blank = sequence.clone()
            blank[:, :start] = self.layout.mask_id
            both = _logits(self.model, self.layout, torch.cat((sequence, blank)), start)
            guided, free = both[0], both[1]
            logits = free + (scale + 1) * (guided - free)
        else:
            logits = _logits(self.model, self.layout, sequence, start)[0]  # [block, V]
        logits[:, self.layout.im_end_id] = -torch.inf
        predicted = self._add_gumbel(logits, start).argmax(dim=-1)
        if self.config.remasking == "random":
            length = start + len(block)
            confidence = torch.rand(1, length, generator=self.generator)[0, start:]
        else:
            # Neither noise nor temperature enters the confidence.
            probabilities = torch.softmax(logits, dim=-1)
            confidence = probabilities.gather(-1, predicted[:, None])[:, 0].cpu()
        return predicted.cpu(), confidence

    def _add_gumbel(self, logits: Tensor, start: int) -> Tensor:
        """Turn argmax into a draw with temperature T: exp(logits) / (-log u)^T in float64.

        Uniform numbers are drawn for all positions of the sequence, as the released code does, so
        that a seed means the same there and here.
        """
        temperature = self.config.diffusion_temperature
        if temperature == 0:
            return logits
        block, vocabulary = logits.shape
        shape = (1, start + block, vocabulary)
        uniform = torch.rand(shape, generator=self.generator, dtype=torch.float64)[0, start:]
        noise = (-uniform.log()) ** temperature
        return logits.double().exp() / noise.to(logits.device)


def _logits(model: TttModel, layout: TokenLayout, ids: Tensor, first: int) -> Tensor:
    """Return logits [B, L - first, V] of ids [B, L] from position ``first`` on."""
    ids = ids.to(model.device)
    attend = attend_mask(ids, layout.audio_start)
    return model.logits(model.hidden(ids, attend)[:, first:])


def _checked(prompt_ids: Sequence[int], layout: TokenLayout) -> list[int]:
    ids = [int(token) for token in prompt_ids]
    if not ids:
        raise ConfigError("the prompt is empty; generation needs at least one token")
    for token in ids:
        if not 0 <= token < layout.vocab_size:
            raise ConfigError(
                f"prompt id {token} is outside the vocabulary of {layout.vocab_size} rows"
            )
    return ids
