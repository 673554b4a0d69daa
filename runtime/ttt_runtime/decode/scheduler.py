"""What to run next, in plain integers: no tensor, no clock, no randomness.

The engine repeats three lines: decide (here), run (runner and sampler), account (here again).

    prefill   rows of the prompt; its last forward already yields the first text token
    text      one row, one text token
    block     the open span's rows, some positions of its last block revealed
    commit    the rows of a finished span, yielding the next text token
    done

Rows of the cache below `cached` are final. They always end before the open run of audio ids,
whose tokens all see each other: the open run is computed again in every forward, but for what the
option `delayed_cache` keeps of it. With `keep_cache` False nothing is ever
kept: every forward computes the whole sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from ttt_ref.config import GenerationConfig, TokenLayout
from ttt_runtime.decode.approximations import EXACT, Approximations
from ttt_runtime.decode.events import DoneReason, Event, SpeechEvent, TextEvent

# (tokens of the next block, passes of the preset) -> passes to run, at least 1.
PlanPasses = Callable[[int, int], int]


class State(Enum):
    """What the next forward is for."""

    PREFILL = "prefill"
    TEXT = "text"
    BLOCK = "block"
    COMMIT = "commit"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Step:
    """One forward: run rows `start` .. `stop - 1`, then choose what `state` asks for.

    Attributes:
        state: prefill, text, block or commit.
        start: first row to run, also its cache row.
        stop: rows from here on do not exist for this forward.
        yields_text: choose a text id from the last row.
        forbid_end: `<|im_end|>` may not be chosen.
        block_start: first position of the block (block only).
        block_step: number of the denoising step within the block, from 0.
        reveal: positions of the block to reveal in this step.
        order: positions of the rows, where they are not start .. stop - 1 in this order: those of
            an open span may lie in the cache in any order, since all see each other.
    """

    state: State
    start: int
    stop: int
    yields_text: bool = False
    forbid_end: bool = False
    block_start: int = 0
    block_step: int = 0
    reveal: int = 0
    order: tuple[int, ...] = ()

    def rows_of(self, positions: Sequence[int]) -> list[int]:
        """Return which of the step's rows, counted from 0, stand at these positions."""
        if not self.order:
            return [position - self.start for position in positions]
        row = {position: number for number, position in enumerate(self.order)}
        return [row[position] for position in positions]


def reveal_counts(block_length: int, steps: int) -> list[int]:
    """Return how many positions each step reveals: the base, plus one for the first remainder.

    Steps that would reveal nothing are left out: they change no id.
    """
    base, remainder = divmod(block_length, steps)
    counts = [base + (1 if i < remainder else 0) for i in range(steps)]
    return [count for count in counts if count > 0]


def open_run_start(ids: Sequence[int], stop: int, audio_start: int) -> int:
    """Return where the run of audio ids that ends at `stop` begins (`stop` if none does)."""
    start = stop
    while start > 0 and ids[start - 1] >= audio_start:
        start -= 1
    return start


def chunk_stop(ids: Sequence[int], start: int, limit: int, audio_start: int) -> int:
    """Return the end of a prefill chunk of about `limit` rows that cuts no run of audio ids."""
    stop = start + limit
    if stop >= len(ids):
        return len(ids)
    if ids[stop] < audio_start:  # a text id follows: no run is cut here
        return stop
    before = open_run_start(ids, stop, audio_start)
    if before > start:
        return before
    while stop < len(ids) and ids[stop] >= audio_start:
        stop += 1
    return stop


