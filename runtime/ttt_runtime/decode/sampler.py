"""From hidden rows to ids: the strategies of one generation, picked once when it starts.

A text step asks for the id that follows the last row. A block step asks which open positions of
the block to reveal, and as what. `SpeechEngine` builds one :class:`Sampler` per generation from
its options; the loop itself has no option left to look at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ttt_ref.config import GenerationConfig, TokenLayout
from ttt_runtime.backends.base import Floats, Ids, Runner
from ttt_runtime.decode.approximations import Approximations
from ttt_runtime.decode.sampling import (
    combine,
    confidence_of,
    gumbel_choice,
    most_confident,
    sample_text,
)
from ttt_runtime.decode.scheduler import Step

ChooseText = Callable[[Floats, bool], int]
ChooseSpeech = Callable[[Floats], tuple[Ids, Floats]]
Guide = Callable[[Step, Sequence[int], NDArray[np.intp], Floats], Floats]
Rank = Callable[[Ids, Floats], NDArray[np.floating]]  # ids, confidences [N] -> scores [N]


def _by_confidence(ids: Ids, confidence: Floats) -> Floats:
    return confidence


class Sampler:
    """The choices of one generation. Built once; `text` and `block` are called in the loop.

    Args:
        runner: heads, and the decoder for guidance's second row.
        layout: which id means what.
        config: generation options.
        options: approximations (`approximations.EXACT` for none).
        rng: source of all random draws.
        unconditional: hidden row [hidden] that guidance sees in a block of masks only; None
            computes even that one with a forward, as the reference does.
    """

    def __init__(
        self,
        runner: Runner,
        layout: TokenLayout,
        config: GenerationConfig,
        options: Approximations,
        rng: np.random.Generator,
        unconditional: Callable[[], Floats] | None,
    ) -> None:
        self._runner = runner
        self._layout = layout
        self._config = config
        self._rng = rng
        self._unconditional = unconditional
        # What the last text token had, once it is asked for; drawn tokens are not told.
        self.tells_probability = False
        self.probability: float | None = None
        constrained = options.constrained_heads
        if config.samples_text:
            self._choose_text: ChooseText = (
                self._top_p_text_side if constrained else self._top_p_any
            )
        else:
            self._choose_text = self._greedy_text_side if constrained else self._greedy_text_any
        if options.text_only:
            self._choose_text = self._no_span
        if config.diffusion_temperature > 0:
            self._choose_speech: ChooseSpeech = (
                self._gumbel_speech_side if constrained else self._gumbel_any
            )
        else:
            self._choose_speech = self._greedy_speech_side if constrained else self._greedy_any
        self._guide: Guide | None = None
        if config.cfg_scale > 0 and options.guidance != "off":
            self._guide = (
                self._guide_constant if options.guidance == "constant" else self._guide_full
            )
        self._rank: Rank = _by_confidence
        if config.remasking == "random":
            self._rank = self._by_chance
        # A confidence is at most 1, so an infinite threshold reveals nothing beyond the share.
        self._threshold = np.inf if options.threshold is None else options.threshold

    def text(self, step: Step, hidden: Floats) -> list[tuple[int, int]]:
        """Choose the id after the last of hidden rows [Q, hidden]."""
        return [(step.stop, self._choose_text(hidden[-1:], step.forbid_end))]

    def block(self, step: Step, ids: Sequence[int], hidden: Floats) -> list[tuple[int, int]]:
        """Choose which open positions of the block to reveal from hidden rows [Q, hidden].

        Returns:
            (position, id) of each revealed position.
        """
        mask_id = self._layout.mask_id
        positions = [p for p in range(step.block_start, step.stop) if ids[p] == mask_id]
        rows = hidden[np.array(step.rows_of(positions), dtype=np.intp)]  # [N, hidden], a copy
        if self._guide is not None:
            rows = self._guide(step, ids, np.array(positions, dtype=np.intp), rows)
        chosen, confidence = self._choose_speech(rows)
        revealed = list(most_confident(self._rank(chosen, confidence), step.reveal))
        sure = np.flatnonzero(confidence >= self._threshold).tolist()
        revealed += [i for i in sure if i not in revealed]
        return [(positions[i], int(chosen[i])) for i in revealed]

    def _by_chance(self, ids: Ids, confidence: Floats) -> Floats:
        return self._rng.random(len(ids), dtype=np.float32)

    # Text: greedy or drawn, over all rows or over the text rows.

    def _greedy_text_any(self, hidden: Floats, forbid_end: bool) -> int:
        text = self._runner.text_best(hidden, forbid_end=forbid_end)
        speech = self._runner.speech_best(hidden)
        if self.tells_probability:
            self.probability = float(combine(text, speech)[1][0])
        best = speech if speech.logits[0] > text.logits[0] else text
        return int(best.ids[0])

    def _greedy_text_side(self, hidden: Floats, forbid_end: bool) -> int:
        best = self._runner.text_best(hidden, forbid_end=forbid_end)
        if self.tells_probability:
            self.probability = float(confidence_of(best)[0])
        return int(best.ids[0])

    def _top_p_any(self, hidden: Floats, forbid_end: bool) -> int:
        text = self._runner.text_logits(hidden, forbid_end=forbid_end)
        return self._sample(text[0], self._runner.speech_logits(hidden)[0])

    def _top_p_text_side(self, hidden: Floats, forbid_end: bool) -> int:
        return self._sample(self._runner.text_logits(hidden, forbid_end=forbid_end)[0])

    def _no_span(self, hidden: Floats, forbid_end: bool) -> int:
        logits = self._runner.text_logits(hidden, forbid_end=forbid_end)[0].copy()
        logits[list(self._layout.begin_ids)] = -np.inf
        return self._sample(logits) if self._config.samples_text else int(logits.argmax())

    def _sample(self, *parts: Floats) -> int:
        c = self._config
        top_k_finder = self._runner.top_k_finder
        return sample_text(parts, c.ar_temperature, c.top_k, c.top_p, self._rng, top_k_finder)

    def _all_logits(self, hidden: Floats, forbid_end: bool) -> Floats:
        text = self._runner.text_logits(hidden, forbid_end=forbid_end)
        return np.concatenate([text, self._runner.speech_logits(hidden)], axis=1)

    # Speech: id and confidence of every open position. <|im_end|> is never allowed in a block.

    def _greedy_any(self, hidden: Floats) -> tuple[Ids, Floats]:
        text = self._runner.text_best(hidden, forbid_end=True)
        return combine(text, self._runner.speech_best(hidden))

    def _greedy_speech_side(self, hidden: Floats) -> tuple[Ids, Floats]:
        best = self._runner.speech_best(hidden)
        return best.ids, confidence_of(best)

    def _gumbel_any(self, hidden: Floats) -> tuple[Ids, Floats]:
        logits = self._all_logits(hidden, forbid_end=True)
        return gumbel_choice(logits, self._config.diffusion_temperature, self._rng)

    def _gumbel_speech_side(self, hidden: Floats) -> tuple[Ids, Floats]:
        logits = self._runner.speech_logits(hidden)
        ids, confidence = gumbel_choice(logits, self._config.diffusion_temperature, self._rng)
        return ids + self._layout.audio_start, confidence

    # Guidance: u + (s+1)(c-u) on hidden rows instead of logits; the heads are linear without
    # bias, so it is the same up to rounding.

    def _guide_constant(
        self, step: Step, ids: Sequence[int], positions: NDArray[np.intp], rows: Floats
    ) -> Floats:
        assert self._unconditional is not None
        return self._mix(rows, self._unconditional())

    def _guide_full(
        self, step: Step, ids: Sequence[int], positions: NDArray[np.intp], rows: Floats
    ) -> Floats:
        if step.block_step == 0 and self._unconditional is not None:
            # The second row holds nothing but masks: all its values, hence all its hidden rows,
            # are one vector, whatever the length.
            return self._mix(rows, self._unconditional())
        masked = [self._layout.mask_id] * step.block_start + list(ids[step.block_start : step.stop])
        return self._mix(rows, self._runner.forward(masked, 0, scratch=True)[positions])

    def _mix(self, conditional: Floats, unconditional: Floats) -> Floats:
        scale = np.float32(self._config.cfg_scale + 1.0)
        return unconditional + scale * (conditional - unconditional)
