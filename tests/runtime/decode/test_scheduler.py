"""The scheduler alone: ids are dealt out by the test, no model in sight."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.runtime.toy import toy_layout
from ttt_ref.config import GenerationConfig
from ttt_runtime.decode.events import Event, SpeechEvent
from ttt_runtime.decode.scheduler import Scheduler, State, Step

LAYOUT = toy_layout()
MASK, QUAD, AUDIO = LAYOUT.mask_id, LAYOUT.begin_of_quad_id, LAYOUT.begin_of_audio_id
NEW, LAST = LAYOUT.end_of_audio_new_id, LAYOUT.end_of_audio_span_last_id
END = LAYOUT.im_end_id
CODE = LAYOUT.code_offset
CONFIG = GenerationConfig(
    max_gen_len=100, diffusion_steps=4, diffusion_gen_length=8, block_length=4
)


class Deal:
    """Deals texts and blocks in order; a block is revealed from the left."""

    def __init__(
        self,
        texts: Sequence[int] = (),
        blocks: Sequence[Sequence[int]] = (),
        prompt: Sequence[int] = (0, 1),
        config: GenerationConfig = CONFIG,
        **options: object,
    ) -> None:
        options.setdefault("capacity", 1000)
        self.scheduler = Scheduler(prompt, LAYOUT, config, **options)  # type: ignore[arg-type]
        self.prompt = list(prompt)
        self.texts, self.blocks = list(texts), [list(b) for b in blocks]
        self.steps: list[Step] = []
        self.events: list[Event] = []

    def run(self, forwards: int = 10_000) -> Deal:
        while forwards and (step := self.scheduler.decide()) is not None:
            forwards -= 1
            self.steps.append(step)
            chosen: list[tuple[int, int]] = []
            if step.state is State.BLOCK:
                block = self.blocks[0]
                ids = self.scheduler.ids
                still_open = [p for p in range(step.block_start, step.stop) if ids[p] == MASK]
                chosen = [(p, block[p - step.block_start]) for p in still_open[: step.reveal]]
            elif step.yields_text:
                chosen = [(step.stop, self.texts.pop(0))]
            event = self.scheduler.account(step, chosen)
            if isinstance(event, SpeechEvent):
                self.blocks.pop(0)
            if event is not None:
                self.events.append(event)
        return self

    @property
    def answer(self) -> list[int]:
        return self.scheduler.ids[len(self.prompt) :]

    @property
    def plan(self) -> list[tuple[str, int, int]]:
        return [(s.state.value, s.start, s.stop) for s in self.steps]


def test_a_plain_turn() -> None:
    block = [CODE, CODE + 1, NEW, CODE]
    deal = Deal([2, QUAD, 1, END], [block]).run()
    assert deal.answer == [2, QUAD, CODE, CODE + 1, NEW, 1, END]
    assert deal.scheduler.done_reason == "end"
    assert deal.plan == [
        ("prefill", 0, 2),  # yields the first text token
        ("text", 2, 3),
        ("block", 3, 8),  # the begin token's row comes with the block
        ("block", 4, 8),
        ("commit", 4, 7),  # the finished span, cut at its end token, yields the next text token
        ("text", 7, 8),
    ]
    assert deal.scheduler.cached == 8
    assert [i for e in deal.events for i in e.ids] == deal.answer


def test_audio_id_by_the_text_loop_reopens_the_span() -> None:
    block = [CODE, NEW, CODE, CODE]
    deal = Deal([QUAD, CODE + 2, CODE + 3, 1, END], [block]).run()
    assert deal.answer == [QUAD, CODE, NEW, CODE + 2, CODE + 3, 1, END]
    assert deal.plan[-4:] == [
        ("commit", 3, 5),
        ("text", 3, 6),  # joined the span: all of it again
        ("text", 3, 7),
        ("text", 7, 8),  # a text id closed the run
    ]


def test_text_in_a_block_closes_what_is_before_it_once_the_block_is_final() -> None:
    blocks = [[CODE, 1, CODE, CODE], [CODE, NEW, CODE, CODE]]
    deal = Deal([QUAD, END], blocks).run()
    starts = [s.start for s in deal.steps if s.state is State.BLOCK]
    assert starts == [2, 3, 3, 5]  # the second block's forwards start after the text id
    assert deal.steps[-1].start == 5


def test_a_run_of_audio_ids_in_the_prompt_is_never_cut_by_a_chunk() -> None:
    prompt = [0, 1, 2, *[CODE] * 7, 0, 0, 0]
    deal = Deal([END], prompt=prompt, chunk_rows=4).run()
    assert deal.plan == [("prefill", 0, 3), ("prefill", 3, 10), ("prefill", 10, 13)]
    assert [s.yields_text for s in deal.steps] == [False, False, True]


def test_prompt_that_ends_in_audio_stays_open() -> None:
    deal = Deal([CODE, 1, END], prompt=[0, CODE, CODE]).run()
    assert deal.plan == [("prefill", 0, 3), ("text", 1, 4), ("text", 4, 5)]


def test_prompt_that_ends_with_a_begin_token_still_starts_in_text() -> None:
    deal = Deal([END], prompt=[0, QUAD]).run()
    assert deal.steps[0].state is State.PREFILL
    assert deal.answer == [END]


def test_without_cache_every_forward_begins_at_zero() -> None:
    deal = Deal([2, QUAD, 1, END], [[CODE, NEW, CODE, CODE]], keep_cache=False, chunk_rows=1).run()
    assert {start for _, start, _ in deal.plan} == {0}
    assert deal.scheduler.cached == 0


def test_both_end_tokens_cut_at_the_first() -> None:
    for block, left in (([CODE, LAST, NEW, CODE], 2), ([NEW, LAST, CODE, CODE], 1)):
        deal = Deal([QUAD, END], [block]).run()
        assert deal.answer == [QUAD, *block[:left], END]


def test_all_steps_of_a_block_run_even_if_an_end_is_revealed_early() -> None:
    deal = Deal([QUAD, END], [[NEW, CODE, CODE, CODE]]).run()
    assert [s.reveal for s in deal.steps if s.state is State.BLOCK] == [2, 2]


def test_a_mask_that_was_predicted_stays_and_is_never_filled_later() -> None:
    blocks = [[MASK, CODE, CODE, CODE], [NEW, CODE, CODE, CODE]]
    deal = Deal([QUAD, END], blocks).run()
    # The first position was revealed as a mask twice: the last one stays open for good.
    assert deal.answer.count(MASK) == 2
    assert deal.answer[-2:] == [NEW, END]


@pytest.mark.parametrize("wanted", [0, 1, 3])
def test_end_is_forbidden_after_a_span_for_some_text_tokens(wanted: int) -> None:
    config = GenerationConfig(
        max_gen_len=100,
        diffusion_steps=1,
        diffusion_gen_length=4,
        block_length=4,
        min_text_tokens_after_audio=wanted,
    )
    deal = Deal([QUAD, 1, 1, 1, 1, END], [[NEW, 0, 0, 0]], config=config).run()
    text = [s.forbid_end for s in deal.steps if s.yields_text]
    assert text == [False] + [True] * wanted + [False] * (5 - wanted)


def test_a_new_span_ends_the_ban() -> None:
    config = GenerationConfig(
        max_gen_len=9,
        diffusion_steps=1,
        diffusion_gen_length=4,
        block_length=4,
        min_text_tokens_after_audio=3,
    )
    deal = Deal([QUAD, 1, AUDIO], [[NEW, 0, 0, 0], [CODE] * 4, [CODE] * 4], config=config).run()
    assert deal.scheduler.done_reason == "length"
    assert [s.forbid_end for s in deal.steps if s.yields_text] == [False, True, True]


def test_length_is_tested_before_text_and_before_a_run_of_blocks_only() -> None:
    config = GenerationConfig(
        max_gen_len=4, diffusion_steps=2, diffusion_gen_length=8, block_length=4
    )
    deal = Deal([1, QUAD], [[CODE] * 4] * 9, config=config).run()
    assert len(deal.answer) == 2 + 8  # begun at 2 < 4, so the whole run of 8 was made
    assert deal.scheduler.done_reason == "length"
    assert Deal([1, 1, 1, QUAD], config=config).run().answer == [1, 1, 1, QUAD]
    nothing = GenerationConfig(max_gen_len=0)
    assert Deal([1], config=nothing).run().answer == []


def test_a_span_longer_than_a_run_simply_goes_on() -> None:
    blocks = [[CODE] * 4] * 4 + [[CODE, LAST, CODE, CODE]]
    deal = Deal([QUAD, END], blocks).run()
    assert deal.answer == [QUAD, *[CODE] * 17, LAST, END]
    assert {e.span for e in deal.events if isinstance(e, SpeechEvent)} == {0}


def test_capacity_ends_text_and_blocks() -> None:
    full = Deal([1] * 50, capacity=10).run()
    assert (full.scheduler.done_reason, len(full.scheduler.ids)) == ("full", 11)
    block = Deal([QUAD, END], [[CODE] * 4] * 9, capacity=10).run()
    assert (block.scheduler.done_reason, len(block.scheduler.ids)) == ("full", 7)


def test_stopping_inside_a_block_drops_its_masks() -> None:
    deal = Deal([QUAD, END], [[CODE] * 4, [CODE] * 4]).run(forwards=4)
    assert MASK in deal.scheduler.ids
    deal.scheduler.stop("cancelled")
    assert deal.scheduler.decide() is None
    assert deal.answer == [QUAD, *[CODE] * 4]
    assert deal.scheduler.cached == 3


def test_kept_rows_are_not_run_again() -> None:
    deal = Deal([END], prompt=[0, 1, 2, 0, 1], cached=3).run()
    assert deal.plan == [("prefill", 3, 5)]
