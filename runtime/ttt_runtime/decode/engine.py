"""SpeechEngine: prompt ids in, events with token ids out.

The loop is three lines: the scheduler decides, the runner runs, the scheduler accounts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from os import PathLike
from time import perf_counter_ns

import numpy as np

from ttt_ref.arguments import is_whole, seed_of, shown, token_ids, whole
from ttt_ref.config import GenerationConfig, TokenLayout
from ttt_ref.errors import ConfigError
from ttt_runtime.backends.base import Floats, Runner
from ttt_runtime.bundle.folder import Bundle, Verify
from ttt_runtime.decode.approximations import EXACT, Approximations, Exactness, exactness_named
from ttt_runtime.decode.events import AnyEvent, DoneEvent, TextEvent
from ttt_runtime.decode.guard import GenerationGuard
from ttt_runtime.decode.sampler import Sampler
from ttt_runtime.decode.scheduler import (
    PlanPasses,
    Scheduler,
    State,
    Step,
    chunk_stop,
    open_run_start,
)

# Called after every forward with the step and its begin and end (perf_counter_ns).
Observer = Callable[[Step, int, int], None]


def both(first: Observer, second: Observer) -> Observer:
    """Return an observer that calls two."""

    def observe(step: Step, begin_ns: int, end_ns: int) -> None:
        first(step, begin_ns, end_ns)
        second(step, begin_ns, end_ns)

    return observe


class SpeechEngine:
    """A model ready to answer. One generation at a time: see `guard.GenerationGuard`.

    The KV cache outlives a generation: a prompt that begins with what was said before (the next
    turn of a conversation) is computed only from where it differs.

    Args:
        runner: runs the model.
        layout: which id means what.
        exactness: `reference` computes the whole sequence in every forward; `exact` keeps the
            cache and gives the same ids; `fast` allows the approximations in `fast`.
        fast: which approximations `fast` uses (default: those of `Approximations()`).
        chunk_rows: rows of one prefill forward, about, 1 or more; bounds memory and cancellation
            time.
        interleaved: generations may take turns, an event at a time and in one thread. One that
            goes on computes again what of its rows the others overwrote; its ids stay the same.

    Raises:
        ConfigError: chunk_rows, exactness or approximations that cannot be.
    """

    def __init__(
        self,
        runner: Runner,
        layout: TokenLayout,
        *,
        exactness: Exactness = "exact",
        fast: Approximations | None = None,
        chunk_rows: int = 512,
        bundle: Bundle | None = None,
        interleaved: bool = False,
    ) -> None:
        self.choose(exactness, fast)
        self.runner = runner
        self.layout = layout
        self.bundle = bundle
        self.interleaved = interleaved
        self.tells_probability = False  # with each greedy text token; costs a sum over the logits
        self._chunk_rows = whole("chunk_rows", chunk_rows, 1)
        self._kept: list[int] = []  # ids whose K/V the cache holds, all final
        self._guard = GenerationGuard()
        self._unconditional_row: Floats | None = None

    @classmethod
    def from_bundle(
        cls,
        path: str | PathLike[str] | Bundle,
        device: str = "cpu",
        exactness: Exactness = "exact",
        *,
        fast: Approximations | None = None,
        threads: int | None = None,
        capacity: int | None = None,
        verify: Verify = "auto",
    ) -> SpeechEngine:
        """Load a bundle.

        Args:
            path: the bundle's folder, or an opened bundle.
            device: cpu, cuda, tensorrt or rtx, see `device.Device`. A device that is missing
                raises DeviceError; there is no silent fall-back.
            exactness: see the class.
            fast: see the class.
            threads: CPU threads; None takes those that this process may use.
            capacity: most tokens of a conversation; None takes the model's limit, up to 4096.
            verify: see `Bundle.open`.
        """
        from ttt_runtime.backends.load import load_runner  # with it comes the engine's backend

        bundle = path if isinstance(path, Bundle) else Bundle.open(path, verify)
        runner = load_runner(bundle, device, threads=threads, capacity=capacity)
        layout = bundle.config.layout
        return cls(runner, layout, exactness=exactness, fast=fast, bundle=bundle)

    def choose(self, exactness: Exactness, fast: Approximations | None = None) -> None:
        """Choose the exactness of the next generations; see the class.

        What is kept in the cache is right for every exactness but `reference`, which keeps none.

        Raises:
            ConfigError: an unknown exactness, or approximations without exactness `fast`.
        """
        exactness_named(exactness)
        if fast is not None and exactness != "fast":
            raise ConfigError(f"fast options were given, but exactness is {exactness!r}")
        self.exactness = exactness
        self._options = (fast or Approximations()) if exactness == "fast" else EXACT
        self._keep_cache = exactness != "reference"

    def generate(
        self,
        prompt_ids: Sequence[int],
        config: GenerationConfig,
        *,
        seed: int = 0,
        cancel: threading.Event | None = None,
        observer: Observer | None = None,
        plan_passes: PlanPasses | None = None,
    ) -> Iterator[AnyEvent]:
        """Yield text and speech events as their ids become final, then one DoneEvent.

        Args:
            prompt_ids: the whole conversation so far, ending where the answer begins.
            config: generation options.
            seed: seed of all draws, 0 .. 2^64 - 1; greedy generation draws nothing.
            cancel: when set, generation ends before the next forward with reason `cancelled`;
                what is committed to the cache stays usable.
            observer: called after every forward, for measurement.
            plan_passes: chooses each block's passes (option `deadline` of `fast`, see
                `deadline.DeadlineSchedule.plan`).

        Raises:
            ConfigError: planned passes without their option, a seed that cannot be, an empty
                prompt, an id that is no whole number or outside the vocabulary, a prompt longer
                than the cache, or (when the first span begins) lengths that do not divide.
        """
        prompt, seed = self._checked(prompt_ids), seed_of(seed)
        if plan_passes is not None and not self._options.deadline:
            raise ConfigError("a deadline schedule needs exactness fast with its option deadline")
        return self._run(prompt, config, seed, cancel, observer, plan_passes)

    def generate_ids(
        self, prompt_ids: Sequence[int], config: GenerationConfig, *, seed: int = 0
    ) -> list[int]:
        """Return only the new ids."""
        ids: list[int] = []
        for event in self.generate(prompt_ids, config, seed=seed):
            ids.extend(event.ids)
        return ids

    @property
    def wants_deadline(self) -> bool:
        """True if the options ask for a deadline schedule."""
        return self._options.deadline

    @property
    def kept_ids(self) -> tuple[int, ...]:
        """Ids whose K/V the cache holds: a next prompt that begins with them starts there."""
        return tuple(self._kept)

    def truncate(self, tokens: int) -> None:
        """Keep at most the first `tokens` ids in the cache (cut back to a closed segment). O(1).

        Raises:
            ConfigError: no whole number.
        """
        if not is_whole(tokens):
            raise ConfigError(f"tokens is {shown(tokens)}; expected a whole number")
        change = self._guard.begin()
        try:
            if tokens < len(self._kept):
                tokens = max(tokens, 0)
                if self.layout.is_audio(self._kept[tokens]):
                    tokens = open_run_start(self._kept, tokens, self.layout.audio_start)
                del self._kept[tokens:]
        finally:
            self._guard.end(change)

    def reset(self) -> None:
        """Forget the conversation."""
        self.truncate(0)

    def sampler(self, config: GenerationConfig, seed: int) -> Sampler:
        """Return the strategies of one generation. A subclass may choose otherwise."""
        return Sampler(
            self.runner,
            self.layout,
            config,
            self._options,
            np.random.default_rng(seed),
            self._unconditional if self._keep_cache else None,
        )

    def _checked(self, prompt_ids: Sequence[int]) -> list[int]:
        prompt = token_ids("the prompt", prompt_ids, self.layout.vocab_size)
        if not prompt:
            raise ConfigError("the prompt is empty; give at least one token id")
        if len(prompt) > self.runner.capacity:
            raise ConfigError(
                f"the prompt has {len(prompt)} tokens, the cache holds {self.runner.capacity}; "
                "shorten the conversation"
            )
        return prompt

    def _reusable(self, prompt: list[int]) -> int:
        """Return how many leading rows of the kept cache serve this prompt exactly."""
        if not self._keep_cache:
            return 0
        # The last row is always computed: its hidden row gives the first token.
        limit = min(len(self._kept), len(prompt) - 1)
        same = 0
        while same < limit and self._kept[same] == prompt[same]:
            same += 1
        # A kept run of audio ids that goes on, there or here, beyond this point is of no use.
        if any(
            self.layout.is_audio(i) for ids in (prompt, self._kept) for i in ids[same : same + 1]
        ):
            same = open_run_start(prompt, same, self.layout.audio_start)
        return same

    def _unconditional(self) -> Floats:
        """Return the hidden row [hidden] of a sequence of masks only (one per checkpoint)."""
        if self._unconditional_row is None:
            row = self.runner.forward([self.layout.mask_id], 0, scratch=True)[0]
            self._unconditional_row = row.copy()
        return self._unconditional_row

    def _restore(self, scheduler: Scheduler) -> None:
        """Compute a generation's rows again, as far as others overwrote them."""
        ids = scheduler.ids[: scheduler.cached]
        start = self._reusable(scheduler.ids[: scheduler.cached + 1])
        del self._kept[start:]
        while start < len(ids):
            stop = chunk_stop(ids, start, self._chunk_rows, self.layout.audio_start)
            self.runner.forward(ids[start:stop], start)
            start = stop
        self._kept[:] = ids

    def _run(
        self,
        prompt: list[int],
        config: GenerationConfig,
        seed: int,
        cancel: threading.Event | None,
        observer: Observer | None,
        plan_passes: PlanPasses | None,
    ) -> Iterator[AnyEvent]:
        runner = self.runner
        forwards = 0
        scheduler: Scheduler | None = None
        number = self._guard.begin()
        try:
            cached = self._reusable(prompt)
            scheduler = Scheduler(
                prompt,
                self.layout,
                config,
                cached=cached,
                capacity=runner.capacity,
                chunk_rows=self._chunk_rows,
                keep_cache=self._keep_cache,
                options=self._options,
                plan_passes=plan_passes,
            )
            sampler = self.sampler(config, seed)
            sampler.tells_probability = self.tells_probability
            ids = scheduler.ids
            del self._kept[cached:]
            while (step := scheduler.decide()) is not None:
                if cancel is not None and cancel.is_set():
                    scheduler.stop("cancelled")
                    break
                if not self._guard.is_newest(number):  # only where generations take turns
                    number = self._guard.begin()
                    self._restore(scheduler)
                begin_ns = perf_counter_ns()
                if step.order:
                    row_ids = [ids[position] for position in step.order]
                    hidden = runner.forward(row_ids, step.start, positions=step.order)
                else:
                    hidden = runner.forward(ids[step.start : step.stop], step.start)
                if step.state is State.BLOCK:
                    chosen = sampler.block(step, ids, hidden)
                elif step.yields_text:
                    chosen = sampler.text(step, hidden)
                else:
                    chosen = []
                event = scheduler.account(step, chosen)
                forwards += 1
                end_ns = perf_counter_ns()
                if observer is not None:
                    observer(step, begin_ns, end_ns)
                if event is not None:
                    if isinstance(event, TextEvent) and self.tells_probability:
                        event = replace(event, probability=sampler.probability)
                    if self.interleaved:
                        self._kept[:] = ids[: scheduler.cached]
                    yield event
                    if not self.interleaved or self._guard.is_newest(number):
                        self._guard.go_on(number)
                    else:
                        scheduler.forget_open_rows()
            assert scheduler.done_reason is not None
            done = DoneEvent(
                scheduler.done_reason, scheduler.generated, len(prompt), cached, forwards
            )
        finally:
            if scheduler is not None and self._guard.is_newest(number):
                self._kept[:] = scheduler.ids[: scheduler.cached]
            self._guard.end(number)
        yield done
