"""Whole runs on a tiny world: learning, exact resume, Ctrl-C, several processes."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests.ref.train.conftest import configure, settings
from ttt_ref import checkpoint
from ttt_ref.errors import CheckpointError
from ttt_ref.train import state as run_state
from ttt_ref.train.cli import app
from ttt_ref.train.sampler import Sampler
from ttt_ref.train.trainer import Interrupted, train


def final_state(output: Path) -> dict[str, torch.Tensor]:
    return load_file(run_state.list_checkpoints(output / "checkpoints")[-1] / "model.safetensors")


def log_lines(output: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("tokens_per_s", None)
        line.pop("elapsed_s", None)
    return lines


def write_toml(path: Path, values: dict[str, Any]) -> Path:
    """Plain tables, strings, numbers, booleans and lists as TOML."""
    lines: list[str] = []
    tables: list[str] = []
    for key, value in values.items():
        if isinstance(value, dict):
            tables += [f"[{key}]"] + [f"{k} = {json.dumps(v)}" for k, v in value.items()]
        elif isinstance(value, list):
            for item in value:
                tables += [f"[[{key}]]"] + [f"{k} = {json.dumps(v)}" for k, v in item.items()]
        else:
            lines.append(f"{key} = {json.dumps(value)}")
    path.write_text("\n".join(lines + tables) + "\n", encoding="utf-8")
    assert tomllib.loads(path.read_text()) == values
    return path


def interrupt_at(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """Send this process a Ctrl-C while it fetches the given batch."""
    original = Sampler.next_batch
    calls = {"n": 0}

    def next_batch(self: Sampler) -> Any:
        calls["n"] += 1
        if calls["n"] == batch:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self)

    monkeypatch.setattr(Sampler, "next_batch", next_batch)


def test_it_learns_and_the_model_loads(world: Path, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "run", schedule={"max_steps": 60, "warmup_steps": 5})
    result = train(config)
    losses = [line["loss"] for line in log_lines(tmp_path / "run") if line["kind"] == "train"]
    assert len(losses) == 60
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    assert 0.3 < result["dev/clean_text_accuracy"] <= 1.0
    model, _, layout = checkpoint.load(tmp_path / "run" / "model")
    assert layout.num_codes == 27
    stored = final_state(tmp_path / "run")
    assert torch.equal(stored["model.model.norm.weight"], model.model.norm.weight)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_ctrl_c_then_resume_equals_the_uninterrupted_run(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Bit for bit: weights, average, optimizer and log, across a pool boundary."""
    optimizer = {"name": name, "learning_rate": 1e-2, "accumulation_steps": 2, "ema_decay": 0.9}
    more = {"optimizer": optimizer}
    augment = {"augment": {"user_code_flip": 0.2, "user_code_drop": 0.1, "user_code_repeat": 0.1}}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(configure(world, whole, **more, **augment))

    values = settings(world, cut) | more | augment
    file = write_toml(tmp_path / "run.toml", values)
    with monkeypatch.context() as patch:
        interrupt_at(patch, batch=6)  # within the third step
        stopped = CliRunner().invoke(app, [str(file)])
    assert stopped.exit_code == 130, stopped.output
    assert [p.name for p in run_state.list_checkpoints(cut / "checkpoints")] == ["step-00000003"]
    assert not (cut / "model").exists()
    resumed = CliRunner().invoke(app, [str(file), "--resume"])
    assert resumed.exit_code == 0, resumed.output

    for name in ("model.safetensors", "average-0.safetensors", "model/model.safetensors"):
        expected, found = (
            load_file(folder / "checkpoints" / "step-00000006" / name) for folder in (whole, cut)
        )
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            assert torch.equal(value, found[key]), (name, key)
    states = [
        torch.load(folder / "checkpoints" / "step-00000006" / "optimizer.bin")["state"]
        for folder in (whole, cut)
    ]
    assert all(torch.equal(states[0][i]["exp_avg_sq"], states[1][i]["exp_avg_sq"]) for i in (0, 1))
    assert log_lines(whole) == log_lines(cut)


