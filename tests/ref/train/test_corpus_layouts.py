"""Corpora that are as they should be, in every layout that `ttt-prepare` knows."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from tests.ref.train.test_own_checkpoint import call
from ttt_ref.codec.glm4voice.random_weights import write_tokenizer

TEXTS = ["one, said", 'two "said"', "three said", "four said"]
SPEAKERS = ["a", "a", "b", "b"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that is to be trained and a codec."""
    folder = tmp_path_factory.mktemp("layouts")
    call("ttt_ref.random_weights", "--like", "plain-tiny", folder / "plain")
    call("ttt_ref.init_checkpoint", folder / "plain", folder / "model")
    write_tokenizer(folder / "codec" / "tokenizer", "small")
    return folder


def sound(path: Path, number: int) -> Path:
    time = np.arange(8000 + 1600 * number) / 16_000
    path.parent.mkdir(exist_ok=True, parents=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * (200 + 20 * number) * time), 16_000)
    return path


def common_voice(folder: Path) -> None:
    rows = ["client_id\tpath\tsentence\tup_votes"]
    for number, (text, speaker) in enumerate(zip(TEXTS, SPEAKERS, strict=True)):
        sound(folder / "clips" / f"{number}.wav", number)
        rows.append(f"{speaker}\t{number}.wav\t{text}\t2")
    (folder / "validated.tsv").write_text("\n".join(rows) + "\n")
    (folder / "train.tsv").write_text(rows[0] + "\n")  # validated.tsv goes first


def ljspeech(folder: Path) -> None:
    rows = []
    for number, text in enumerate(TEXTS):
        sound(folder / "wavs" / f"LJ00{number}.wav", number)
        rows.append(f"LJ00{number}|{number} raw|{text}\n")  # the last field is the one to say
    (folder / "metadata.csv").write_text("".join(rows))


def parquet(folder: Path) -> None:
    items = [
        {"bytes": sound(folder / "x.wav", n).read_bytes(), "path": f"{n}.wav"} for n in range(4)
    ]
    (folder / "x.wav").unlink()
    table = pyarrow.table({"audio": items, "sentence": TEXTS, "speaker_id": SPEAKERS})
    pyarrow.parquet.write_table(table.slice(0, 3), folder / "a.parquet")
    (folder / "more").mkdir()
    pyarrow.parquet.write_table(table.slice(3), folder / "more" / "b.parquet")


def comma_separated(folder: Path) -> None:
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text", "speaker"])
        for number, (text, speaker) in enumerate(zip(TEXTS, SPEAKERS, strict=True)):
            sound(folder / f"{number}.wav", number)
            writer.writerow([f"{number}.wav", text, speaker])


@pytest.mark.parametrize(
    ("write", "name", "has_speakers"),
    [
        (common_voice, "common voice", True),
        (ljspeech, "ljspeech", False),
        (parquet, "parquet", True),
        (comma_separated, "csv", True),
    ],
)
def test_every_recording_becomes_a_record(
    model: Path, tmp_path: Path, write: Callable[[Path], None], name: str, has_speakers: bool
) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    corpus.mkdir()
    write(corpus)
    words = [corpus, out, "-m", model / "model", "--codec", model / "codec", "--held-out", "0.5"]
    said = call("ttt_ref.prepare.cli", *words)
    assert "passed over:" not in said
    summary = json.loads((out / "prepare.json").read_text())
    assert (summary["recordings"], summary["layout"]) == (4, name)
    records = {}
    for part in ("train", "dev"):
        lines = (out / f"transcribe.{part}.jsonl").read_text().splitlines()
        records[part] = [json.loads(line)["messages"] for line in lines]
    assert len(records["train"]) + len(records["dev"]) == 4
    answers = {
        part: {text for text in TEXTS for m in found if m[2]["content"].startswith(text[:9])}
        for part, found in records.items()
    }
    assert answers["train"] | answers["dev"] == set(TEXTS)
    if has_speakers:  # a speaker is wholly on one side
        assert len(records["train"]) == 2
        assert answers["train"] in ({*TEXTS[:2]}, {*TEXTS[2:]})
    codes = [json.loads(line)["codes"] for line in (out / "codes.jsonl").read_text().splitlines()]
    assert sorted(map(len, codes)) == [7, 8, 9, 10]  # 80 ms each: 0.5, 0.6, 0.7 and 0.8 s
