"""Hear the teacher through the codec: ``python -m recipes.tiny.resynthesis CODEC DATA``.

Sends answers of the teacher's corpus through the trained speech tokenizer and decoder and lets
whisper-base hear both ends. The difference of the two word error rates is what the codec loses;
what a whole turn loses beyond that is the language model's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from tqdm import tqdm

from recipes.tiny.asr_judge import AsrJudge, edits, normalise
from recipes.tiny.build import is_teacher
from recipes.tiny.corpus import Corpus, Utterance
from recipes.tiny.evaluate import word_errors
from ttt_ref.codec.builtin.checkpoint import load_decoder, load_tokenizer
from ttt_ref.errors import ConfigError, exit_on_error


def _is_answer(utterance: Utterance) -> bool:
    return is_teacher(utterance) and utterance.kind == "answer"


def main(
    codec: Annotated[Path, typer.Argument(help="folder with the trained tokenizer and decoder")],
    data: Annotated[Path, typer.Argument(help="corpus with the part `teacher`")],
    count: Annotated[int, typer.Option(min=1, help="answers, drawn evenly")] = 100,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads")] = 2,
) -> None:
    """Print the word error rate of the recordings and of what the codec makes of them."""
    with exit_on_error():
        torch.set_num_threads(threads)
        tokenizer, decoder = load_tokenizer(codec), load_decoder(codec)
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ttt-edge"
        judge = AsrJudge(cache, threads)
        corpus = Corpus(data, _is_answer)
        if len(corpus) == 0:
            raise ConfigError(f"{data} holds no answer of the teacher; give the part `teacher`")
        recorded, decoded = [], []
        for i in tqdm(np.unique(np.linspace(0, len(corpus) - 1, count).astype(int)).tolist()):
            audio = corpus.audio(i)
            words = normalise(corpus.utterances[i].text)
            codes = tokenizer.encode_batch([torch.from_numpy(audio)])[0]
            recorded.append((edits(words, judge.hear(audio)), len(words)))
            decoded.append((edits(words, judge.hear(decoder.decode(codes).numpy())), len(words)))
        for name, pairs in (("recordings", recorded), ("through the codec", decoded)):
            rate, low, high = word_errors(pairs)
            print(f"{name}: WER {rate:.1f} % ({low:.1f}-{high:.1f}) of {len(pairs)} answers")


if __name__ == "__main__":
    typer.run(main)
