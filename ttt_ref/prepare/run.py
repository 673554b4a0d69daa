"""Encoding a corpus in several processes, kept on disk as it goes, and the files it becomes."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from ttt_ref import outputs
from ttt_ref.bounded import parse_json, read_json
from ttt_ref.checkpoint import read_config, read_layout, write_json
from ttt_ref.config import TokenLayout
from ttt_ref.errors import AudioError, CodecError, ConfigError, DataError
from ttt_ref.prepare.layouts import Item, read_corpus
from ttt_ref.prepare.records import TASKS, Ratio, is_held_out, record
from ttt_ref.prepare.speech import Codec, load_codec, read_sound
from ttt_ref.released import prompts_or_released
from ttt_ref.tokenizer_files import load_tokenizer

CODES_FILE, REPORT_FILE, PLAN_FILE = "codes.jsonl", "prepare.json", "plan.json"


@dataclass(frozen=True)
class PrepareOptions:
    """The options of `ttt-prepare`.

    Attributes:
        corpus: folder with the recordings.
        model: checkpoint whose tokenizer cuts the texts and whose code book the codes must fit.
        codec: folder of the speech tokenizer.
        out: folder to make: a train and a dev file a task, codes.jsonl, prepare.json.
        tasks: which records are made of each recording.
        ratio: text tokens and codes of the interleave.
        system: task -> system text in place of the checkpoint's or the published.
        held_out: share of the speakers whose recordings go into the dev files.
        workers: processes.
        skip_bad: pass over recordings that cannot be used.
        max_seconds: longest recording.
        overwrite: replace `out`.
    """

    corpus: Path
    model: Path
    codec: Path
    out: Path
    tasks: tuple[str, ...] = ("transcribe",)
    ratio: Ratio = field(default_factory=Ratio)
    system: Mapping[str, str] = field(default_factory=dict)
    held_out: float = 0.05
    workers: int = 1
    skip_bad: bool = False
    max_seconds: float = 60.0
    overwrite: bool = False

    def __post_init__(self) -> None:
        for task in (*self.tasks, *self.system):
            if task not in TASKS:
                raise ConfigError(f"unknown task {task!r}; expected {', '.join(TASKS)}")
        if not 0 <= self.held_out < 1:
            raise ConfigError(f"--held-out is {self.held_out}; expected 0 to below 1")


@dataclass(frozen=True)
class Prepared:
    """What came of it: records of each file, and the recordings that were passed over."""

    layout: str
    recordings: int
    files: Mapping[str, int]
    bad: Sequence[str]


# Codes of an item's recording and of its answer's, or why it cannot be used.
Encoded = tuple[str, list[int], list[int], str]
Progress = Callable[[int, int], None]

_of_this_process: list[tuple[Codec, float]] = []


def _start(codec: Path, max_seconds: float) -> None:
    torch.set_num_threads(1)
    _of_this_process[:] = [(load_codec(codec), max_seconds)]


def _encode(item: Item) -> Encoded:
    codec, max_seconds = _of_this_process[0]
    try:
        codes = codec.codes(*read_sound(item.sound, max_seconds))
        answer: list[int] = []
        if item.answer_sound is not None:
            answer = codec.codes(*read_sound(item.answer_sound, max_seconds))
        return item.key, codes, answer, ""
    except (AudioError, CodecError, OSError) as error:
        return item.key, [], [], " ".join(str(error).split())


def prepare(options: PrepareOptions, progress: Progress | None = None) -> Prepared:
    """Turn a corpus into training files.

    Codes are kept in a hidden folder beside `out` while the work goes on; the same call again
    continues there. `out` appears when all is done.

    Raises:
        DataError: the layout or a transcript cannot be used, or nothing is left.
        AudioError: a recording cannot be used and `skip_bad` is off; it names the first and counts.
        CheckpointError, CodecError: model or codec cannot be used.
        ConfigError: the code book does not fit, or a task has nothing to be made of.
    """
    if options.out.exists() and not options.overwrite:
        raise ConfigError(f"{options.out} exists already; choose another name or --force")
    tokenizer = load_tokenizer(options.model)
    layout = read_layout(options.model, tokenizer)
    system = _system_texts(options, layout)
    name, found = read_corpus(options.corpus)
    bad = [str(error) for error in found if isinstance(error, DataError)]
    items = [item for item in found if isinstance(item, Item)]
    if bad and not options.skip_bad:
        raise DataError(_and_more(bad, len(found)))
    if "answer" in options.tasks and not any(i.answer and i.answer_sound for i in items):
        raise ConfigError(
            "task answer needs the columns `answer` (its text) and `answer_audio` (its recording)"
        )
    codec = load_codec(options.codec)
    if codec.num_codes != layout.num_codes:
        raise ConfigError(
            f"the codec in {options.codec} has {codec.num_codes} codes, the checkpoint in "
            f"{options.model} has {layout.num_codes}; give those that belong together"
        )
    work = options.out.parent / f".{options.out.name}.partial"
    kept = _open_work(work, options)
    waiting = [item for item in items if item.key not in kept]
    with (work / CODES_FILE).open("a", encoding="utf-8") as file:
        for number, (key, codes, answer, error) in enumerate(_encoded(waiting, options), 1):
            if error:
                bad.append(error)
                if not options.skip_bad:
                    raise AudioError(_and_more(bad, len(found)))
            else:
                kept[key] = (codes, answer)
                line = {"key": key, "codes": codes, "answer": answer}
                file.write(json.dumps(line) + "\n")
                file.flush()
            if progress is not None:
                progress(len(items) - len(waiting) + number, len(items))
    usable = [item for item in items if item.key in kept]
    if not usable:
        raise DataError(f"no recording of {options.corpus} can be used; the first: {bad[0]}")
    files = _write_files(work, options, tokenizer, system, usable, kept)
    result = Prepared(name, len(usable), files, bad)
    write_json(work / REPORT_FILE, asdict(result))
    (work / PLAN_FILE).unlink()
    outputs.replace(work, options.out)
    return result


def _and_more(bad: Sequence[str], count: int) -> str:
    others = f" ({len(bad)} of {count} are bad)" if len(bad) > 1 else ""
    return f"{bad[0]}{others}; mend it, or pass over such recordings with --skip-bad"


def _system_texts(options: PrepareOptions, layout: TokenLayout) -> dict[str, str]:
    """Return task -> text: what the user gave, else the checkpoint's own, else the published."""
    own = read_config(options.model).get("ttt_prompts") or {}
    prompts, _ = prompts_or_released(own, layout)
    return {**dict(prompts.get("system", {})), **options.system}


