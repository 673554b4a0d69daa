"""Speak the texts of the world: ``python -m recipes.tiny.synthesize PART OUT``.

Writes a *corpus*: ``audio.i16`` (int16 mono at 16 kHz, all utterances one after the other) and
``manifest.jsonl`` (a line an utterance). A part that was cut off goes on where it stopped: what
stands in the manifest is not spoken again. Every draw is seeded by the utterance's own number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from tqdm import tqdm

from recipes.tiny import out_of_domain, voices, world
from recipes.tiny.phones import ctc_phones
from recipes.tiny.voices import Voice
from recipes.tiny.workers import worker_pool
from ttt_ref.errors import exit_on_error


@dataclass(frozen=True)
class Job:
    """One utterance to speak."""

    id: str
    text: str
    voice: Voice
    split: str
    kind: str


def _teacher_jobs() -> Iterator[Job]:
    """All answers, then training questions, in the assistant's own voice (always the same)."""
    voice = Voice(*voices.TEACHER)
    exchanges = world.exchanges()
    answers = list(dict.fromkeys(e.answer for e in exchanges))
    order = np.random.default_rng(1).permutation(len(answers))
    for i in order:
        yield Job(f"answer-{i:05d}", answers[i], voice, "train", "answer")
    rng = np.random.default_rng(2)
    questions = [e.question for e in exchanges if not e.held_out and e.kind != "unknown"]
    for i in rng.permutation(len(questions))[:600]:
        yield Job(f"speak-{i:05d}", questions[i], voice, "train", "speak")


def _slip_jobs() -> Iterator[Job]:
    """Wrong sums in the assistant's voice: more sentences for the decoder and to read aloud."""
    voice = Voice(*voices.TEACHER)
    for i, exchange in enumerate(world.spoken_slips().values()):
        yield Job(f"slip-{i:05d}", exchange.answer, voice, "train", "answer")


def balanced_questions(rng: np.random.Generator, held_out: bool) -> Iterator[world.Exchange]:
    """Endless questions, every kind as likely as its square-rooted size, none twice in a round.

    A kind that holds nothing out is asked with its training texts.
    """
    pools = {}
    for kind in world.kinds():
        of_kind = [e for e in world.exchanges() if e.kind == kind]
        pools[kind] = [e for e in of_kind if e.held_out == held_out] or of_kind
    weights = np.sqrt([len(pool) for pool in pools.values()])
    queues: dict[str, list[int]] = {kind: [] for kind in pools}
    while True:
        kind = str(rng.choice(list(pools), p=weights / weights.sum()))
        if not queues[kind]:
            queues[kind] = list(rng.permutation(len(pools[kind])))
        yield pools[kind][queues[kind].pop()]


def _question_jobs(engines: dict[str, float], count: int, seed: int, name: str) -> Iterator[Job]:
    rng = np.random.default_rng(seed)
    source = balanced_questions(rng, held_out=False)
    shares = np.array(list(engines.values()))
    for i in range(count):
        engine = str(rng.choice(list(engines), p=shares / shares.sum()))
        yield Job(
            f"{name}-{i:05d}",
            next(source).question,
            voices.random_voice(engine, rng),
            "train",
            "question",
        )


def _refused_jobs(
    name: str, pool: list[str], engines: dict[str, float], count: int, seed: int
) -> Iterator[Job]:
    """More questions from outside the world than a balanced draw has: refusals need variety."""
    rng = np.random.default_rng(seed)
    shares = np.array(list(engines.values()))
    for i, k in enumerate(rng.permutation(np.resize(np.arange(len(pool)), count))):
        engine = str(rng.choice(list(engines), p=shares / shares.sum()))
        voice = voices.random_voice(engine, rng)
        yield Job(f"{name}-{i:05d}", pool[k], voice, "train", "question")


def _outside_jobs(engines: dict[str, float], count: int) -> Iterator[Job]:
    pool = [e.question for e in world.exchanges() if e.kind == "unknown" and not e.held_out]
    return _refused_jobs("outside", pool, engines, count, 6)


def _near_jobs(
    name: str, questions: Iterator[str], engines: dict[str, float], count: int, seed: int
) -> Iterator[Job]:
    """Known wordings about unknown things, which are refused worst."""
    known = {e.question for e in world.exchanges() if e.kind != "unknown"}
    pool = [q for q in questions if q not in known]
    return _refused_jobs(name, pool, engines, count, seed)


def _shuffle_jobs(
    name: str, engines: dict[str, float], count: int, seed: int, words_each: tuple[int, int]
) -> Iterator[Job]:
    """Domain words in random order: they keep the tokenizer from learning whole sentences.

    No shuffle is a held-out question, however few words it has.
    """
    rng = np.random.default_rng(seed)
    words = sorted({w for e in world.exchanges() for w in f"{e.question} {e.answer}".split()})
    kept_back = {e.question for e in world.exchanges() if e.held_out}
    shares = np.array(list(engines.values()))
    for i in range(count):
        text = " ".join(rng.choice(words, size=int(rng.integers(*words_each))))
        voice = voices.random_voice(str(rng.choice(list(engines), p=shares / shares.sum())), rng)
        if text not in kept_back:
            yield Job(f"{name}-{i:05d}", text, voice, "train", "mix")


