"""A profiler without a model: toy bundles, the command line in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runtime.bundles import write_toy
from tests.runtime.toy import ToyModel, ToyRunner, toy_layout
from tests.runtime.toy_assistant import ToneDecoder, ToneTokenizer
from ttt_ref.command_line import run_app
from ttt_ref.config import GenerationConfig
from ttt_runtime.bundle.manifest import CodecEntry
from ttt_runtime.cli import profile_run
from ttt_runtime.cli.profile import app
from ttt_runtime.decode.engine import SpeechEngine
from ttt_runtime.profiler import bench
from ttt_runtime.profiler import compare as comparing

LAYOUT = toy_layout()
CONFIG = GenerationConfig(
    max_gen_len=3, diffusion_steps=4, diffusion_gen_length=8, block_length=4, cfg_scale=0.5
)
SHIPPED = Path(__file__).parents[3] / "runtime" / "ttt_runtime" / "bundles" / "tiny"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def from_bundle(cls, *_: object, exactness="exact", fast=None, **__: object):  # type: ignore[no-untyped-def]
        runner = ToyRunner(ToyModel(LAYOUT, 1), capacity=400)
        return cls(runner, LAYOUT, exactness="exact" if fast is None else "fast", fast=fast)

    monkeypatch.setattr(SpeechEngine, "from_bundle", classmethod(from_bundle))
    monkeypatch.setattr(bench, "load_codec", lambda *_, **__: (ToneTokenizer(), ToneDecoder()))
    for module in (profile_run, comparing):  # the pool would be this whole process's
        monkeypatch.setattr(module, "share_thread_pool", lambda: None)
    return write_toy(tmp_path / "toy", presets={"p": CONFIG}, codec=CodecEntry("builtin"))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `ttt-profile`; return its exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ttt-profile", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            run_app(app)
        captured = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, captured.out, captured.err

    return call
