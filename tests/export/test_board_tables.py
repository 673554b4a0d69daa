"""docs/boards.md says what the planner and the roofline say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ttt_export.board_tables import (
    CODEC_BYTES,
    Sized,
    estimate_ms,
    memory_table,
    sized,
    speed_table,
)
from ttt_export.boards import BOARDS, SHARES, Board
from ttt_export.export import export_checkpoint
from ttt_export.options import ExportOptions
from ttt_ref.random_weights import LIKES, random_checkpoint
from ttt_runtime.backends.requirements import PROGRAM_BYTES, needed_memory
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.machine.targets import TARGETS

DOCS = (Path(__file__).parents[2] / "docs" / "boards.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("table", [memory_table, speed_table])
def test_the_documentation_shows_what_the_program_prints(table) -> None:  # type: ignore[no-untyped-def]
    assert "\n".join(table()) in DOCS, "print it: python -m ttt_export.board_tables"


def test_the_documentation_says_of_every_target_what_is_known() -> None:
    known = DOCS.partition("## What is known")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([\w-]+)` \|(.*)\|$", known, re.MULTILINE)
    assert [name for name, _ in rows] == list(TARGETS)
    for name, cells in rows:
        emulated = cells.split("|")[1].strip()
        assert (emulated == "-") == (TARGETS[name].machine == "x86_64"), name


def test_every_board_is_of_a_target_that_has_its_engine() -> None:
    for board in BOARDS:
        way = TARGETS[board.target].way(board.engine)
        assert way is not None
        assert board.precision in way.precisions


@pytest.mark.parametrize(
    ("bandwidth", "peak", "expected_ms", "limit"),
    [(10, 1e6, 1000 * 1.0, "memory"), (1e6, 1.0, 1000 * 2 * 27 / 10, "products")],
)
def test_the_longer_of_reading_and_multiplying_is_taken(
    monkeypatch: pytest.MonkeyPatch, bandwidth: float, peak: float, expected_ms: float, limit: str
) -> None:
    """10 giga bytes of weights at 10 GB/s; 10**11 weights, 27 rows, at 10**12 operations."""
    monkeypatch.setattr("ttt_export.board_tables.CONTEXT_ROWS", 0)
    monkeypatch.setattr("ttt_export.board_tables._parameters", lambda model: 10**11)
    shares = SHARES["rtx"]
    model = Sized(LIKES["tiny"].model_config(), 10**10, 0, 0)
    board = Board("b", "t", "rtx", "int4", bandwidth, peak, "fp16")
    found, what = estimate_ms(board, model, 27)
    share = shares.bandwidth if limit == "memory" else shares.products
    assert (found, what) == (pytest.approx(expected_ms / share), limit)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_the_table_is_the_check_that_refuses(tmp_path: Path, precision: str) -> None:
    checkpoint = tmp_path / "checkpoint"
    random_checkpoint(checkpoint, "tiny")
    options = ExportOptions(precision=precision, max_kl=1e9, min_agreement=0.0)
    path = export_checkpoint(checkpoint, tmp_path / "bundle", options=options).path
    copies = 2 if precision == "fp16" else 1
    codec = copies * CODEC_BYTES["fp16"]
    expected = sized("tiny", precision, "cpu").memory_bytes - codec - PROGRAM_BYTES
    bundle = Bundle.open(path)
    # Nodes and tokenizer weigh something beside weights as few as these.
    files = bundle.config.files.items()
    small = sum(
        record.bytes * (copies if name.endswith(".onnx") else 1)
        for name, record in files
        if not name.endswith((".data", ".bin"))
    )
    found = needed_memory(bundle) - PROGRAM_BYTES - small
    assert found == pytest.approx(expected, rel=0.05)
