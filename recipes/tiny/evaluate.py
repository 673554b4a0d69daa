"""Measure a bundle on held-out speech: ``python -m recipes.tiny.evaluate BUNDLE DATA``.

Hears every test recording through the runtime, clean and at 10 dB of white noise, and reports with
95 % intervals: answers exactly right, word error rate of the model's own transcription, word error
rate of the spoken answer as whisper-base hears it, and how often a question from outside the world
is met with "I don't know that". The table goes to stdout, everything else into ``--report``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import typer
from tqdm import tqdm

from recipes.tiny import facts, world
from recipes.tiny.asr_judge import AsrJudge, check_installed, edits, normalise
from recipes.tiny.augment import add_noise
from recipes.tiny.corpus import Corpus
from ttt_ref.errors import DataError, exit_on_error
from ttt_runtime.decode.approximations import Exactness, parse_approximations
from ttt_runtime.dialogue.assistant import Assistant, AudioPart, Reply

NOISE_DB = 10.0


@dataclass(frozen=True)
class Turn:
    """One question put to the bundle."""

    id: str
    voice: str
    heard_in_training: bool
    noisy: bool
    kind: str
    question: str
    wanted: str
    transcript: str
    answer: str
    spoken_edits: int | None
    spoken_words: int | None

    @property
    def right(self) -> bool:
        """Whether the answer's text is exactly the wanted one."""
        return self.answer == self.wanted

    @property
    def outside(self) -> bool:
        """Whether the question is from outside the world."""
        return self.kind == "unknown"


def _put(
    assistant: Assistant, audio: npt.NDArray[np.float32]
) -> tuple[Reply, npt.NDArray[np.float32]]:
    pieces: list[npt.NDArray[np.float32]] = []
    reply: Reply | None = None
    for part in assistant.answer(audio):
        if isinstance(part, AudioPart):
            pieces.append(part.audio)
        elif isinstance(part, Reply):
            reply = part
    assert reply is not None
    return reply, np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def open_corpus(data: Path, limit: int | None) -> Corpus:
    """Open the recordings to put: all of ``data``, or about ``limit`` of them.

    Raises:
        DataError: no corpus, an empty one, or one with questions that the world does not have.
    """
    corpus = Corpus(data)
    known = {e.question for e in world.exchanges()}
    strange = [u for u in corpus.utterances if u.text not in known]
    if not corpus.utterances:
        raise DataError(f"{data} holds no recording; give the part `test` of the recipe's corpus")
    if strange:
        raise DataError(
            f"{len(strange)} of the {len(corpus)} texts of {data} are no questions of this "
            f"world, such as {strange[0].text!r}; give the part `test` as this version's "
            "synthesize writes it"
        )
    if limit is not None and len(corpus) > limit:
        step = len(corpus) / limit
        kept = {corpus.utterances[int(k * step)].id for k in range(limit)}
        corpus = Corpus(data, lambda u: u.id in kept)
    return corpus


def run(
    assistant: Assistant, corpus: Corpus, noisy: bool, judge: AsrJudge | None, seed: int
) -> list[Turn]:
    """Put every recording of ``corpus`` to the assistant; see :func:`open_corpus`."""
    exchanges = {e.question: e for e in world.exchanges()}
    turns = []
    for i, utterance in enumerate(tqdm(corpus.utterances, desc="noisy" if noisy else "clean")):
        audio = corpus.audio(i)
        if noisy:
            rng = np.random.default_rng((seed, i))
            white = rng.standard_normal(len(audio)).astype(np.float32)
            audio = add_noise(audio, white, NOISE_DB)
        reply, spoken = _put(assistant, audio)
        errors = words = None
        if judge is not None:
            reference = normalise(reply.text)
            errors, words = edits(reference, judge.hear(spoken)), len(reference)
        exchange = exchanges[utterance.text]
        turns.append(
            Turn(
                utterance.id, f"{utterance.engine}/{utterance.voice}",
                utterance.split == "valid", noisy, exchange.kind, utterance.text, exchange.answer,
                reply.heard, reply.text, errors, words,
            )
        )  # fmt: skip
    return turns


def wilson(right: int, total: int) -> tuple[float, float, float]:
    """Share and its 95 % Wilson interval, in per cent."""
    if total == 0:
        return float("nan"), float("nan"), float("nan")
    z, share = 1.96, right / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * np.sqrt(share * (1 - share) / total + z * z / (4 * total**2))
    return 100 * share, 100 * (centre - half), 100 * (centre + half)


