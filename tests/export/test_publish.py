"""A bundle is published whole or not at all, and what is published needs no torch."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ttt_export.cli import main
from ttt_export.export import export_checkpoint
from ttt_export.options import ExportOptions
from ttt_export.writer import GraphWriter
from ttt_quant.report import GateError
from ttt_ref.config import GenerationConfig
from ttt_ref.errors import BundleError
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.decode.engine import SpeechEngine

ROOT = Path(__file__).parents[2]

WITHOUT_TORCH = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "onnx", "safetensors"):
            raise ImportError(f"{name} is not on the device")

sys.meta_path.insert(0, Block())
from ttt_ref.config import GenerationConfig
from ttt_runtime.decode.engine import SpeechEngine
import json
config = GenerationConfig.from_dict(json.loads(sys.argv[2]))
engine = SpeechEngine.from_bundle(sys.argv[1], threads=1, capacity=256)
print(json.dumps(engine.generate_ids(json.loads(sys.argv[3]), config)))
"""


def run_cli(capsys, *args: str) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ttt-export", *args])
        with pytest.raises(SystemExit) as exit_:
            main()
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out, captured.err


def prompt_of(layout) -> list[int]:
    codes = [layout.code_to_id(n % layout.num_codes) for n in range(9)]
    return [layout.im_start_id, 5, 6, layout.begin_of_audio_id, *codes, layout.end_of_audio_id]


def test_round_trip_without_torch(tied, exported):
    path = exported(tied).path
    config = GenerationConfig(
        max_gen_len=24, diffusion_steps=4, diffusion_gen_length=8, block_length=4
    )
    prompt = prompt_of(Bundle.open(path).config.layout)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            WITHOUT_TORCH,
            str(path),
            json.dumps(config.to_dict()),
            json.dumps(prompt),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'runtime'}{os.pathsep}{ROOT}"},
    )
    assert done.returncode == 0, done.stderr
    ids = json.loads(done.stdout)
    assert ids
    assert ids == SpeechEngine.from_bundle(path, threads=1).generate_ids(prompt, config)


def test_bundle_describes_itself(tied, exported):
    result = exported(tied)
    config = Bundle.open(result.path, verify="hashes").config
    assert config.precision == "fp32"
    assert config.engine == "cpu"
    assert set(config.presets) == {"script", "paper"}
    assert config.made_from["checkpoint"] == tied.name
    assert str(tied.parent) not in (result.path / "ttt_config.json").read_text()
    report = json.loads((result.path / "export_report.json").read_text())
    assert report["failures"] == []
    assert report["text"]["agreement"] == 1.0
    assert {"decoder.onnx", "decoder.onnx.data"} <= set(report["file_bytes"])


def test_own_presets_and_prompts_are_carried(tied, tmp_path):
    import shutil

    folder = tmp_path / "own"
    shutil.copytree(tied, folder)
    config = json.loads((folder / "config.json").read_text())
    config["ttt_presets"] = {"quick": {"max_gen_len": 99, "block_length": 26}}
    config["ttt_prompts"] = {"system": {"answer": "Be brief."}, "transcript_first": True}
    (folder / "config.json").chmod(0o644)
    (folder / "config.json").write_text(json.dumps(config))
    export_checkpoint(folder, tmp_path / "out")
    bundle = Bundle.open(tmp_path / "out").config
    assert bundle.presets["quick"].max_gen_len == 99
    assert bundle.prompts["system"]["answer"] == "Be brief."


def test_gate_keeps_a_bad_export_back(tied, tmp_path):
    out = tmp_path / "deep" / "out"
    with pytest.raises(GateError) as caught:
        export_checkpoint(
            tied, out, options=ExportOptions(precision="int4", max_kl=1e-6, min_agreement=0.0)
        )
    assert list(out.parent.iterdir()) == []
    assert "text KL" in str(caught.value)
    assert caught.value.report.text.count > 100


def test_command_line(tied, tmp_path, capsys):
    out, report = tmp_path / "out", tmp_path / "report.json"
    code, said, progress = run_cli(
        capsys, "-m", str(tied), "-p", "int8", str(out), "--report", str(report), "--seed", "3"
    )
    assert code == 0, progress
    assert "next text token" in said
    assert "checks passed" in said
    assert Bundle.open(out).config.precision == "int8"
    assert json.loads(report.read_text())["recipe"] == "int8-cpu"
    before = (out / "ttt_config.json").read_bytes()
    code, _, error = run_cli(capsys, "-m", str(tied), str(out))
    assert code == 2
    assert error.count("error:") == 1
    assert "--force" in error
    assert (out / "ttt_config.json").read_bytes() == before
    code, _, _ = run_cli(capsys, "-m", str(tied), "-p", "fp16", str(out), "--force")
    assert code == 0
    assert Bundle.open(out).config.precision == "fp16"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "report.json"]


def test_force_replaces_bundles_only(tied, tmp_path):
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter1.txt").write_text("words")
    with pytest.raises(BundleError):
        export_checkpoint(tied, precious, options=ExportOptions(force=True))
    assert (precious / "chapter1.txt").read_text() == "words"
    assert [p.name for p in tmp_path.iterdir()] == ["thesis"]


