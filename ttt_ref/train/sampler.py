"""The order of the data: which examples form which batch, reproducible from three numbers.

Examples are drawn file by file in proportion to the weights; each file runs through its own
shuffled epochs. A pool of drawn examples is cut into batches of similar length under a budget of
tokens, and the batches of a pool are shuffled. Everything follows from the seed and from the
position (pool number, cursors, batch within the pool), which a checkpoint stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttt_ref.config import TokenLayout
from ttt_ref.errors import CheckpointError
from ttt_ref.train.config import AugmentSection, BatchSection, ObjectiveSection
from ttt_ref.train.store import Example, Store
from ttt_ref.train.transform import Disturbance, cut_last_spans, overrun_last_span


@dataclass(frozen=True)
class Position:
    """Where in the endless stream of batches a run stands."""

    pool: int
    cursors: tuple[int, ...]
    batch: int

    def to_dict(self) -> dict[str, object]:
        """Plain form for the checkpoint."""
        return {"pool": self.pool, "cursors": list(self.cursors), "batch": self.batch}


class Sampler:
    """Endless, seeded, resumable stream of batches (lists of examples)."""

    def __init__(
        self,
        stores: Sequence[Store],
        weights: Sequence[float],
        seed: int,
        batch: BatchSection,
        objective: ObjectiveSection,
        layout: TokenLayout,
        augment: AugmentSection | None = None,
    ) -> None:
        self.stores = list(stores)
        self.seed = seed
        self.batch = batch
        self.objective = objective
        self.layout = layout
        self.disturb = Disturbance(augment, layout) if augment and augment.active else None
        total = float(sum(weights))
        self.shares = np.asarray([w / total for w in weights])
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}
        self.position = Position(0, (0,) * len(self.stores), 0)
        self._pool: list[list[Example]] = []
        self._cursors_after = self.position.cursors
        self._load_pool()

    def seek(self, position: Position) -> None:
        """Continue at a position taken from `position` earlier; CheckpointError for another."""
        assert len(position.cursors) == len(self.stores)
        self.position = position
        self._load_pool()
        if position.batch > len(self._pool):
            raise CheckpointError(
                f"the checkpoint stands at batch {position.batch} of a pool of {len(self._pool)}; "
                "resume with the data and the configuration that it was written with"
            )

    def next_batch(self) -> list[Example]:
        """Return the next batch: examples whose padded size fits `tokens_per_batch`."""
        here = self.position
        if here.batch == len(self._pool):
            here = Position(here.pool + 1, self._cursors_after, 0)
            self.position = here
            self._load_pool()
        batch = self._pool[here.batch]
        self.position = Position(here.pool, here.cursors, here.batch + 1)
        return batch

    def _order(self, number: int, epoch: int) -> NDArray[np.int64]:
        key = (number, epoch)
        if key not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k[0] != number}
            rng = np.random.default_rng([self.seed, 1, number, epoch])
            self._orders[key] = rng.permutation(len(self.stores[number]))
        return self._orders[key]

    def _load_pool(self) -> None:
        """Draw the examples of the current pool and cut them into batches."""
        rng = np.random.default_rng([self.seed, 0, self.position.pool])
        cursors = list(self.position.cursors)
        chosen = rng.choice(len(self.stores), size=self.batch.pool_examples, p=self.shares)
        examples = []
        for number in chosen.tolist():
            store = self.stores[number]
            epoch, offset = divmod(cursors[number], len(store))
            cursors[number] += 1
            index = int(self._order(number, epoch)[offset])
            example = store[index]
            if self.objective.span_truncation_prob > 0:
                # The released loader keeps an example as it was first cut: one draw for all epochs.
                cached = self.objective.truncation == "released"
                draw = np.random.default_rng([self.seed, 2, number, index]) if cached else rng
                probability = self.objective.span_truncation_prob
                example = cut_last_spans(example, probability, draw, self.layout)
            if self.objective.span_overrun_prob > 0:
                example = overrun_last_span(
                    example,
                    self.objective.span_overrun_prob,
                    self.objective.span_overrun_block,
                    rng,
                    self.layout,
                )
            if self.disturb is not None:
                example = self.disturb(example, rng)
            examples.append(_cut(example, self.batch.max_length))
        self._cursors_after = tuple(cursors)
        self._pool = group_by_length(examples, self.batch.tokens_per_batch, rng)


def _cut(example: Example, max_length: int) -> Example:
    if len(example.ids) <= max_length:
        return example
    return Example(example.ids[:max_length], example.trained[:max_length], example.prompt_length)


def group_by_length(
    examples: Sequence[Example], tokens_per_batch: int, rng: np.random.Generator | None
) -> list[list[Example]]:
    """Cut examples into batches of similar length with rows x longest <= `tokens_per_batch`.

    With a generator, equal lengths are mixed and the batches shuffled; without one the order is
    by length.
    """
    lengths = np.asarray([len(example.ids) for example in examples])
    ties = rng.random(len(examples)) if rng is not None else np.arange(len(examples))
    order = np.lexsort((ties, lengths))[::-1]
    batches: list[list[Example]] = []
    rows = 0
    for index in order.tolist():
        if not batches or len(batches[-1]) >= rows:
            batches.append([])
            rows = max(1, tokens_per_batch // max(1, len(examples[index].ids)))
        batches[-1].append(examples[index])
    if rng is not None:
        batches = [batches[i] for i in rng.permutation(len(batches)).tolist()]
    return batches
