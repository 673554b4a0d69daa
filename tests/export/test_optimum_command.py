"""`optimum-cli export ttt`: found by optimum, same options and answers as ttt-export."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from ttt_export.cli import app
from ttt_export.optimum_command import TttExportCommand, add_options

REPOSITORY = Path(__file__).parents[2]


def optimum_cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run optimum-cli as its console script does, with this working tree first on the path."""
    roots = [REPOSITORY / name for name in ("export", "quant", "runtime", ".")]
    path = os.pathsep.join(map(str, roots))
    return subprocess.run(
        [sys.executable, "-m", "optimum.commands.optimum_cli", "export", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    add_options(made)
    return made


def test_every_option_of_ttt_export_is_there(parser: argparse.ArgumentParser) -> None:
    for parameter in typer.main.get_command(app).params:
        flags = [*parameter.opts, *parameter.secondary_opts]
        if parameter.param_type_name == "argument" or flags == ["--help"]:
            continue
        for flag in flags:
            assert flag in parser._option_string_actions, flag


def test_words_go_on_as_they_were_typed(parser: argparse.ArgumentParser) -> None:
    line = "-m model -p int4 --engine rtx --no-engines --max-kl 0.5 out --force"
    words = parser.parse_args(line.split()).ttt_words
    assert sorted(words) == sorted(line.split())
    assert words[words.index("--max-kl") + 1] == "0.5"
    assert not parser.parse_args([]).ttt_words


def test_refusals_are_those_of_ttt_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["optimum-cli"])
    subparsers = argparse.ArgumentParser().add_subparsers()
    command = TttExportCommand(subparsers)
    missing, out = str(tmp_path / "missing"), str(tmp_path / "out")
    command.args = command.parser.parse_args(["-m", missing, "-p", "int4", out])
    with pytest.raises(SystemExit) as caught:
        command.run()
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no checkpoint folder at")
    assert error.count("\n") == 1


def test_optimum_finds_the_command_and_exports_a_bundle(tied: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    done = optimum_cli("ttt", "--model", tied, "--seed", "3", out)
    assert done.returncode == 0, done.stderr
    assert (out / "ttt_config.json").is_file()
    assert f"bundle: {out}" in done.stdout
