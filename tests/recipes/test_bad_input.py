"""What is wrong with a corpus or a tokenizer given to the recipe's programs is said in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from recipes.tiny import build, evaluate, synthesize, world
from recipes.tiny.corpus import Corpus
from tests.recipes.corpora import write_corpus
from ttt_ref.errors import EXIT_USER_ERROR

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "runtime" / "ttt_runtime" / "bundles" / "tiny"
CODEC = ROOT / "checkpoints" / "tiny" / "codec"

Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a program's function; it must leave with code 2 and one line, which is returned."""

    def call(main: Callable[..., None], *arguments: object) -> str:
        with pytest.raises(SystemExit) as caught:
            main(*arguments)
        out, err = capsys.readouterr()
        assert (caught.value.code, out, err.count("\n")) == (EXIT_USER_ERROR, "", 1)
        return err

    return call


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """A corpus of questions that the world has."""
    folder = write_corpus(tmp_path / "test", 4)
    edit(folder, lambda i, line: {**line, "text": world.exchanges()[i].question})
    return folder


def edit(folder: Path, change: Callable[[int, dict[str, object]], object]) -> None:
    manifest = folder / "manifest.jsonl"
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    manifest.write_text("".join(json.dumps(change(i, x)) + "\n" for i, x in enumerate(lines)))


def test_recordings_of_the_world_are_taken(asked: Path) -> None:
    assert len(evaluate.open_corpus(asked, None)) == 4
    assert len(evaluate.open_corpus(asked, 3)) == 3


def test_a_question_that_the_world_lacks(asked: Path, tmp_path: Path, refused: Refused) -> None:
    """It was a KeyError, after everything before it had been heard."""
    edit(asked, lambda i, line: {**line, "text": "sing a song"} if i == 2 else line)
    line = refused(evaluate.main, BUNDLE, asked, tmp_path / "report.json")
    assert "1 of the 4 texts" in line
    assert "'sing a song'" in line


def test_folders_that_are_no_corpus(asked: Path, tmp_path: Path, refused: Refused) -> None:
    report = tmp_path / "report.json"
    assert "is no speech corpus" in refused(evaluate.main, BUNDLE, tmp_path / "none", report)
    assert "is no speech corpus" in refused(evaluate.main, BUNDLE, tmp_path, report)
    (asked / "audio.i16").write_bytes(b"\0")
    assert "has 1 bytes" in refused(evaluate.main, BUNDLE, asked, report)
    (asked / "manifest.jsonl").write_text("\n")
    (asked / "audio.i16").write_bytes(b"\0\0")
    assert "holds no recording" in refused(evaluate.main, BUNDLE, asked, report)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (b'{"id": "u0", ', "line 2"),
        (b"[1]", "not a table"),
        (b"\xff\xfe", "line 2"),
        (b"{}", "`id` is None, expected str"),
        ({"samples": "many"}, "`samples` is 'many', expected int"),
        ({"samples": 0}, "0 samples"),
        ({"offset": -1}, "from -1 on"),
        ({"text": None}, "`text` is None"),
    ],
)
def test_a_broken_line(
    asked: Path, tmp_path: Path, refused: Refused, line: bytes | dict[str, object], part: str
) -> None:
    manifest = asked / "manifest.jsonl"
    lines = manifest.read_bytes().splitlines()
    if isinstance(line, dict):
        line = json.dumps({**json.loads(lines[1]), **line}).encode()
    manifest.write_bytes(b"\n".join([lines[0], line, *lines[2:]]))
    told = refused(evaluate.main, BUNDLE, asked, tmp_path / "report.json")
    assert part in told
    assert "manifest.jsonl line 2" in told


def test_a_text_may_hold_other_separators(asked: Path) -> None:
    manifest = asked / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace('"u0"', '"u\u2028 0"'))
    assert Corpus(asked).utterances[0].id == "u\u2028 0"


def test_a_report_that_cannot_be_written_is_told_first(
    asked: Path, tmp_path: Path, refused: Refused
) -> None:
    report = tmp_path / "missing" / "report.json"
    assert "missing" in refused(evaluate.main, tmp_path / "no bundle", asked, report)


@pytest.mark.parametrize("workers", [0, -1, 10**6])
def test_a_senseless_number_of_workers_is_told(
    tmp_path: Path, refused: Refused, workers: int
) -> None:
    line = refused(synthesize.main, "teacher", tmp_path / "out", workers, 1)
    assert f"{workers} worker processes; expected 1 .." in line


def test_an_unknown_approximation_is_told(asked: Path, tmp_path: Path, refused: Refused) -> None:
    report = tmp_path / "report.json"
    line = refused(evaluate.main, BUNDLE, asked, report, None, None, ["speedy"])
    assert "unknown fast option 'speedy'" in line
    assert not report.exists()


def test_words_of_an_earlier_model(asked: Path, tmp_path: Path, refused: Refused) -> None:
    """A missing folder was a bare Exception of the tokenizers library."""
    words, out = tmp_path / "words", tmp_path / "out"

    def told() -> str:
        return refused(build.main, asked, CODEC, out, 1, 0, words)

    assert "no tokenizer in" in told()
    words.mkdir()
    (words / "tokenizer.json").write_text("{")
    assert "cannot be read" in told()
    golden = ROOT / "tests" / "golden" / "ttt" / "checkpoints" / "tiny-tied" / "tokenizer.json"
    shutil.copyfile(golden, words / "tokenizer.json")
    assert "tokens of a codec of 729 codes" in told()
    assert not out.exists()