def test_engines_can_be_left_to_the_device(tied, tmp_path, capsys, monkeypatch):
    """--no-engines was read and then forgotten: the builder ran all the same."""
    from ttt_export import export

    def forbidden(*_, **__):
        raise AssertionError("an engine was to be built")

    for name in ("check_builder", "build_graph_engines"):
        monkeypatch.setattr(export, name, forbidden)
    out = tmp_path / "out"
    words = ["-p", "fp16", "-e", "tensorrt", "--no-engines", "--cache-rows", "192"]
    code, _, error = run_cli(capsys, "-m", str(tied), str(out), *words)
    assert code == 0, error
    bundle = Bundle.open(out)
    assert bundle.config.engine == "tensorrt"
    assert not (out / "engines").exists()
    assert bundle.graph("decoder").spec.input("past_k.0").shape[2] == 192


def test_gate_error_prints_the_table(tied, tmp_path, capsys):
    code, said, error = run_cli(
        capsys, "-m", str(tied), "-p", "int4", str(tmp_path / "out"), "--max-kl", "0"
    )
    assert code == 2
    assert said == ""
    assert "revealed speech token" in error
    assert error.strip().splitlines()[-1].startswith("error: the export is not published")
    assert list(tmp_path.iterdir()) == []


def test_plan_memory_writes_nothing(tied, tmp_path, capsys):
    code, said, _ = run_cli(capsys, "-m", str(tied), str(tmp_path / "out"), "--plan-memory")
    assert code == 0
    assert "peak resident memory" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--precision=fp64", "--engine=tpu", "--no-such-option"])
def test_wrong_options_on_the_command_line(tied, tmp_path, capsys, option):
    code, _, error = run_cli(capsys, "-m", str(tied), str(tmp_path / "out"), option)
    assert code == 2
    assert len(error.strip().splitlines()) == 1
    assert "Traceback" not in error


def test_disk_full(tied, tmp_path, monkeypatch, capsys):
    """The device fills up in the middle of the weights."""
    real, written = GraphWriter.weight, []

    def weight(self, name, dtype, shape, pieces):
        written.append(name)
        if len(written) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, name, dtype, shape, pieces)

    monkeypatch.setattr(GraphWriter, "weight", weight)
    code, _, error = run_cli(capsys, "-m", str(tied), str(tmp_path / "out"))
    assert code == 2
    assert "no space left" in error.strip().splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def can_mount(folder: Path, size: str) -> bool:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def test_disk_really_full(tied, tmp_path, capsys):
    """A file system of 300 kB where mounting is permitted; where not, a limit on file size."""
    small = tmp_path / "small"
    small.mkdir()
    if can_mount(small, "300k"):
        try:
            code, _, error = run_cli(capsys, "-m", str(tied), str(small / "out"))
            assert code == 2
            assert "no space left" in error.strip().splitlines()[-1]
            assert list(small.iterdir()) == []
        finally:
            subprocess.run(["umount", str(small)], check=True)
        return
    script = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
        "from ttt_export.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "-m", str(tied), str(small / "out")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert list(small.iterdir()) == []


def test_read_only_target(tied, tmp_path, monkeypatch, capsys):
    """Root may write anywhere, so the refusal of the system is played."""
    make = os.mkdir

    def denied(path, *more, **named):
        if os.path.basename(path).startswith(".out."):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        make(path, *more, **named)

    monkeypatch.setattr(os, "mkdir", denied)
    code, _, error = run_cli(capsys, "-m", str(tied), str(tmp_path / "out"))
    assert code == 2
    assert "permission denied" in error.strip().splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_really_read_only_target(tied, tmp_path, capsys):
    """A file system mounted read-only where mounting is permitted; where not, a mode without w."""
    closed = tmp_path / "closed"
    closed.mkdir()
    mounted = can_mount(closed, "1m,ro")
    if not mounted and os.geteuid() == 0:
        pytest.skip("root may write anywhere and may not mount here")
    if not mounted:
        closed.chmod(0o555)
    try:
        code, _, error = run_cli(capsys, "-m", str(tied), str(closed / "out"))
        assert code == 2
        assert "permission denied" in error.strip().splitlines()[-1]
        assert list(closed.iterdir()) == []
    finally:
        if mounted:
            subprocess.run(["umount", str(closed)], check=True)
        else:
            closed.chmod(0o755)


def test_ctrl_c_leaves_nothing(tied, tmp_path, monkeypatch, capsys):
    from ttt_export import export

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "check_written", interrupt)
    code, _, error = run_cli(capsys, "-m", str(tied), str(tmp_path / "out"))
    assert code == 130
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_large_models_are_checked_layer_by_layer(tied, tmp_path, monkeypatch):
    """The path that a 3B model takes: one layer in memory at a time, fewer sequences."""
    monkeypatch.setattr("ttt_export.executors.WHOLE_BYTES", 0)
    result = export_checkpoint(tied, tmp_path / "out")
    assert result.report.sequences.startswith("4 ")
    assert result.report.failures() == []
    assert len(result.checks) == 22
    assert not list((tmp_path / "out").glob(".*"))