def _crossed_jobs(engines: dict[str, float], count: int) -> Iterator[Job]:
    """Questions of training with one or two words of the world in the place of theirs.

    In noise the ear guesses what it has often been asked. These are heard as likely as those.
    """
    rng = np.random.default_rng(15)
    inside = [e for e in world.exchanges() if e.kind != "unknown"]
    source = [e.question for e in inside if not e.held_out]
    words = sorted({w for e in inside for w in f"{e.question} {e.answer}".split()})
    questions = {e.question for e in world.exchanges()}
    shares = np.array(list(engines.values()))
    for i in range(count):
        text = source[int(rng.integers(len(source)))].split()
        for _ in range(int(rng.integers(1, 3))):
            text[int(rng.integers(len(text)))] = words[int(rng.integers(len(words)))]
        voice = voices.random_voice(str(rng.choice(list(engines), p=shares / shares.sum())), rng)
        if " ".join(text) not in questions:
            yield Job(f"crossed-{i:05d}", " ".join(text), voice, "train", "mix")


def _small_talk_jobs(engines: dict[str, float], each: int) -> Iterator[Job]:
    """Greetings in many voices: the shortest questions are the hardest to hear."""
    rng = np.random.default_rng(8)
    texts = [e.question for e in world.exchanges() if e.kind == "greetings" and not e.held_out]
    shares = np.array(list(engines.values()))
    for i, text in enumerate(texts * each):
        engine = str(rng.choice(list(engines), p=shares / shares.sum()))
        voice = voices.random_voice(engine, rng)
        yield Job(f"greeting-{i:05d}", text, voice, "train", "question")


def _test_jobs(per_voice: int) -> Iterator[Job]:
    """Held-out texts by held-out voices, and by training voices in new recordings."""
    rng = np.random.default_rng(22)
    source = balanced_questions(rng, held_out=True)
    for voice in voices.held_out_voices():
        count = per_voice * (2 if voice.engine in ("kokoro", "piper") else 1)
        for i in range(count):
            yield Job(
                f"test-{voice.engine}-{voice.name}-{i:04d}",
                next(source).question,
                voice,
                "heldout",
                "question",
            )
    engines = ["espeak", "flite", "festival", "kokoro"]
    for i in range(8 * per_voice):
        voice = voices.random_voice(engines[i % 4], rng)
        yield Job(f"test-seen-{i:04d}", next(source).question, voice, "valid", "question")


_FAST_ENGINES = {"espeak": 0.45, "flite": 0.35, "festival": 0.2}

PARTS = {
    "teacher": _teacher_jobs,
    "slips": _slip_jobs,
    "fast": lambda: _question_jobs(_FAST_ENGINES, 9000, 3, "fast"),
    "neural": lambda: _question_jobs({"kokoro": 1.0}, 4000, 4, "neural"),
    "outside": lambda: _outside_jobs(_FAST_ENGINES | {"kokoro": 0.15}, 4000),
    "near": lambda: _near_jobs(
        "near", out_of_domain.near_questions(), _FAST_ENGINES | {"kokoro": 0.2}, 1200, 12
    ),
    # More things: what is not known is recognised by its name, not by the wording.
    "names": lambda: _near_jobs(
        "names", out_of_domain.more_near_questions(), _FAST_ENGINES | {"kokoro": 0.15}, 1600, 14
    ),
    "crossed": lambda: _crossed_jobs(_FAST_ENGINES | {"kokoro": 0.12}, 4000),
    "mix": lambda: _shuffle_jobs("mix", _FAST_ENGINES, 2500, 5, (3, 9)),
    "short": lambda: _shuffle_jobs("short", _FAST_ENGINES | {"kokoro": 0.25}, 1600, 9, (1, 4)),
    "greetings": lambda: _small_talk_jobs(_FAST_ENGINES | {"kokoro": 0.35}, 16),
    "test": lambda: _test_jobs(40),
}  # fmt: skip


def _render(job: Job) -> tuple[Job, list[str], bytes]:
    audio = voices.speak(job.text, job.voice)
    return job, ctc_phones(job.text), (audio * 32767).astype("<i2").tobytes()


def synthesize(part: str, out: Path, workers: int, limit: int | None = None) -> None:
    """Speak all jobs of ``part`` that ``out`` does not hold yet."""
    out.mkdir(parents=True, exist_ok=True)
    manifest, audio_file = out / "manifest.jsonl", out / "audio.i16"
    lines = manifest.read_text(encoding="utf-8").splitlines() if manifest.exists() else []
    done = [json.loads(line) for line in lines]
    known = {entry["id"] for entry in done}
    offset = done[-1]["offset"] + done[-1]["samples"] if done else 0
    jobs = [job for job in list(PARTS[part]())[:limit] if job.id not in known]
    with audio_file.open("ab") as audio, manifest.open("a", encoding="utf-8") as index:
        audio.truncate(2 * offset)  # drop a tail that no manifest line speaks of
        with worker_pool(workers) as pool:
            for job, phones, pcm in tqdm(pool.imap(_render, jobs, 8), total=len(jobs), desc=part):
                entry = {
                    "id": job.id, "text": job.text, "phones": " ".join(phones),
                    "engine": job.voice.engine, "voice": job.voice.name, "split": job.split,
                    "kind": job.kind, "offset": offset, "samples": len(pcm) // 2,
                    "settings": asdict(job.voice),
                }  # fmt: skip
                audio.write(pcm)
                audio.flush()
                index.write(json.dumps(entry, ensure_ascii=False) + "\n")
                index.flush()
                offset += len(pcm) // 2


def main(
    part: Annotated[str, typer.Argument(help=f"one of: {', '.join(PARTS)}")],
    out: Annotated[Path, typer.Argument(help="folder of the corpus")],
    workers: Annotated[int, typer.Option(help="processes")] = 2,
    limit: Annotated[int | None, typer.Option(help="only the first N utterances")] = None,
) -> None:
    """Speak one part of the corpus; run again to go on after a stop."""
    with exit_on_error():
        if part not in PARTS:
            raise typer.BadParameter(f"unknown part {part!r}; expected one of {', '.join(PARTS)}")
        synthesize(part, out, workers, limit)


if __name__ == "__main__":
    typer.run(main)
