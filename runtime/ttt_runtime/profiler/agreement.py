"""How near each option of `fast` stays to `exact`, how much work it saves, and how much time.

    python -m ttt_runtime.profiler.agreement BUNDLE [--prompts N] [--question FILE ...]
    python -m ttt_runtime.profiler.agreement BUNDLE --say samples/questions.txt \
        --state docs/approximations.json --table docs/approximations.md

Every prompt is answered with `exact` and with each option alone (all others off), in pairs. Prompts
are sound files, texts that the model itself says first (so that a trained model hears its own
world), or random codes in the bundle's chat template. Prints a Markdown table, then one JSON
document in the last line; `--state` and `--table` rewrite what the project says of its options
(see `stated`), which tests hold it to.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ttt_ref.command_line import run_app
from ttt_ref.config import GenerationConfig, TokenLayout
from ttt_ref.errors import ConfigError
from ttt_runtime.backends.base import Runner
from ttt_runtime.backends.ort.session import share_thread_pool
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.decode.approximations import EXACT, Approximations, parse_approximations
from ttt_runtime.decode.engine import SpeechEngine
from ttt_runtime.dialogue.assistant import pick_preset
from ttt_runtime.profiler.counting import Answer, CountingRunner, answer
from ttt_runtime.profiler.figures import median_interval
from ttt_runtime.profiler.prompts import question_prompts, random_prompts, said_prompts
from ttt_runtime.profiler.stated import check_targets, fingerprint, rewrite_state, rewrite_table
from ttt_runtime.terminal.progress import Progress

# What is measured unless `--fast` says otherwise: one option each.
DEFAULT_OPTIONS = (
    "constrained_heads",
    "end_slot",
    "threshold=0.9",
    "threshold=0.7",
    "delayed_cache",
    "guidance=constant",
    "guidance=off",
)
_SCRIPT_GUIDANCE = GenerationConfig.preset("script").cfg_scale
_SCRIPT_BLOCK = GenerationConfig.preset("script").block_length


@dataclass(frozen=True)
class Agreement:
    """Sums over all prompts of one option beside `exact`; shares lie in 0..1.

    Attributes:
        option: as on a command line.
        against: what both sides had changed in the preset ("" for nothing).
        equal_answers: share of prompts whose ids are all the same.
        equal_ids: share of ids that are the same at their position (of the longer answer).
        equal_text: share of prompts whose text ids are the same.
        equal_speech: the share of `equal_ids` among speech codes alone, in order.
        speech_tokens: codes with the option.
        exact_speech_tokens: codes without.
        forwards_saved: share of the forwards (a speech token) saved; negative if there are more.
        rows_saved: share of the rows (a speech token) saved.
        time_saved: median and 95 % interval of the time (a generated id) saved, over prompts.
    """

    option: str
    against: str
    equal_answers: float
    equal_ids: float
    equal_text: float
    equal_speech: float
    speech_tokens: int
    exact_speech_tokens: int
    forwards_saved: float
    rows_saved: float
    time_saved: dict[str, float] | None = None


def options_alone(item: str) -> Approximations:
    """Return the option of a `name=value` item with all others off."""
    parsed = parse_approximations([item], "fast")
    assert parsed is not None
    off = Approximations()
    changed = {
        f.name: getattr(parsed, f.name)
        for f in dataclasses.fields(Approximations)
        if getattr(parsed, f.name) != getattr(off, f.name)
    }
    if item.partition("=")[0].replace("-", "_") == "constrained_heads":
        changed["constrained_heads"] = parsed.constrained_heads
    return dataclasses.replace(EXACT, **changed)


def fitting(item: str, config: GenerationConfig) -> tuple[GenerationConfig, str]:
    """Return the preset on which an option can act at all, and what was changed for that.

    Guidance modes need guidance: the released script's scale, if the preset has none. A slot for
    the end tag needs a block without one: the released script's length.
    """
    name = item.partition("=")[0].replace("-", "_")
    if name == "guidance" and config.cfg_scale == 0:
        return dataclasses.replace(config, cfg_scale=_SCRIPT_GUIDANCE), (
            f"guidance {_SCRIPT_GUIDANCE:g}"
        )
    if name == "end_slot" and config.block_length == _SCRIPT_BLOCK + 1:
        blocks = config.diffusion_gen_length // config.block_length
        length = blocks * _SCRIPT_BLOCK
        shorter = dataclasses.replace(
            config, block_length=_SCRIPT_BLOCK, diffusion_gen_length=length
        )
        return shorter, f"block {_SCRIPT_BLOCK}"
    return config, ""


def shortened(config: GenerationConfig, most: int) -> GenerationConfig:
    """Return the preset with answers, and spans, of at most about so many tokens."""
    blocks = config.diffusion_gen_length // config.block_length
    fewer = min(blocks, max(1, most // config.block_length))
    return dataclasses.replace(
        config,
        max_gen_len=min(config.max_gen_len, most),
        diffusion_gen_length=fewer * config.block_length,
        diffusion_steps=fewer * (config.diffusion_steps // blocks),
    )


def compare(
    option: str,
    layout: TokenLayout,
    exact: Sequence[Answer],
    other: Sequence[Answer],
    against: str = "",
) -> Agreement:
    """Hold answers against those of `exact` to the same prompts."""
    speech = [_side(layout, a.ids, code=True) for a in (*exact, *other)]
    exact_speech, other_speech = speech[: len(exact)], speech[len(exact) :]
    texts = [_side(layout, a.ids, code=False) for a in (*exact, *other)]
    pairs = list(zip(texts[: len(exact)], texts[len(exact) :], strict=True))
    exact_codes, codes = (sum(map(len, side)) for side in (exact_speech, other_speech))
    return Agreement(
        option=option,
        against=against,
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
        time_saved=_time_saved(exact, other),
    )


def measure_agreement(
    runner: Runner,
    layout: TokenLayout,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    items: Sequence[str] = DEFAULT_OPTIONS,
    *,
    paired: bool = False,
    progress: Progress | None = None,
) -> list[Agreement]:
    """Answer all prompts with `exact` and with each option of `items` alone.

    `paired` runs `exact` again beside every option, so that times can be compared.
    """
    chosen = [(item, options_alone(item)) for item in items]
    counts = CountingRunner(runner)
    exact_engine = SpeechEngine(counts, layout)
    known: dict[str, list[Answer]] = {}
    found = []
    for number, (item, options) in enumerate(chosen):
        if progress is not None:
            progress(f"{item}, option {number + 1} of {len(chosen)}")
        fitted, against = fitting(item, config)
        engine = SpeechEngine(counts, layout, exactness="fast", fast=options)
        if paired:
            exact, other = _pairs((exact_engine, engine), counts, prompts, fitted)
        else:
            if against not in known:
                known[against] = [answer(exact_engine, counts, p, fitted) for p in prompts]
            exact = [dataclasses.replace(a, seconds=0.0) for a in known[against]]
            other = [answer(engine, counts, prompt, fitted) for prompt in prompts]
        found.append(compare(item, layout, exact, other, against))
    return found


def _pairs(
    engines: tuple[SpeechEngine, SpeechEngine],
    counts: CountingRunner,
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
) -> tuple[list[Answer], list[Answer]]:
    sides: tuple[list[Answer], list[Answer]] = ([], [])
    for engine in engines:  # what is bound or computed once is no prompt's own time
        answer(engine, counts, prompts[0], config)
    for number, prompt in enumerate(prompts):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            sides[side].append(answer(engines[side], counts, prompt, config))
    return sides


def markdown(found: Sequence[Agreement]) -> str:
    """Return the table."""
    lines = [
        "| option alone | answers equal | text equal | speech codes equal | forwards saved "
        "| rows saved | time saved (95 %) |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for a in found:
        name = f"`{a.option}`" + (f" (both at {a.against})" if a.against else "")
        shares = (a.equal_answers, a.equal_text, a.equal_speech, a.forwards_saved, a.rows_saved)
        cells = [name, *(f"{100 * share:.1f} %" for share in shares)]
        time = a.time_saved
        cells.append(
            "-"
            if time is None
            else f"{100 * time['median']:.0f} % ({100 * time['low']:.0f} .. "
            f"{100 * time['high']:.0f})"
        )
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


def _time_saved(exact: Sequence[Answer], other: Sequence[Answer]) -> dict[str, float] | None:
    pairs = [(a, b) for a, b in zip(exact, other, strict=True) if a.seconds and a.ids and b.ids]
    if not pairs:
        return None
    saved = [1 - b.seconds / len(b.ids) / (a.seconds / len(a.ids)) for a, b in pairs]
    return median_interval(saved).rounded()


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def agreement(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    prompts: Annotated[int, typer.Option(min=1, max=10_000, help="Random prompts.")] = 20,
    question: Annotated[
        list[str] | None, typer.Option(help="Ask this sound file instead; repeatable.")
    ] = None,
    say: Annotated[
        Path | None, typer.Option(help="Ask the texts of this file, as the model says them.")
    ] = None,
    fast: Annotated[
        list[str] | None, typer.Option("--fast", help="Measure this option; repeatable.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Generation preset.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 512,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    state: Annotated[
        Path | None, typer.Option(help="Rewrite the measured part of this JSON file.")
    ] = None,
    table: Annotated[
        list[Path] | None,
        typer.Option(help="Rewrite the table in this Markdown file (with --state); repeatable."),
    ] = None,
) -> None:
    """Measure what each option of `fast` changes and saves."""
    opened = Bundle.open(bundle)
    items = tuple(fast or DEFAULT_OPTIONS)
    for item in items:
        options_alone(item)  # a mistake is reported before anything is loaded
    if (question and say) or (table and not state):
        raise ConfigError("--question does not go with --say, --table not without --state")
    check_targets(state, table or ())
    if say is not None:
        say.stat()
    config = shortened(pick_preset(opened, preset), max_tokens)
    with Progress() as progress:
        progress(f"loading {bundle}")
        engine = SpeechEngine.from_bundle(opened, threads=threads)
        if say is not None:
            prompted = said_prompts(opened, engine, config, say)
        elif question:
            prompted = question_prompts(opened, question)
        else:
            prompted = random_prompts(opened, prompts)
        found = measure_agreement(
            engine.runner, engine.layout, prompted, config, items, paired=True, progress=progress
        )
    document: dict[str, Any] = {
        "bundle": opened.config.name,
        "fingerprint": fingerprint(opened),
        "prompts": "questions" if question else "said" if say else "random",
        "prompt_count": len(prompted),
        "generation": config.to_dict(),
        "options": [dataclasses.asdict(a) for a in found],
    }
    text = markdown(found)
    if state is not None:
        rewrite_state(state, document)
    for path in table or ():
        rewrite_table(path, text)
    print(text)
    print(json.dumps(document))


if __name__ == "__main__":
    share_thread_pool()
    run_app(app)
