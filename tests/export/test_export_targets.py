"""``ttt-export --target``: what it leaves open is chosen, what cannot run is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ttt_export.cli import app
from ttt_quant.recipe import ENGINES, PRECISIONS, default_recipe
from ttt_ref.errors import ConfigError
from ttt_runtime.bundle.basic_spec import is_basic
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.machine.targets import TARGETS, Choice, choose


def test_a_bundle_for_jetpack_6(tmp_path: Path, golden_checkpoints: list[Path]) -> None:
    out = tmp_path / "bundle"
    arguments = ["--target", "jetson-orin-jp6", "--no-engines", "--cache-rows", "160"]
    gates = ["--max-kl", "1e9", "--min-agreement", "0"]
    done = CliRunner().invoke(app, ["-m", str(golden_checkpoints[0]), *arguments, *gates, str(out)])
    assert done.exit_code == 0, done.output
    bundle = Bundle.open(out)
    assert (bundle.config.engine, bundle.config.precision) == ("tensorrt", "int4")
    assert all(is_basic(entry.spec) for entry in bundle.config.graphs.values())
    assert json.loads((out / "ttt_config.json").read_text())["made_from"]["target"] == (
        "jetson-orin-jp6"
    )


def test_an_impossible_pair_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    arguments = ["--target", "raspberry-pi-5", "-e", "cuda", "-m", str(tmp_path / "none")]
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "out")])
    assert isinstance(done.exception, ConfigError)
    assert str(done.exception).endswith("the nearest that it can is -p int4 -e cpu --form standard")


def test_without_a_target_the_old_defaults_stand(
    tmp_path: Path, golden_checkpoints: list[Path]
) -> None:
    done = CliRunner().invoke(app, ["-m", str(golden_checkpoints[0]), str(tmp_path / "bundle")])
    assert done.exit_code == 0, done.output
    config = Bundle.open(tmp_path / "bundle").config
    assert (config.engine, config.precision) == ("cpu", "fp32")


@pytest.mark.parametrize("option", ["--target", "-p", "-e", "--form"])
def test_help_names_the_option(option: str) -> None:
    assert option in CliRunner().invoke(app, ["--help"]).output


@pytest.mark.parametrize("name", list(TARGETS))
def test_every_pair_of_the_table_can_be_exported(name: str) -> None:
    for way in TARGETS[name].ways:
        assert way.engine in ENGINES
        assert set(way.precisions) <= set(PRECISIONS)
        for precision in way.precisions:
            default_recipe(precision, way.engine).check_engine(way.engine)
            for form in way.forms:
                made = choose(TARGETS[name], precision, way.engine, form)
                assert made == Choice(precision, way.engine, form)
