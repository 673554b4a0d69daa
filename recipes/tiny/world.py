"""Questions and answers of the small world, with the split into training and held-out texts.

A *fact* is what an answer states; most facts can be asked in several wordings. Held out from
training are one wording in eight of every fact that has other wordings (small talk excepted: what
"hello" means cannot be told from "good day"), and of arithmetic whole
ordered number pairs (for sums and products the swapped pair stays in training, for differences
the pair that shares the triple), so that a right answer there was computed, not remembered.
The split depends on nothing but the text: two runs on two machines agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from recipes.tiny import arithmetic, facts, out_of_domain
from recipes.tiny.facts import number_words


@dataclass(frozen=True)
class Exchange:
    """One question and its answer, as spoken words; `steps` are noted down before the answer."""

    kind: str
    question: str
    answer: str
    held_out: bool
    steps: arithmetic.Steps = ()

    @property
    def working(self) -> str:
        """The note before the answer; empty where nothing is computed."""
        return arithmetic.note(self.steps)

    def with_slip(self, rng: np.random.Generator) -> Exchange:
        """Return the exchange with another count, and the answer to which that leads."""
        steps = arithmetic.slip(self.steps, rng, on_clock=self.kind == "time")
        before, _, behind = self.answer.rpartition(number_words(self.steps[-1][1]))
        answer = f"{before}{number_words(steps[-1][1])}{behind}"
        return replace(self, answer=answer, steps=steps)


def text_share(text: str, salt: str = "") -> float:
    """Map ``text`` to a fixed number in [0, 1), the same on every machine."""
    digest = hashlib.sha256(f"{salt}|{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


ARITHMETIC_MAX = 12
_ARITHMETIC_WORDINGS = (
    "what is {e}", "how much is {e}", "calculate {e}", "tell me what {e} is", "{e}",
)  # fmt: skip


def _arithmetic_held_out(kind: str, a: int, b: int) -> bool:
    """One ordered pair in ten, never both orders of the same pair."""
    partner = (a, a - b) if kind == "minus" else (b, a)
    if partner == (a, b):
        return False
    low = min((a, b), partner)
    chosen = text_share(f"{kind}|{low[0]}|{low[1]}", "pair") < 0.2
    first = text_share(f"{kind}|{low[0]}|{low[1]}", "order") < 0.5
    return chosen and ((a, b) == low) == first


def _arithmetic() -> Iterator[Exchange]:
    n = ARITHMETIC_MAX
    triples = [("plus", a, b, a + b) for a in range(n + 1) for b in range(n + 1)]
    triples += [("minus", a, b, a - b) for a in range(n + 1) for b in range(a + 1)]
    triples += [("times", a, b, a * b) for a in range(1, 11) for b in range(1, 11)]
    for kind, a, b, result in triples:
        expression = f"{number_words(a)} {kind} {number_words(b)}"
        answer = f"{expression} is {number_words(result)}"
        steps = arithmetic.expression(kind, a, b)
        for wording in _ARITHMETIC_WORDINGS:
            held_out = _arithmetic_held_out(kind, a, b)
            yield Exchange(kind, wording.format(e=expression), answer, held_out, steps)


_SPOKEN_SLIP_SEED = 23


@cache
def spoken_slips() -> dict[str, Exchange]:
    """One wrongly counted sum for each spoken one of training, by the right answer.

    The teacher speaks them, since the right answers alone say few numbers behind few sums. They
    are no answers: one wrong sum each was learnt by heart, and said of its neighbours too.
    """
    rng = np.random.default_rng(_SPOKEN_SLIP_SEED)
    sums = {e.answer: e for e in _arithmetic() if not e.held_out}
    return {answer: exchange.with_slip(rng) for answer, exchange in sums.items()}


DRILL_STEPS = 15  # longest count that is practised


def drills() -> Iterator[Exchange]:
    """Arithmetic beyond what is spoken, for typed practice only.

    The spoken numbers are small. Around them stands the number line to a hundred: counts of up to
    :data:`DRILL_STEPS` (the same units return in every ten), a wider table of products, and longer
    ways round the clock.
    """
    yield from _sum_drills()
    yield from _product_drills()
    yield from _clock(steps=range(7, 12))


def _reckoned(
    kind: str, a: int, b: int, result: int, wordings: tuple[str, ...]
) -> Iterator[Exchange]:
    expression = f"{number_words(a)} {kind} {number_words(b)}"
    steps = arithmetic.expression(kind, a, b)
    for wording in wordings:
        answer = f"{expression} is {number_words(result)}"
        yield Exchange(kind, wording.format(e=expression), answer, False, steps)


def _sum_drills() -> Iterator[Exchange]:
    """All pairs up to twenty that are not spoken, and most of those up to a hundred."""
    for a in range(101):
        for b in range(DRILL_STEPS + 1):
            if max(a, b) <= ARITHMETIC_MAX:
                continue
            near = a <= 20
            if not near and text_share(f"{a}|{b}", "drill") >= 0.6:
                continue
            wordings = ("what is {e}", "{e}") if near else ("{e}",)
            if a + b <= 100:
                yield from _reckoned("plus", a, b, a + b, wordings)
            if a >= b:
                yield from _reckoned("minus", a, b, a - b, wordings)


def _product_drills() -> Iterator[Exchange]:
    """Pairs beyond the spoken table with products up to a hundred."""
    for a in range(1, DRILL_STEPS + 1):
        for b in range(1, DRILL_STEPS + 1):
            if max(a, b) > 10 and a * b <= 100:
                yield from _reckoned("times", a, b, a * b, ("what is {e}", "{e}"))


def _worded(
    kind: str, answer: str, questions: list[str], steps: arithmetic.Steps = ()
) -> Iterator[Exchange]:
    """Yield the wordings of one fact; at least one of them stays in training."""
    always = min(questions, key=lambda q: text_share(q, "keep"))
    for question in questions:
        held_out = question != always and text_share(question, "wording") < 0.12
        yield Exchange(kind, question, answer, held_out, steps)


def _opposites() -> Iterator[Exchange]:
    for pair in facts.OPPOSITES:
        for word, other in (pair, pair[::-1]):
            yield from _worded(
                "opposites",
                f"the opposite of {word} is {other}",
                [
                    f"what is the opposite of {word}",
                    f"tell me the opposite of {word}",
                    f"the opposite of {word}",
                    f"what is the contrary of {word}",
                    f"name the opposite of {word}",
                ],
            )


def _neighbours(kind: str, names: list[str], noun: str) -> Iterator[Exchange]:
    for i, name in enumerate(names):
        for word, step in (("after", 1), ("before", -1)):
            other = names[(i + step) % len(names)]
            yield from _worded(
                kind,
                f"{other} comes {word} {name}",
                [
                    f"what {noun} comes {word} {name}",
                    f"which {noun} is {word} {name}",
                    f"what comes {word} {name}",
                    f"tell me the {noun} {word} {name}",
                    f"name the {noun} {word} {name}",
                ],
            )


def _month_lengths() -> Iterator[Exchange]:
    for month, days in facts.MONTH_DAYS.items():
        yield from _worded(
            "months",
            f"{month} has {number_words(days)} days",
            [
                f"how many days are in {month}",
                f"how many days does {month} have",
                f"how long is {month}",
                f"tell me the number of days in {month}",
            ],
        )


def _capitals() -> Iterator[Exchange]:
    for country, city in facts.CAPITALS.items():
        yield from _worded(
            "capitals",
            f"the capital of {country} is {city}",
            [
                f"what is the capital of {country}",
                f"tell me the capital of {country}",
                f"the capital of {country}",
                f"which city is the capital of {country}",
                f"name the capital of {country}",
                f"do you know the capital of {country}",
            ],
        )


def _colours() -> Iterator[Exchange]:
    for thing, colour in facts.COLOURS.items():
        yield from _worded(
            "colours",
            f"{thing} is {colour}",
            [
                f"what color is {thing}",
                f"which color is {thing}",
                f"tell me the color of {thing}",
                f"what is the color of {thing}",
                f"which color does {thing} have",
            ],
        )
    for (a, b), colour in facts.MIXTURES.items():
        for x, y in ((a, b), (b, a)):
            yield from _worded(
                "colours",
                f"{x} and {y} make {colour}",
                [
                    f"what do {x} and {y} make",
                    f"what color do {x} and {y} make",
                    f"i mix {x} and {y}",
                    f"mix {x} and {y}",
                ],
            )


def _units() -> Iterator[Exchange]:
    for (part, whole), count in facts.UNITS.items():
        yield from _worded(
            "units",
            f"{whole} has {number_words(count)} {part}",
            [
                f"how many {part} are in {whole}",
                f"how many {part} does {whole} have",
                f"how many {part} has {whole}",
                f"tell me how many {part} {whole} has",
            ],
        )


def _clock(steps: range = range(1, 7)) -> Iterator[Exchange]:
    for hour in range(1, 13):
        for step in steps:
            for word, sign in (("after", 1), ("before", -1)):
                result = (hour + sign * step - 1) % 12 + 1
                hours = "one hour" if step == 1 else f"{number_words(step)} hours"
                yield from _worded(
                    "time",
                    f"it is {number_words(result)} o'clock",
                    [
                        f"what time is {hours} {word} {number_words(hour)} o'clock",
                        f"what time is it {hours} {word} {number_words(hour)}",
                    ],
                    arithmetic.clock(hour, step, sign),
                )


def _timers() -> Iterator[Exchange]:
    for amount in facts.TIMER_AMOUNTS:
        for unit in facts.TIMER_UNITS:
            if unit == "hour" and amount > 12:
                continue
            span = f"{number_words(amount)} {unit}{'' if amount == 1 else 's'}"
            yield from _worded(
                "timers",
                f"timer set for {span}",
                [
                    f"set a timer for {span}",
                    f"start a timer for {span}",
                    f"please set a timer for {span}",
                    f"wake me in {span}",
                    f"remind me in {span}",
                ],
            )


def _devices() -> Iterator[Exchange]:
    for device in facts.DEVICES:
        for state in ("on", "off"):
            yield from _worded(
                "devices",
                f"{device} is {state}",
                [
                    f"turn {state} {device}",
                    f"switch {state} {device}",
                    f"please turn {state} {device}",
                    f"turn {device} {state}",
                    f"switch {device} {state}",
                    f"can you turn {state} {device}",
                ],
            )


def _small_talk() -> Iterator[Exchange]:
    """None is held out: the wordings of a greeting share no words to recognise it by."""
    for answer, questions in facts.SMALL_TALK.items():
        for question in questions:
            yield Exchange("greetings", question, answer, False)


def _unknown() -> Iterator[Exchange]:
    for question, held_out in out_of_domain.questions():
        yield Exchange("unknown", question, facts.UNKNOWN_ANSWER, held_out)


@cache
def exchanges() -> tuple[Exchange, ...]:
    """All exchanges of the world in a fixed order; no question stands twice."""
    found: dict[str, Exchange] = {}
    sources = (
        _arithmetic(), _opposites(), _neighbours("days", facts.DAYS, "day"),
        _neighbours("months", facts.MONTHS, "month"), _month_lengths(), _capitals(), _colours(),
        _units(), _clock(), _timers(), _devices(), _small_talk(), _unknown(),
    )  # fmt: skip
    for source in sources:
        for exchange in source:
            found.setdefault(exchange.question, exchange)
    return tuple(found.values())


def kinds() -> tuple[str, ...]:
    """The kinds of question, in the order of :func:`exchanges`."""
    return tuple(dict.fromkeys(e.kind for e in exchanges()))