def test_a_damaged_checkpoint_is_refused_in_one_line(world: Path, tmp_path: Path) -> None:
    values = settings(world, tmp_path / "run")
    file = write_toml(tmp_path / "run.toml", values)
    train(configure(world, tmp_path / "run", schedule={"max_steps": 2}))
    weights = tmp_path / "run" / "checkpoints" / "step-00000002" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    result = CliRunner().invoke(app, [str(file), "--resume"])
    assert result.exit_code == 2
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert "model.safetensors is damaged" in lines[0]
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"lost its file model\.safetensors"):
        run_state.read_run(weights.parent)
    (weights.parent / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        run_state.read_run(weights.parent)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", -5), ("step", float("inf")), ("step", 1.5), ("step", True), ("step", 10**400),
        ("elapsed_s", float("nan")), ("elapsed_s", -1), ("elapsed_s", "long"),
        ("processes", 0), ("files", {}), ("files", []), ("files", {"a": {"sha256": ""}}),
        ("files", {"a": {"bytes": -1, "sha256": ""}}), ("files", {"a": 5}),
        ("files", {"../a": {"bytes": 0, "sha256": ""}}),
        ("position", {}), ("position", []), ("position", {"cursors": 3}),
        ("position", {"cursors": [-1], "pool": 0, "batch": 0, "micro_step": 0}),
        ("position", {"cursors": [0], "pool": float("inf"), "batch": 0, "micro_step": 0}),
        ("position", {"cursors": [0], "pool": 0, "batch": 0}), ("config", 5),
    ],
)  # fmt: skip
def test_a_wrong_number_of_a_checkpoint_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    """Some ended in a traceback; a negative step and an empty table of files were accepted."""
    good = {
        "format": run_state.FORMAT, "step": 2, "elapsed_s": 1.5, "processes": 1, "config": {},
        "position": {"cursors": [4], "pool": 0, "batch": 1, "micro_step": 0},
        "files": {"a": {"bytes": 0, "sha256": hashlib.sha256().hexdigest()}},
    }  # fmt: skip
    folder = tmp_path / run_state.folder_name(2)
    folder.mkdir()
    (folder / "a").touch()
    (folder / "run.json").write_text(json.dumps(good))
    assert run_state.read_run(folder).step == 2
    (folder / "run.json").write_text(json.dumps(good | {key: value}))
    with pytest.raises(CheckpointError, match=r"run\.json") as caught:
        run_state.read_run(folder)
    assert len(str(caught.value)) < 600


def test_a_batch_that_the_data_does_not_have_is_refused(world: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    train(configure(world, output, schedule={"max_steps": 2}))
    file = run_state.list_checkpoints(output / "checkpoints")[-1] / "run.json"
    content = json.loads(file.read_text())
    content["position"]["batch"] = 10**6
    file.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="stands at batch 1000000 of a pool"):
        train(configure(world, output, schedule={"max_steps": 4}), resume=True)


def test_a_disk_that_fills_up_keeps_the_checkpoint_before(world: Path, tmp_path: Path) -> None:
    """torch's own message was a traceback of many lines, and named the hidden folder."""
    train(configure(world, tmp_path / "run", schedule={"max_steps": 1}))
    values = settings(world, tmp_path / "run") | {"schedule": {"max_steps": 2}}
    file = write_toml(tmp_path / "run.toml", values)
    code = (
        "import resource, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "from ttt_ref.train.cli import main\nmain()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(file), "--resume"], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    error = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(error) == 1
    assert "step-00000002 cannot be written" in error[0]
    names = [p.name for p in run_state.list_checkpoints(tmp_path / "run" / "checkpoints")]
    assert names == ["step-00000001"]


def test_a_second_run_does_not_write_over_the_first(world: Path, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "run", schedule={"max_steps": 1})
    train(config)
    with pytest.raises(CheckpointError, match="--resume"):
        train(config)


def test_old_checkpoints_go_and_leftovers_are_ignored(world: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    (output / "checkpoints" / ".step-00000009.tmp").mkdir(parents=True)
    train(configure(world, output, checkpoint={"every_steps": 2, "keep": 2}))
    names = [p.name for p in run_state.list_checkpoints(output / "checkpoints")]
    assert names == ["step-00000004", "step-00000006"]


def test_minutes_end_a_run(world: Path, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "run", schedule={"max_steps": 0, "max_minutes": 0.01})
    train(config)
    rates = [
        line["learning_rate"] for line in log_lines(tmp_path / "run") if line["kind"] == "train"
    ]
    rates = rates[2:-1]  # after the warm-up
    assert rates == sorted(rates, reverse=True)


def test_interrupt_is_a_keyboard_interrupt() -> None:
    assert issubclass(Interrupted, KeyboardInterrupt)


def test_two_processes_equal_one(world: Path, tmp_path: Path) -> None:
    """DDP over gloo, with an odd number of rows in some batches and accumulation."""
    optimizer = {"learning_rate": 1e-2, "accumulation_steps": 2}
    objective = {"unmasked_audio_prob": 0.2}
    one, two = tmp_path / "one", tmp_path / "two"
    train(configure(world, one, optimizer=optimizer, objective=objective))
    values = settings(world, two) | {"optimizer": optimizer, "objective": objective}
    file = write_toml(tmp_path / "two.toml", values)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "ttt_ref.train.cli", str(file)],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    expected, found = final_state(one), final_state(two)
    for key, value in expected.items():
        # AdamW divides by the size of the gradient, so where that is near nothing, rounding shows
        # as a share of the learning rate: one per cent of one step is allowed.
        difference = float((value - found[key]).abs().max())
        assert difference <= 0.01 * optimizer["learning_rate"], f"{key} differs by {difference}"
    lines = zip(log_lines(one), log_lines(two), strict=True)
    for a, b in lines:
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["text_accuracy"] == pytest.approx(b["text_accuracy"], abs=1e-6)
