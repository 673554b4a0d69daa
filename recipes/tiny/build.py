"""Turn corpora into training conversations: ``python -m recipes.tiny.build``.

Needs the trained speech tokenizer. Writes the text tokenizer's files, one file a task and split
(``train-answer.jsonl``, ...) and ``extra.json`` with what the checkpoint's config adds. Questions
are encoded once as recorded and several times degraded (room, noise, level, speed); the teacher's
renderings, which the model must say, only as recorded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from tokenizers import Tokenizer
from tqdm import tqdm

from recipes.tiny import arithmetic, dialogues, text_tokenizer, voices
from recipes.tiny.augment import AugmentConfig
from recipes.tiny.corpus import Corpus, Utterance
from recipes.tiny.dialogues import EncodedSpeech
from recipes.tiny.encode import encode_corpus
from ttt_ref.checkpoint import write_tokenizer
from ttt_ref.codec.builtin.checkpoint import load_tokenizer
from ttt_ref.codec.builtin.tokenizer import SpeechTokenizer
from ttt_ref.config import GenerationConfig
from ttt_ref.errors import CheckpointError, ConfigError, exit_on_error
from ttt_ref.tokenizer_files import load_tokenizer as load_words

STEPS_A_BLOCK = {"tiny": 13, "quick": 4}  # passes by preset; the first preset is the default
# How questions are degraded: noisier than the tokenizer's training, since there a word is what is
# lost first. The evaluation asks at 10 dB.
HEARD = AugmentConfig(noise_share=0.85, noise_low_db=4.0, noise_high_db=22.0)
BLOCK = dialogues.SPEECH_CHUNK + 1  # a whole span and its end tag are one block


def is_teacher(utterance: Utterance) -> bool:
    """Whether this is one of the renderings that the model learns to say."""
    spoken_by = (utterance.engine, utterance.voice)
    return spoken_by == voices.TEACHER and utterance.kind in ("answer", "speak")


def is_heard(split: str, utterance: Utterance) -> bool:
    """Whether this is something that a user of ``split`` says."""
    return utterance.split == split and utterance.kind in ("question", "mix")


def encode(
    tokenizer: SpeechTokenizer, corpus: Corpus, versions: int, seed: int, workers: int
) -> list[EncodedSpeech]:
    """Encode all utterances, ``versions`` times degraded (0: once, as recorded)."""
    total = len(corpus) * max(versions, 1)
    items = encode_corpus(tokenizer, corpus, versions, seed, HEARD, workers=workers)
    return [
        EncodedSpeech(
            corpus.utterances[item.index].text,
            corpus.utterances[item.index].kind,
            item.codes.astype(np.int64),
        )
        for item in tqdm(items, total=total, desc=f"encoding x{versions}")
    ]


def earlier_words(folder: Path, num_codes: int) -> Tokenizer:
    """Read the text tokenizer of an earlier model.

    Raises:
        CheckpointError: no tokenizer there, a broken one, or one without the codec's tokens.
    """
    text = load_words(folder)
    lacks = [t for t in text_tokenizer.special_tokens(num_codes) if text.token_to_id(t) is None]
    if lacks:
        raise CheckpointError(
            f"the tokenizer in {folder} lacks {len(lacks)} tokens of a codec of {num_codes} codes, "
            f"such as {lacks[0]}; give the tokenizer of a model made with the same codec"
        )
    return text


@dataclass(frozen=True)
class RefusedShares:
    """Which share of the questions to refuse is kept, as recorded and degraded.

    Refusals need many texts, but a model that is taught too many of them refuses what it could
    have understood, the more so in noise.
    """

    recorded: float = 1.0
    degraded: float = 1.0

    def __post_init__(self) -> None:
        for share in (self.recorded, self.degraded):
            if not 0.0 <= share <= 1.0:  # NaN passes typer's range
                raise ConfigError(f"share of refusals is {share}; expected 0 to 1")


def thin_refused(
    recordings: list[EncodedSpeech], share: float, rng: np.random.Generator
) -> list[EncodedSpeech]:
    """Keep all questions of the world, and this share of those that are met with a refusal."""
    return [
        recording
        for recording in recordings
        if not dialogues.is_refused(recording.text) or rng.random() < share
    ]


def build(
    data: Path,
    codec: Path,
    out: Path,
    versions: int,
    seed: int,
    words: Path | None = None,
    refused: RefusedShares = RefusedShares(),
    workers: int = 1,
) -> None:
    """Write everything that ``ttt-train`` needs into ``out``, the same with any number of workers.

    ``words`` is the text tokenizer of an earlier model that the training goes on from; None makes
    a new one of the world as it is.
    """
    tokenizer = load_tokenizer(codec)
    if words is None:
        text = text_tokenizer.build(out / "tokenizer", tokenizer.config.num_codes)
    else:
        text = earlier_words(words, tokenizer.config.num_codes)
        (out / "tokenizer").mkdir(parents=True, exist_ok=True)
        write_tokenizer(out / "tokenizer", words)
    teacher = encode(tokenizer, Corpus(data, is_teacher), 0, seed, workers)
    known = {recording.text for recording in teacher}
    for split in ("train", "valid"):
        heard = Corpus(data, partial(is_heard, split))
        if len(heard) == 0:
            continue
        questions = encode(tokenizer, heard, 0, seed, workers)
        if split == "train":
            degraded = encode(tokenizer, heard, versions, seed, workers)
            rng = np.random.default_rng((seed, 6))
            questions = thin_refused(questions, refused.recorded, rng)
            questions += thin_refused(degraded, refused.degraded, rng)
        missing = {dialogues.answer_of(q.text) for q in questions if q.kind == "question"} - known
        if missing:
            raise ConfigError(
                f"the teacher has not spoken {len(missing)} answers, such as {min(missing)!r}; "
                "finish the corpus part 'teacher' first"
            )
        rows = list(dialogues.training_rows(text, questions, teacher))
        if split == "train":
            rows += [(dialogues.WRITE, row) for row in dialogues.written_rows()]
            rows += [(dialogues.BEGIN, row) for row in dialogues.begun_rows(text, teacher)]
        for task in dialogues.FILES:
            mine = [row for name, row in rows if name == task]
            count = dialogues.write_rows(out / f"{split}-{task}.jsonl", mine)
            print(f"{split} {task}: {count} conversations")
    (out / "extra.json").write_text(json.dumps(config_extra(), indent=1), encoding="utf-8")


def config_extra() -> dict[str, Any]:
    """What the checkpoint's ``config.json`` carries beyond the released keys."""
    presets = {
        name: GenerationConfig(
            max_gen_len=700, diffusion_steps=steps * 20, block_length=BLOCK,
            diffusion_gen_length=BLOCK * 20, cfg_scale=0.0,
        ).to_dict()
        for name, steps in STEPS_A_BLOCK.items()
    }  # fmt: skip
    return {
        # Training cuts examples at 512 tokens: 12 s of question are 300 of them.
        "ttt_codec": {"type": "builtin", "audio_front_end": {"longest_s": 12.0}},
        "ttt_presets": presets,
        "ttt_prompts": {
            "system": {task: task for task in dialogues.TASKS if task != dialogues.WRITE},
            "transcript_first": True,
            "working_mark": arithmetic.MARK,
            "single_turn": True,
        },
    }


def main(
    data: Annotated[Path, typer.Argument(help="corpus with questions and the teacher's texts")],
    codec: Annotated[Path, typer.Argument(help="folder of the trained speech tokenizer")],
    out: Annotated[Path, typer.Argument(help="folder to write")],
    versions: Annotated[int, typer.Option(help="degraded copies of each question")] = 6,
    seed: Annotated[int, typer.Option()] = 11,
    words: Annotated[
        Path | None, typer.Option(help="text tokenizer folder of the model to go on from")
    ] = None,
    refused: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="share of the questions from outside that is kept"),
    ] = 1.0,
    refused_degraded: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="the same of degraded copies (default: --refused)"),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="processes")] = 2,
) -> None:
    """Encode the corpora and write the conversations."""
    with exit_on_error():
        degraded = refused if refused_degraded is None else refused_degraded
        shares = RefusedShares(refused, degraded)
        build(data, codec, out, versions, seed, words, shares, workers)


if __name__ == "__main__":
    typer.run(main)
