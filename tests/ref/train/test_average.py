"""The mean of checkpoints is their mean, and only of checkpoints of one model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from ttt_ref import checkpoint
from ttt_ref.errors import CheckpointError, ConfigError
from ttt_ref.model import TttModel
from ttt_ref.train import average
from ttt_ref.train.average import average as average_checkpoints

ROOT = Path(__file__).parents[3]
TIED = ROOT / "tests" / "golden" / "ttt" / "checkpoints" / "tiny-tied"


def shifted(out: Path, source: Path, by: float, **config: object) -> Path:
    """Write a checkpoint with all weights moved, and keys of its own in config.json."""
    loaded = checkpoint.load(source, dtype=None)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter += by
    extra = {**checkpoint.read_config(source), **config}
    checkpoint.save(out, loaded.model, loaded.tokenizer, loaded.layout, extra_config=extra)
    return out


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with a head of its own."""
    loaded = checkpoint.load(TIED)
    model = TttModel(replace(loaded.model.config, tie_word_embeddings=False))
    out = tmp_path_factory.mktemp("untied") / "model"
    checkpoint.save(out, model, loaded.tokenizer, loaded.layout)
    return out


@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_is_the_mean_of_three(tied: bool, untied: Path, tmp_path: Path) -> None:
    """With a head of its own and with one that is its embedding."""
    source = TIED if tied else untied
    paths = [shifted(tmp_path / str(i), source, by, of=i) for i, by in enumerate((0.0, 0.3, 0.9))]
    average_checkpoints(paths, tmp_path / "mean")
    mean = checkpoint.load(tmp_path / "mean").model.state_dict()
    for name, value in checkpoint.load(source).model.state_dict().items():
        assert torch.allclose(mean[name], value + 0.4, atol=2e-6), name
    assert checkpoint.read_config(tmp_path / "mean")["of"] == 0


def test_all_files_of_the_tokenizer_are_the_firsts(tmp_path: Path) -> None:
    first = shifted(tmp_path / "first", TIED, 0.1)
    (first / "tokenizer_config.json").write_text('{"of": "first"}')
    average_checkpoints([first, TIED], tmp_path / "mean")
    assert (tmp_path / "mean" / "tokenizer_config.json").read_text() == '{"of": "first"}'


def test_a_mean_is_rounded_once_to_the_dtype_that_is_asked_for(tmp_path: Path) -> None:
    paths = [shifted(tmp_path / str(by), TIED, by) for by in (0.0, 0.001)]
    average_checkpoints(paths, tmp_path / "half", dtype="float16")
    half = checkpoint.load(tmp_path / "half", dtype=None).model.state_dict()
    first, second = (checkpoint.load(path).model.state_dict() for path in paths)
    for name, value in half.items():
        assert value.dtype == torch.float16
        assert torch.equal(value, ((first[name] + second[name]) / 2).half()), name
    assert checkpoint.read_config(tmp_path / "half")["torch_dtype"] == "float16"
    large = shifted(tmp_path / "large", TIED, 1e6)
    with pytest.raises(CheckpointError, match="which float16 cannot hold"):
        average_checkpoints([TIED, large], tmp_path / "out", dtype="float16")
    with pytest.raises(ConfigError, match="choose one of float32"):
        average_checkpoints([TIED, TIED], tmp_path / "out", dtype="int4")
    assert not (tmp_path / "out").exists()


def test_what_is_another_model_is_refused_and_nothing_is_lost(untied: Path, tmp_path: Path) -> None:
    out = shifted(tmp_path / "out", TIED, 0.0, kept=True)
    with pytest.raises(CheckpointError, match="two or more"):
        average_checkpoints([TIED], out, overwrite=True)
    with pytest.raises(CheckpointError, match="differ in config"):
        average_checkpoints([TIED, untied], out, overwrite=True)
    with pytest.raises(CheckpointError, match="exists already"):
        average_checkpoints([TIED, TIED], out)
    other = shifted(tmp_path / "words", TIED, 0.0)
    file = other / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    one, two = sorted(vocabulary, key=vocabulary.__getitem__)[:2]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CheckpointError, match="differ in vocabulary"):
        average_checkpoints([TIED, other], out, overwrite=True)
    burst = shifted(tmp_path / "nan", TIED, float("nan"))
    with pytest.raises(CheckpointError, match="not finite"):
        average_checkpoints([TIED, burst], out, overwrite=True)
    assert checkpoint.read_config(out)["kept"] is True
    assert sorted(p.name for p in tmp_path.iterdir()) == ["nan", "out", "words"]


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    app = average.typer.Typer()
    app.command()(average.main)
    result = CliRunner().invoke(app, [str(tmp_path / "o"), str(TIED), str(tmp_path / "none")])
    assert result.exit_code == 2
    assert "no checkpoint folder" in result.output
    assert not list(tmp_path.iterdir())
    assert CliRunner().invoke(app, [str(tmp_path / "o"), str(TIED), str(TIED)]).exit_code == 0
