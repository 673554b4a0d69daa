"""One answer and what it took: ids, forwards, rows, time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

from ttt_ref.config import GenerationConfig
from ttt_runtime.backends.base import Floats, HeadBest, Runner, TopKFinder
from ttt_runtime.decode.engine import SpeechEngine


class CountingRunner:
    """A runner that counts its forwards and their rows, those of guidance's second row too."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.forwards = 0
        self.rows = 0

    @property
    def capacity(self) -> int:
        """See `base.Runner.capacity`."""
        return self._runner.capacity

    @property
    def runs_in(self) -> str:
        """See `base.Runner.runs_in`."""
        return self._runner.runs_in

    @property
    def note(self) -> str | None:
        """See `base.Runner.note`."""
        return self._runner.note

    @property
    def top_k_finder(self) -> TopKFinder | None:
        """See `base.Runner.top_k_finder`."""
        return self._runner.top_k_finder

    def forward(
        self,
        ids: Sequence[int],
        start: int,
        *,
        positions: Sequence[int] | None = None,
        scratch: bool = False,
    ) -> Floats:
        """See `base.Runner.forward`."""
        self.forwards += 1
        self.rows += len(ids)
        return self._runner.forward(ids, start, positions=positions, scratch=scratch)

    def text_best(self, hidden: Floats, *, forbid_end: bool) -> HeadBest:
        """See `base.Runner.text_best`."""
        return self._runner.text_best(hidden, forbid_end=forbid_end)

    def speech_best(self, hidden: Floats) -> HeadBest:
        """See `base.Runner.speech_best`."""
        return self._runner.speech_best(hidden)

    def text_logits(self, hidden: Floats, *, forbid_end: bool) -> Floats:
        """See `base.Runner.text_logits`."""
        return self._runner.text_logits(hidden, forbid_end=forbid_end)

    def speech_logits(self, hidden: Floats) -> Floats:
        """See `base.Runner.speech_logits`."""
        return self._runner.speech_logits(hidden)


@dataclass(frozen=True)
class Answer:
    """One generation: its ids, the forwards and rows that they took, and the time."""

    ids: tuple[int, ...]
    forwards: int
    rows: int
    seconds: float = 0.0


def answer(
    engine: SpeechEngine,
    counts: CountingRunner,
    prompt: Sequence[int],
    config: GenerationConfig,
) -> Answer:
    """Answer a prompt from an empty cache, seed 0; `counts` is the engine's runner."""
    engine.reset()
    forwards, rows = counts.forwards, counts.rows
    begin = perf_counter()
    ids = tuple(engine.generate_ids(prompt, config))
    seconds = perf_counter() - begin
    return Answer(ids, counts.forwards - forwards, counts.rows - rows, seconds)
