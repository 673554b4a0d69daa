"""Data files as people have them: other encodings, records without answers, codes of no codec."""

import errno
import json
import os
from pathlib import Path

import pytest

from tests.ref.train.conftest import configure, settings
from ttt_ref.data import read_records
from ttt_ref.errors import ConfigError, DataError, exit_on_error
from ttt_ref.train.config import TrainConfig, from_mapping
from ttt_ref.train.data import data_notes, open_data
from ttt_ref.train.start import Start
from ttt_ref.train.store import fingerprint
from ttt_ref.train.trainer import train


def open_lines(path: Path, world: Path, start: Start, *, skip_bad: bool = False, **batch: int):  # type: ignore[no-untyped-def]
    values = settings(world, path.parent / "run") | {
        "skip_bad": skip_bad,
        "data": [{"path": str(path)}],
        "batch": {"max_length": 256, "tokens_per_batch": 512, **batch},
    }
    config = from_mapping(TrainConfig, values)
    return open_data(config, start)[0][0], config


OK = {"messages": [{"role": "user", "content": "héllo"}, {"role": "assistant", "content": "there"}]}
NO_ANSWER = {"messages": [{"role": "user", "content": "hello"}]}
NO_SUCH_CODE = {
    "messages": [
        {"role": "user", "content": "say"},
        {"role": "assistant", "content": "<|audio_99999|>"},
    ]
}


def write_lines(path: Path, records: list[object], encoding: str = "utf-8") -> Path:
    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
    path.write_bytes(lines.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_utf16_jsonl_and_bom_jsonl_are_read(tmp_path: Path, encoding: str, suffix: str) -> None:
    """PowerShell writes UTF-16, others a mark before UTF-8: a traceback, and a Python hint."""
    path = write_lines(tmp_path / f"d.{suffix}", [OK], encoding)
    if suffix == "json":
        path.write_bytes(json.dumps([OK], ensure_ascii=False).encode(encoding))
    assert read_records(path) == [OK]


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_latin_1_is_refused_in_one_line(tmp_path: Path, suffix: str) -> None:
    """Was a traceback."""
    path = write_lines(tmp_path / f"d.{suffix}", [OK], "latin-1")
    with pytest.raises(DataError, match=r"is not UTF-8 text \(byte 0xe9\); save it as UTF-8"):
        read_records(path)
    path.write_bytes(json.dumps(OK).encode("utf-16")[:-1])
    with pytest.raises(DataError, match="is not UTF-16 text"):
        read_records(path)


def test_deep_and_huge_json_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    for text in ("[" * 100_000, '{"text": ' + "9" * 5000 + "}"):
        path.write_text(text + "\n")
        with pytest.raises(DataError, match="line 1 is not valid JSON"):
            read_records(path)


def test_no_answer_jsonl_is_told_and_refused_if_nothing_is_left(
    world: Path, start: Start, tmp_path: Path
) -> None:
    """It trained to the end with a loss of 0.000."""
    path = write_lines(tmp_path / "d.jsonl", [NO_ANSWER] * 3)
    with pytest.raises(DataError, match="nothing to learn; 3 of 3 examples have no answer"):
        open_lines(path, world, start)
    store, config = open_lines(write_lines(path, [NO_ANSWER, OK]), world, start)
    notes = data_notes([store], config.batch.max_length)
    assert notes == ["d: 1 of 2 examples have no answer"]


def test_answers_beyond_max_length_are_told(world: Path, start: Start, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "d.jsonl", [OK])
    with pytest.raises(DataError, match=r"begins behind the first 8 tokens \(batch.max_length\)"):
        open_lines(path, world, start, max_length=8, tokens_per_batch=8)


def test_no_such_code_jsonl_names_the_record(world: Path, start: Start, tmp_path: Path) -> None:
    """A code outside the code book became a dozen tokens of text."""
    path = write_lines(tmp_path / "d.jsonl", [OK, NO_SUCH_CODE])
    with pytest.raises(DataError, match=r"record 1: <\|audio_99999\|> is no speech code"):
        open_lines(path, world, start)


def test_skip_bad_passes_over_and_counts(world: Path, start: Start, tmp_path: Path) -> None:
    middle = [*OK["messages"], {"role": "system", "content": "x"}, *OK["messages"]]
    path = write_lines(tmp_path / "d.jsonl", [OK, NO_SUCH_CODE, [1], {"messages": middle}, OK])
    with path.open("a") as file:
        file.write("{broken\n")
    with pytest.raises(DataError):
        open_lines(path, world, start)
    for _ in range(2):  # the second time from the store
        store, config = open_lines(path, world, start, skip_bad=True)
        assert len(store) == 2
        notes = data_notes([store], config.batch.max_length)
        assert notes == ["d: 4 records that cannot be used left out"]
    with pytest.raises(DataError):  # that store is not the strict one's
        open_lines(path, world, start)
    bad = write_lines(path, [NO_SUCH_CODE])
    with pytest.raises(ConfigError, match="holds no examples \\(1 cannot be used"):
        open_lines(bad, world, start, skip_bad=True)


def test_every_file_that_decides_ids_names_the_store(world: Path, tmp_path: Path) -> None:
    """Changed merges reused a store of the old ids."""
    data = write_lines(tmp_path / "d.jsonl", [OK])
    seen = {fingerprint(data, tmp_path)}
    for name in ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer_config.json"):
        for text in ("{}", "{ }"):
            (tmp_path / name).write_text(text)
            seen.add(fingerprint(data, tmp_path))
    assert len(seen) == 9


def test_evaluation_at_the_last_step_runs_once(world: Path, tmp_path: Path) -> None:
    """It ran twice where the last step was one to evaluate at."""
    schedule = {"max_steps": 4, "warmup_steps": 1}
    config = configure(
        world, tmp_path / "run", schedule=schedule, evaluation={"every_steps": 2, "at_end": True}
    )
    result = train(config)
    assert "dev/text_loss" in result
    lines = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines if x["kind"] == "eval/dev"] == [2, 4]


def test_a_full_disk_names_the_target(capsys: pytest.CaptureFixture[str]) -> None:
    """Copying named the source file, which lies on another disk."""
    with pytest.raises(SystemExit), exit_on_error():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/in/vocab.json", None, "/out/x")
    line = capsys.readouterr().err
    assert "no space left on the device: /out/x;" in line