def word_errors(pairs: Sequence[tuple[int, int]]) -> tuple[float, float, float]:
    """Word error rate of ``(edits, words)`` and its 95 % bootstrap interval, in per cent."""
    if not pairs:
        return float("nan"), float("nan"), float("nan")
    table = np.array(pairs, dtype=float)
    rng = np.random.default_rng(0)
    draws = table[rng.integers(0, len(table), (1000, len(table)))].sum(axis=1)
    rates = 100 * draws[:, 0] / np.maximum(draws[:, 1], 1)
    low, high = np.percentile(rates, [2.5, 97.5])
    return 100 * table[:, 0].sum() / max(table[:, 1].sum(), 1), float(low), float(high)


def _cell(values: tuple[float, float, float]) -> str:
    share, low, high = values
    return "-" if np.isnan(share) else f"{share:.1f} % ({low:.1f}-{high:.1f})"


def summarise(turns: list[Turn]) -> list[tuple[str, str, str]]:
    """Rows of the table: measure, voices heard in training, voices never heard."""

    def both(measure: str, cell: object) -> tuple[str, str, str]:
        assert callable(cell)
        return (
            measure,
            cell([t for t in turns if t.heard_in_training]),
            cell([t for t in turns if not t.heard_in_training]),
        )

    def right(noisy: bool) -> object:
        def cell(side: list[Turn]) -> str:
            inside = [t for t in side if t.noisy == noisy and not t.outside]
            return _cell(wilson(sum(t.right for t in inside), len(inside)))

        return cell

    def transcription(side: list[Turn]) -> str:
        inside = [t for t in side if not t.noisy and not t.outside]
        pairs = [
            (edits(t.question.split(), t.transcript.split()), len(t.question.split()))
            for t in inside
        ]
        return _cell(word_errors(pairs))

    def spoken(side: list[Turn]) -> str:
        pairs = [
            (t.spoken_edits, t.spoken_words)
            for t in side
            if t.spoken_edits is not None and t.spoken_words is not None
        ]
        return _cell(word_errors(pairs))

    def refused(side: list[Turn]) -> str:
        outside = [t for t in side if not t.noisy and t.outside]
        return _cell(wilson(sum(t.answer == facts.UNKNOWN_ANSWER for t in outside), len(outside)))

    return [
        both("answer text exactly right", right(False)),
        both("the same at 10 dB noise", right(True)),
        both("word error rate of its own transcription", transcription),
        both("spoken answer as whisper-base hears it, WER", spoken),
        both('outside questions met with "I don\'t know that"', refused),
    ]


def main(
    bundle: Annotated[Path, typer.Argument(help="bundle to measure")],
    data: Annotated[Path, typer.Argument(help="corpus part `test`")],
    report: Annotated[Path, typer.Option(help="JSON with every turn")] = Path("evaluation.json"),
    preset: Annotated[str | None, typer.Option(help="generation preset")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="only every n-th, about this many")
    ] = None,
    fast: Annotated[
        list[str] | None,
        typer.Option(help="allow this approximation (NAME[=VALUE]); repeatable"),
    ] = None,
    noisy: Annotated[bool, typer.Option(help="ask at 10 dB too")] = True,
    listen: Annotated[bool, typer.Option(help="let whisper-base hear the spoken answers")] = True,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads")] = 2,
    seed: Annotated[int, typer.Option(min=0, help="seed of the noise")] = 0,
    check: Annotated[
        bool, typer.Option("--check", help="only look whether the recordings can be put")
    ] = False,
) -> None:
    """Hear the test recordings and print the table of measures."""
    with exit_on_error():
        report.absolute().parent.stat()  # reported now rather than after the whole measurement
        corpus = open_corpus(data, limit)
        if check:
            if listen:
                check_installed()
            return
        exactness: Exactness = "fast" if fast else "exact"
        options = parse_approximations(fast or [], exactness)
        assistant = Assistant.from_bundle(
            bundle, exactness=exactness, preset=preset, fast=options, threads=threads
        )
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ttt-edge"
        judge = AsrJudge(cache, threads) if listen else None
        turns = run(assistant, corpus, False, judge, seed)
        if noisy:
            turns += run(assistant, corpus, True, None, seed)
        rows = summarise(turns)
        report.write_text(
            json.dumps({"rows": rows, "turns": [asdict(t) for t in turns]}, indent=1),
            encoding="utf-8",
        )
        first = f"measure ({len(corpus)} recordings)"
        print(f"| {first} | voices heard in training | voices never heard |")
        print("| --- | --- | --- |")
        for row in rows:
            print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    typer.run(main)
