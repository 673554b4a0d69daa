"""What every command of the project answers: `--version`, and help for `python -m PACKAGE`."""

import subprocess
import sys
import tomllib
from importlib.metadata import version

import pytest

from tests.test_architecture import ROOT

SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_every_command_has_a_version(script):
    module, _, function = SCRIPTS[script].partition(":")
    code = f"import sys; sys.argv = [{script!r}, '--version']; import {module} as m; m.{function}()"
    done = run("-c", code)
    assert (done.returncode, done.stdout) == (0, f"ttt-edge {version('ttt-edge')}\n"), done.stderr


@pytest.mark.parametrize(
    ("package", "says"),
    [
        ("ttt_runtime", "Hear a question"),
        ("ttt_export", "checkpoint"),
        ("ttt_ref", "Train a Text-to-Talk model"),
    ],
)
def test_a_package_answers_with_the_help_of_its_main_command(package, says):
    """`python -m ttt_runtime` was "No module named ttt_runtime.__main__"."""
    done = run("-m", package)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
    assert "--version" in done.stdout
