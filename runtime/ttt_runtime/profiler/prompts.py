"""Prompts to measure with: random ones, questions from sound files, texts that the model says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ttt_ref.bounded import read_text
from ttt_ref.config import GenerationConfig
from ttt_ref.errors import ConfigError
from ttt_runtime.audio.reader import read_question
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.codec.factory import load_codec
from ttt_runtime.decode.engine import SpeechEngine
from ttt_runtime.dialogue.prompt import TASKS, PromptBuilder


def random_prompts(bundle: Bundle, count: int, seed: int = 0) -> list[list[int]]:
    """Return prompts that ask 1-4 s of random codes, in the bundle's template if it has one."""
    rng = np.random.default_rng(seed)
    layout = bundle.config.layout
    builder = None if bundle.config.tokenizer is None else PromptBuilder.from_bundle(bundle)
    task = (
        None if builder is None else next((t for t in TASKS if t in builder.prompts.system), None)
    )
    prompts = []
    for _ in range(count):
        codes = rng.integers(0, layout.num_codes, int(rng.integers(12, 50))).tolist()
        if builder is None or task is None:
            ids = [layout.code_to_id(code) for code in codes]
            speech = [layout.begin_of_audio_id, *ids, layout.end_of_audio_id]
            prompts.append([layout.im_start_id, *speech, layout.im_end_id, layout.im_start_id])
            continue
        turn = builder.user_turn(builder.speech(codes))
        prompts.append(builder.conversation(task) + turn)
    return prompts


def question_prompts(bundle: Bundle, files: Sequence[str]) -> list[list[int]]:
    """Return prompts that ask what is said in sound files."""
    builder = PromptBuilder.from_bundle(bundle)
    tokenizer, _ = load_codec(bundle)
    prompts = []
    for name in files:
        codes = tokenizer.encode(read_question(name, tokenizer).audio).tolist()
        content = builder.speech(codes)
        prompts.append(builder.conversation("answer") + builder.user_turn(content))
    return prompts


def said_prompts(
    bundle: Bundle, engine: SpeechEngine, config: GenerationConfig, file: Path
) -> list[list[int]]:
    """Return two prompts a line of a text file: to say it, and to answer it as the model said it.

    Raises:
        ConfigError: no text in the file.
    """
    builder = PromptBuilder.from_bundle(bundle)
    texts = [line.strip() for line in read_text(file, error=ConfigError).splitlines()]
    prompts = []
    for text in filter(None, texts):
        speak = builder.conversation("speak") + builder.user_turn(builder.encode_plain(text))
        prompts.append(speak)
        engine.reset()
        ids = engine.generate_ids(speak, config)
        codes = [bundle.config.layout.id_to_code(i) for i in ids if bundle.config.layout.is_code(i)]
        if codes:
            content = builder.speech(codes)
            prompts.append(builder.conversation("answer") + builder.user_turn(content))
    if not prompts:
        raise ConfigError(f"{file} holds no text; give one question a line")
    return prompts