class Scheduler:
    """State of one generation.

    Args:
        prompt_ids: the prompt.
        layout: which id means what.
        config: generation options.
        cached: leading rows that a kept cache already holds for this prompt.
        capacity: rows that the cache can hold.
        chunk_rows: rows of one prefill forward, about.
        keep_cache: False computes everything in every forward.
        options: approximations; those that shape spans are read here.
        plan_passes: chooses the passes of each block; None runs the preset's.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        layout: TokenLayout,
        config: GenerationConfig,
        *,
        cached: int = 0,
        capacity: int,
        chunk_rows: int = 512,
        keep_cache: bool = True,
        options: Approximations = EXACT,
        plan_passes: PlanPasses | None = None,
    ) -> None:
        self.ids = list(prompt_ids)
        self.cached = cached if keep_cache else 0
        self.done_reason: DoneReason | None = None
        self._prompt_length = len(self.ids)
        self._layout = layout
        self._audio_start = layout.audio_start
        self._begin_ids = frozenset(layout.begin_ids)
        self._end_ids = frozenset(layout.end_ids)
        self._config = config
        self._capacity = capacity
        self._chunk_rows = chunk_rows if keep_cache else capacity
        self._keep_cache = keep_cache
        self._state = State.PREFILL
        self._ban = 0  # text tokens still to come before <|im_end|> is allowed again
        self._span = -1  # number of the running span
        self._block_start = 0
        self._block_step = 0
        self._run_left = 0  # tokens that this run of diffusion_gen_length may still begin
        self._counts: list[int] = []
        self._options = options
        self._plan_passes = plan_passes
        self._span_start = 0
        # Positions of the open span whose rows are kept, in the order of the cache behind `cached`.
        self._delayed: list[int] = []
        self._end_slot = 0

    @property
    def generated(self) -> int:
        """Tokens made so far, masks of an open block included."""
        return len(self.ids) - self._prompt_length

    def decide(self) -> Step | None:
        """Return the next forward, or None when generation is over.

        Raises:
            ConfigError: a span begins and the block length or step count does not divide.
        """
        if self._state is State.BLOCK:
            if self._block_step == len(self._counts) and not self._begin_block():
                return None
            order = self._order()
            return Step(
                State.BLOCK,
                len(self.ids) - len(order) if order else self.cached,
                len(self.ids),
                forbid_end=True,
                block_start=self._block_start,
                block_step=self._block_step,
                reveal=self._counts[self._block_step],
                order=order,
            )
        if self._state is State.DONE:
            return None
        stop = len(self.ids)
        if self._state is State.PREFILL:
            stop = chunk_stop(self.ids, self.cached, self._chunk_rows, self._audio_start)
        yields_text = stop == len(self.ids)
        if yields_text and self.generated >= self._config.max_gen_len:
            self._finish("length")
            return None
        if stop > self._capacity:
            self._finish("full")
            return None
        return Step(self._state, self.cached, stop, yields_text, forbid_end=self._ban > 0)

    def _order(self) -> tuple[int, ...]:
        """Positions of a pass behind kept rows: first what this pass computes for the last time.

        Empty for a pass that keeps nothing of the span: rows see each other in any order only
        where no text id stands among them.
        """
        if not self._options.delayed_cache or not self._keep_cache:
            return ()
        if min(self.ids[self._span_start :]) < self._audio_start:
            self._delayed = []
            return ()
        kept, mask_id = set(self._delayed), self._layout.mask_id
        rest = [p for p in range(self.cached, len(self.ids)) if p not in kept]
        return tuple(sorted(rest, key=lambda position: self.ids[position] == mask_id))

    def account(self, step: Step, chosen: Sequence[tuple[int, int]]) -> Event | None:
        """Take in what a forward chose: (position, id) pairs. Return what became final."""
        if step.state is State.BLOCK:
            return self._account_block(step, chosen)
        if not step.yields_text:
            self._keep(step.stop)
            return None
        ((position, token),) = chosen
        assert position == len(self.ids), (position, len(self.ids))
        return self._account_text(step, token)

    def stop(self, reason: DoneReason) -> None:
        """End the generation now. Masks of an unfinished block are dropped."""
        if self._state is State.BLOCK and self._block_step < len(self._counts):
            del self.ids[self._block_start :]
        self._finish(reason)

    def forget_open_rows(self) -> None:
        """Take note that the cache lost every row of the open span; `cached` are there again."""
        self._delayed = []

    def _finish(self, reason: DoneReason) -> None:
        self._state = State.DONE
        self.done_reason = reason

    def _keep(self, rows: int) -> None:
        if self._keep_cache:
            self.cached = max(self.cached, rows)

    def _account_text(self, step: Step, token: int) -> Event:
        position = len(self.ids)
        # The rows just computed are final if the run of audio ids before them is closed, that is
        # when a text id follows; another audio id reopens it.
        if token < self._audio_start:
            self._keep(step.stop)
        else:
            self._keep(open_run_start(self.ids, step.stop, self._audio_start))
        self.ids.append(token)
        self._state = State.TEXT
        if token == self._layout.im_end_id:
            self._finish("end")
        elif token in self._begin_ids:
            self._ban = 0
            self._span += 1
            self._begin_span()
        elif self._ban > 0:
            self._ban -= 1
        return TextEvent((token,), position)

    def _begin_span(self) -> None:
        self._state = State.BLOCK
        self._run_left = 0
        self._counts, self._block_step = [], 0
        self._span_start = len(self.ids)
        self._delayed = []
        self._end_slot = int(self._options.end_slot)  # the first block's only

    def _begin_block(self) -> bool:
        """Append a block of masks; False if generation ends instead."""
        config = self._config
        if self._run_left <= 0:  # a new run of diffusion_gen_length tokens
            if self.generated >= config.max_gen_len:
                self._finish("length")
                return False
            self._run_left = config.diffusion_gen_length
        passes = config.steps_per_block()  # refuses lengths that do not divide
        length = min(config.block_length + self._end_slot, self._capacity - len(self.ids))
        if length < config.block_length:
            self._finish("full")
            return False
        if self._plan_passes is not None:
            passes = min(max(self._plan_passes(length, passes), 1), passes)
        self._counts = reveal_counts(length, passes)
        self._run_left -= length
        self._block_start = len(self.ids)
        self._block_step = 0
        self.ids.extend([self._layout.mask_id] * length)
        self._end_slot = 0
        return True

    def _account_block(self, step: Step, chosen: Sequence[tuple[int, int]]) -> Event | None:
        final = [p for p in step.order if self.ids[p] != self._layout.mask_id]
        for position, token in chosen:
            self.ids[position] = token
        # Everything up to the begin token is text or closed, hence final; the span is not.
        self._keep(open_run_start(self.ids, self._block_start, self._audio_start))
        self._delayed += [p for p in final if p >= self.cached]
        self._block_step += 1
        if self._block_step < len(self._counts) and not self._is_settled():
            return None
        self._block_step = len(self._counts)
        start = self._block_start
        for position in range(start, len(self.ids)):
            if self.ids[position] in self._end_ids:
                del self.ids[position + 1 :]
                self._state = State.COMMIT
                self._ban = max(self._ban, self._config.min_text_tokens_after_audio)
                return SpeechEvent(tuple(self.ids[start:]), start, self._span, ends_span=True)
        return SpeechEvent(tuple(self.ids[start:]), start, self._span, ends_span=False)

    def _is_settled(self) -> bool:
        """Tell whether the option `threshold` has revealed the open block before its last pass."""
        if self._options.threshold is None:
            return False
        return self._layout.mask_id not in self.ids[self._block_start :]
