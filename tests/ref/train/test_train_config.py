"""The configuration of a training run: what is read, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.ref.train.conftest import settings
from ttt_ref.errors import ConfigError
from ttt_ref.train.cli import app
from ttt_ref.train.config import ModelSection, TrainConfig, from_mapping, read_config
from ttt_ref.train.start import make_start

EXAMPLE = Path(__file__).parents[3] / "ttt_ref" / "train" / "example.toml"


def test_the_example_file_is_valid_and_complete() -> None:
    config = read_config(EXAMPLE)
    text = EXAMPLE.read_text()
    for section in dataclasses.fields(config):
        value = getattr(config, section.name)
        keys = [f.name for f in dataclasses.fields(value)] if hasattr(value, "__slots__") else []
        if dataclasses.is_dataclass(value):
            keys = [f.name for f in dataclasses.fields(value)]
        for key in [*keys, section.name]:
            assert key in text, f"{section.name}.{key} is not explained in example.toml"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimiser": {}}, "unknown key 'optimiser'; did you mean 'optimizer'"),
        ({"optimizer": {"learnin_rate": 1.0}}, "unknown key 'optimizer.learnin_rate'; did you"),
        ({"optimizer": {"learning_rate": "high"}}, "learning_rate is 'high'; expected a number"),
        ({"seed": True}, "seed is True; expected a whole number"),
        ({"precision": "int8"}, "precision is 'int8'"),
        ({"data": []}, "no training data"),
        ({"schedule": {}}, "max_steps or max_minutes"),
        ({"objective": {"accumulation": "wrong"}}, "objective.accumulation is 'wrong'"),
        ({"model": {}}, "exactly one of `checkpoint`"),
        ({"batch": {"tokens_per_batch": 10}}, "at least one example"),
        (
            {"optimizer": {"momentum": 1.0}},
            "optimizer.momentum is 1.0; expected at least 0 and below 1",
        ),
        ({"optimizer": {"momentum": -0.1}}, "optimizer.momentum is -0.1"),
        ({"optimizer": {"momentum": float("nan")}}, "optimizer.momentum is nan"),
        ({"optimizer": {"beta2": 1.0}}, "optimizer.beta2 is 1.0"),
        ({"optimizer": {"ema_decay": 1.0}}, "optimizer.ema_decay is 1.0"),
        ({"optimizer": {"weight_decay": -1.0}}, "optimizer.weight_decay is -1.0"),
    ],
)
def test_wrong_configurations_are_refused(
    world: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(TrainConfig, settings(world, world) | change)


def test_missing_key_is_named(world: Path) -> None:
    values = settings(world, world)
    del values["output_dir"]
    with pytest.raises(ConfigError, match="missing key 'output_dir'"):
        from_mapping(TrainConfig, values)


def test_set_replaces_values() -> None:
    config = read_config(EXAMPLE, ["optimizer.learning_rate=5e-4", "seed=7", "output_dir=runs/x"])
    assert (config.optimizer.learning_rate, config.seed) == (5e-4, 7)
    assert config.output_dir == "runs/x"
    with pytest.raises(ConfigError, match="expected key=value"):
        read_config(EXAMPLE, ["seed"])


def test_the_command_tells_user_errors_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    for content in ("a = [", "bogus = 1", 'output_dir = "x"'):
        file.write_text(content)
        result = CliRunner().invoke(app, [str(file)])
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1
    assert CliRunner().invoke(app, [str(tmp_path / "none.toml")]).exit_code == 2


def test_fresh_weights_larger_than_memory_are_refused(world: Path) -> None:
    """In range, each number; together they were asked for until the machine gave up."""
    section = ModelSection(
        tokenizer=str(world), hidden_size=1 << 16, intermediate_size=1 << 17, num_hidden_layers=1024
    )
    with pytest.raises(ConfigError, match=r"GB of weights, this machine has"):
        make_start(section, seed=1)
