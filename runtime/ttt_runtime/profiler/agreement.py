"""How near each option of `fast` stays to `exact`, and how much work it saves.

    python -m ttt_runtime.profiler.agreement BUNDLE [--prompts N] [--question FILE ...]

Every prompt is answered with `exact`, then with each option alone (all others off). Prompts are
the given sound files, or random codes in the bundle's chat template: what a model of trained
weights says to noise is still its own answer, so both runs are comparable, but agreement on real
questions is the figure to quote. Prints a Markdown table, then one JSON document in the last line.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ttt_ref.config import GenerationConfig, TokenLayout
from ttt_ref.errors import BundleError
from ttt_runtime.assistant import pick_preset
from ttt_runtime.audio import read_audio
from ttt_runtime.bundle import Bundle
from ttt_runtime.chooser import Runner
from ttt_runtime.cli.entry import run_app
from ttt_runtime.codec.factory import load_codec
from ttt_runtime.engine import SpeechEngine
from ttt_runtime.fast import EXACT, FastOptions, parse_fast
from ttt_runtime.prompt import TASKS, PromptBuilder
from ttt_runtime.scheduler import Step

# What is measured unless `--fast` says otherwise: one option each.
DEFAULT_OPTIONS = (
    "constrained_heads",
    "guidance=constant",
    "guidance=off",
    "early_end",
    "end_slot",
    "threshold=0.9",
    "threshold=0.7",
    "frozen_blocks",
    "block_growth=2",
    "prior=running",
)


@dataclass(frozen=True)
class Answer:
    """One generation: its ids, and the forwards and rows that they took."""

    ids: tuple[int, ...]
    forwards: int
    rows: int


@dataclass(frozen=True)
class Agreement:
    """Sums over all prompts of one option beside `exact`; shares lie in 0..1.

    Attributes:
        option: as on a command line.
        equal_answers: share of prompts whose ids are all the same.
        equal_ids: share of ids that are the same at their position (of the longer answer).
        equal_text: share of prompts whose text ids are the same.
        equal_speech: the share of `equal_ids` among speech codes alone, in order.
        speech_tokens: codes with the option.
        exact_speech_tokens: codes without.
        forwards_saved: share of the forwards (a speech token) saved; negative if there are more.
        rows_saved: share of the rows (a speech token) saved.
    """

    option: str
    equal_answers: float
    equal_ids: float
    equal_text: float
    equal_speech: float
    speech_tokens: int
    exact_speech_tokens: int
    forwards_saved: float
    rows_saved: float


def options_alone(item: str) -> FastOptions:
    """Return the option of a `name=value` item with all others off."""
    parsed = parse_fast([item], "fast")
    assert parsed is not None
    off = FastOptions()
    changed = {
        f.name: getattr(parsed, f.name)
        for f in dataclasses.fields(FastOptions)
        if getattr(parsed, f.name) != getattr(off, f.name)
    }
    if item.partition("=")[0].replace("-", "_") == "constrained_heads":
        changed["constrained_heads"] = parsed.constrained_heads
    return dataclasses.replace(EXACT, **changed)


def answer(engine: SpeechEngine, prompt: Sequence[int], config: GenerationConfig) -> Answer:
    """Answer a prompt from an empty cache, seed 0."""
    engine.reset()
    steps: list[Step] = []
    ids: list[int] = []
    for event in engine.generate(prompt, config, observer=lambda step, *_: steps.append(step)):
        ids.extend(event.ids)
    return Answer(tuple(ids), len(steps), sum(step.stop - step.start for step in steps))


def compare(
    option: str, layout: TokenLayout, exact: Sequence[Answer], other: Sequence[Answer]
) -> Agreement:
    """Hold answers against those of `exact` to the same prompts."""
    speech = [_side(layout, a.ids, code=True) for a in (*exact, *other)]
    exact_speech, other_speech = speech[: len(exact)], speech[len(exact) :]
    texts = [_side(layout, a.ids, code=False) for a in (*exact, *other)]
    pairs = list(zip(texts[: len(exact)], texts[len(exact) :], strict=True))
    exact_codes, codes = (sum(map(len, side)) for side in (exact_speech, other_speech))
    return Agreement(
        option=option,
        equal_answers=_mean([a.ids == b.ids for a, b in zip(exact, other, strict=True)]),
        equal_ids=_equal([(a.ids, b.ids) for a, b in zip(exact, other, strict=True)]),
        equal_text=_mean([a == b for a, b in pairs]),
        equal_speech=_equal(list(zip(exact_speech, other_speech, strict=True))),
        speech_tokens=codes,
        exact_speech_tokens=exact_codes,
        forwards_saved=_saved(
            [a.forwards for a in exact], [b.forwards for b in other], exact_codes, codes
        ),
        rows_saved=_saved([a.rows for a in exact], [b.rows for b in other], exact_codes, codes),
    )


def measure_agreement(
    runner: Runner,
    layout: TokenLayout,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    items: Sequence[str] = DEFAULT_OPTIONS,
) -> list[Agreement]:
    """Answer all prompts with `exact` and with each option of `items` alone."""
    chosen = [(item, options_alone(item)) for item in items]
    exact_engine = SpeechEngine(runner, layout)
    exact = [answer(exact_engine, prompt, config) for prompt in prompts]
    found = []
    for item, options in chosen:
        engine = SpeechEngine(runner, layout, exactness="fast", fast=options)
        found.append(compare(item, layout, exact, [answer(engine, p, config) for p in prompts]))
    return found


def random_prompts(bundle: Bundle, count: int, seed: int = 0) -> list[list[int]]:
    """Return prompts that ask 1-4 s of random codes, in the bundle's template if it has one."""
    rng = np.random.default_rng(seed)
    layout = bundle.config.layout
    builder = None if bundle.config.tokenizer is None else PromptBuilder.from_bundle(bundle)
    prompts = []
    for _ in range(count):
        codes = rng.integers(0, layout.num_codes, int(rng.integers(12, 50))).tolist()
        if builder is None:
            ids = [layout.code_to_id(code) for code in codes]
            speech = [layout.begin_of_audio_id, *ids, layout.end_of_audio_id]
            prompts.append([layout.im_start_id, *speech, layout.im_end_id, layout.im_start_id])
            continue
        task = next(t for t in TASKS if t in builder.prompts.system)
        turn = builder.user_turn(builder.speech(codes))
        prompts.append(builder.conversation(task) + turn)
    return prompts


