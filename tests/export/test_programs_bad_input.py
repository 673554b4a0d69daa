"""The measuring programs tell a mistake in one line, before the first long export."""

from __future__ import annotations

import json
import sys

import pytest

from ttt_export import gpu_report, measure, quality_table
from ttt_export.quality_table import HEARD_KEYS, read_kept
from ttt_ref.command_line import run_app
from ttt_ref.errors import ExportError


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run a program; it must leave with code 2 and one line, which is returned."""

    def call(program, *arguments):
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            run_app(program.app)
        out, err = capsys.readouterr()
        assert (caught.value.code, out, err.count("\n")) == (2, "", 1), err
        return err

    return call


@pytest.fixture
def nothing_is_exported(monkeypatch):
    monkeypatch.setattr(measure, "measure_export", None)
    monkeypatch.setattr(quality_table, "measure_row", None)


@pytest.mark.parametrize(
    "line", [b"x", b"[1]", b'{"a": 1}', b"\xff\xfe", b'{"checkpoint": "m"}', b"null", b"WORDS"]
)
@pytest.mark.usefixtures("nothing_is_exported")
def test_a_broken_file_of_results(tied, tmp_path, refused, line):
    """Each of these was a traceback."""
    row = dict.fromkeys(measure.Measured.__dataclass_fields__, 1)
    good = json.dumps(row).encode()
    if line == b"WORDS":
        line = json.dumps({**row, "peak_bytes": "many"}).encode()
    results = tmp_path / "results"
    results.write_bytes(good + b"\n" + line + b"\n")
    told = refused(measure, tied, "--folder", tmp_path, "--results", results)
    assert "results line 2 is no measurement" in told
    results.write_bytes(good + b"\n")
    assert measure.read_results(results) == [measure.Measured(**row)]


@pytest.mark.usefixtures("nothing_is_exported")
def test_places_of_a_measurement(tied, tmp_path, refused):
    """A file that could not be written was reported after the first export."""
    here = ("--folder", tmp_path)
    assert "is a folder" in refused(measure, tied, *here, "--results", tmp_path)
    missing = tmp_path / "none"
    assert "no such file" in refused(measure, tied, *here, "--results", missing / "rows")
    assert "no such file" in refused(measure, tied, "--folder", missing)
    assert "no checkpoint folder" in refused(measure, tied, missing, *here)
    assert "no config.json" in refused(measure, tied, tmp_path, *here)
    assert "'int3'" in refused(measure, tied, "-p", "int4", "-p", "int3", *here)
    assert "'tpu'" in refused(measure, tied, "-e", "tpu", *here)


@pytest.mark.usefixtures("nothing_is_exported")
def test_places_of_a_quality_table(tied, tmp_path, refused):
    missing, folder = tmp_path / "none", tmp_path / "rows"
    assert "no checkpoint folder" in refused(quality_table, missing, folder)
    assert "no config.json" in refused(quality_table, tmp_path, folder)
    assert "no row is called" in refused(quality_table, tied, folder, "--only", "fp99")
    assert "is no speech corpus" in refused(quality_table, tied, folder, "--data", missing)
    assert not folder.exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", "{}", '{"row": 1}'])
def test_a_broken_kept_row(tmp_path, text):
    file = tmp_path / "fp32.heard.json"
    file.write_text(text)
    with pytest.raises(ExportError, match=r"fp32\.heard\.json is no row .* remove it"):
        read_kept(file, HEARD_KEYS)
    file.write_text('{"rows": []}')
    assert read_kept(file, HEARD_KEYS) == {"rows": []}


def test_what_a_gpu_report_could_not_do(tmp_path, refused, monkeypatch):
    monkeypatch.setattr(gpu_report, "probe_gpus", None)  # all of it is reported before
    out, missing = tmp_path / "out.json", tmp_path / "none"
    assert "unknown device 'gpu'" in refused(gpu_report, out, "--devices", "cuda,gpu")
    assert "name some of cuda" in refused(gpu_report, out, "--devices", ",")
    assert "no such file" in refused(gpu_report, missing / "out.json")
    assert "no such file" in refused(gpu_report, out, "--work", missing)