def _open_work(work: Path, options: PrepareOptions) -> dict[str, tuple[list[int], list[int]]]:
    """Make or continue the hidden folder; return the codes that are there.

    Raises:
        ConfigError: it belongs to another corpus or codec.
    """
    plan = {"corpus": str(options.corpus.resolve()), "codec": str(options.codec.resolve())}
    work.mkdir(parents=True, exist_ok=True)
    file = work / PLAN_FILE
    with contextlib.suppress(FileNotFoundError, DataError):
        if read_json(file) != plan:
            raise ConfigError(
                f"{work} holds the unfinished work of another corpus or codec; remove it, or "
                "choose another output folder"
            )
    write_json(file, plan)
    kept: dict[str, tuple[list[int], list[int]]] = {}
    codes = work / CODES_FILE
    whole = b""
    if codes.exists():
        for line in codes.read_bytes().splitlines(keepends=True):
            try:
                entry = parse_json(line)
                kept[entry["key"]] = (entry["codes"], entry["answer"])
            except (ValueError, KeyError, TypeError):
                break  # cut off when the process was killed
            if not line.endswith(b"\n"):
                break
            whole += line
        codes.write_bytes(whole)
    return kept


def _encoded(items: Sequence[Item], options: PrepareOptions) -> Iterator[Encoded]:
    start = (options.codec, options.max_seconds)
    if options.workers == 1 or len(items) < 2:
        _start(*start)
        yield from map(_encode, items)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(options.workers, len(items)), _start, start) as pool:
        yield from pool.imap(_encode, items)


def _write_files(
    work: Path,
    options: PrepareOptions,
    tokenizer: Tokenizer,
    system: Mapping[str, str],
    items: Sequence[Item],
    kept: Mapping[str, tuple[list[int], list[int]]],
) -> dict[str, int]:
    """Write `TASK.train.jsonl` and `TASK.dev.jsonl`; return how many records each has."""
    counts: dict[str, int] = {}
    for task in options.tasks:
        parts: dict[str, list[Any]] = {"train": [], "dev": []}
        for item in items:
            codes, answer = kept[item.key]
            if task == "answer" and not (item.answer and answer):
                continue
            made = record(
                task, system, tokenizer, options.ratio, item.text, codes, item.answer, answer
            )
            # Without speakers each recording is one of its own.
            held_out = is_held_out(item.speaker or item.key, options.held_out)
            parts["dev" if held_out else "train"].append(made)
        for part, records in parts.items():
            text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in records)
            (work / f"{task}.{part}.jsonl").write_text(text, encoding="utf-8")
            counts[f"{task}.{part}.jsonl"] = len(records)
    return counts