def question_prompts(bundle: Bundle, files: Sequence[str]) -> list[list[int]]:
    """Return prompts that ask what is said in sound files."""
    builder = PromptBuilder.from_bundle(bundle)
    tokenizer, _ = load_codec(bundle)
    if tokenizer is None:
        raise BundleError(f"bundle {bundle.config.name} has no speech tokenizer")
    prompts = []
    for name in files:
        codes = tokenizer.encode(read_audio(name, tokenizer.sample_rate_hz).audio).tolist()
        content = builder.speech(codes)
        prompts.append(builder.conversation("answer") + builder.user_turn(content))
    return prompts


def markdown(found: Sequence[Agreement]) -> str:
    """Return the table."""
    lines = [
        "| option alone | answers equal | ids equal | text equal | speech equal | speech tokens "
        "| forwards saved | rows saved |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for a in found:
        shares = (a.equal_answers, a.equal_ids, a.equal_text, a.equal_speech)
        cells = [a.option, *(f"{100 * share:.1f} %" for share in shares)]
        cells += [f"{a.speech_tokens} ({a.exact_speech_tokens})"]
        cells += [f"{100 * share:.1f} %" for share in (a.forwards_saved, a.rows_saved)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _side(layout: TokenLayout, ids: Sequence[int], *, code: bool) -> list[int]:
    if code:
        return [i for i in ids if layout.is_code(i)]
    return [i for i in ids if not layout.is_audio(i)]


def _equal(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> float:
    same = sum(x == y for a, b in pairs for x, y in zip(a, b, strict=False))
    longer = sum(max(len(a), len(b)) for a, b in pairs)
    return same / longer if longer else 1.0


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else 1.0


def _saved(exact: Sequence[int], other: Sequence[int], exact_codes: int, codes: int) -> float:
    """Return the share saved a speech token: answers of other lengths stay comparable."""
    before = sum(exact) / max(exact_codes, 1)
    return 1.0 - sum(other) / max(codes, 1) / before if before else 0.0


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def agreement(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    prompts: Annotated[int, typer.Option(min=1, max=10_000, help="Random prompts.")] = 20,
    question: Annotated[
        list[str] | None, typer.Option(help="Ask this sound file instead; repeatable.")
    ] = None,
    fast: Annotated[
        list[str] | None, typer.Option("--fast", help="Measure this option; repeatable.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Generation preset.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 512,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Measure what each option of `fast` changes and saves."""
    opened = Bundle.open(bundle)
    items = tuple(fast or DEFAULT_OPTIONS)
    for item in items:
        options_alone(item)  # a mistake is told before anything is loaded
    asked = question_prompts(opened, question) if question else random_prompts(opened, prompts)
    config = pick_preset(opened, preset)
    config = dataclasses.replace(config, max_gen_len=min(config.max_gen_len, max_tokens))
    engine = SpeechEngine.from_bundle(opened, threads=threads)
    found = measure_agreement(engine.runner, engine.layout, asked, config, items)
    document: dict[str, Any] = {
        "bundle": opened.config.name,
        "prompts": "questions" if question else "random",
        "prompt_count": len(asked),
        "generation": config.to_dict(),
        "options": [dataclasses.asdict(a) for a in found],
    }
    print(markdown(found))
    print(json.dumps(document))


if __name__ == "__main__":
    run_app(app)
