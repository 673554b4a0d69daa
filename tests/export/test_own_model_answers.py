"""From a plain text model and twenty recordings to a spoken answer, by the command lines alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.export.test_released_form import QUESTION, module
from tests.export.test_released_form import run as run_without_torch
from tests.ref.train.test_own_checkpoint import RECORDINGS, TRAIN, tone


@pytest.mark.slow
def test_twenty_recordings_become_a_model_that_answers(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    rows = ["file_name,text,speaker,answer,answer_audio"]
    for number in range(RECORDINGS):
        tone(corpus / f"{number}.wav", number)
        other = (number + 1) % RECORDINGS
        rows.append(f"{number}.wav,number {number},s{number % 5},number {other},{other}.wav")
    (corpus / "metadata.csv").write_text("\n".join(rows))
    codec, model, data, out = (tmp_path / n for n in ("codec", "model", "data", "run"))
    module("ttt_ref.random_weights", "--like", "plain-tiny", str(tmp_path / "plain"))
    module("ttt_ref.codec.glm4voice.random_weights", str(codec), "--like", "small")
    module("ttt_ref.init_checkpoint", str(tmp_path / "plain"), str(model))
    words = [str(corpus), str(data), "-m", str(model), "--codec", str(codec)]
    said = module("ttt_ref.prepare.cli", *words, "--task", "answer", "--held-out", "0.2")
    assert f"{RECORDINGS} recordings" in said.stdout
    names = {"model": model, "data": data / "answer.train.jsonl", "master": "fp32"}
    (tmp_path / "train.toml").write_text(TRAIN.format(out=out, **names))
    module("ttt_ref.train.cli", str(tmp_path / "train.toml"))
    words = ["-m", str(out / "model"), "-p", "fp32", str(tmp_path / "bundle")]
    words += ["--speech-tokenizer", str(codec / "tokenizer")]
    module("ttt_export.cli", *words, "--speech-decoder", str(codec / "decoder"))
    answer = tmp_path / "answer.wav"
    words = ["answer", QUESTION, "-b", str(tmp_path / "bundle"), "-o", str(answer)]
    said = json.loads(run_without_torch("assistant", *words, "--json").stdout)
    assert said["task"] == "answer"
    assert said["text_count"] > 0
