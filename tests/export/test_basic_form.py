"""The form of basic operators gives the numbers and the ids of the standard one."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.export.test_golden_graphs import all_logits
from ttt_export.export import export_checkpoint
from ttt_export.options import ExportOptions
from ttt_export.tensorrt.operators import check_operators
from ttt_ref.config import GenerationConfig
from ttt_ref.errors import ConfigError, DeviceError, ExportError
from ttt_runtime.backends.ort import session
from ttt_runtime.backends.ort.runner import OrtRunner
from ttt_runtime.backends.ort.session import require_onnxruntime
from ttt_runtime.bundle.basic_spec import BASIC, OPERATORS, is_basic
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.decode.engine import SpeechEngine

TOLERANCE = 1e-4
Exported = Callable[..., Bundle]


@pytest.fixture(scope="module")
def basic(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Return a function that exports a checkpoint in the basic form, once for each choice."""
    folder = tmp_path_factory.mktemp("basic")

    @lru_cache(maxsize=16)
    def export(
        checkpoint: Path, precision: str = "fp32", engine: str = "cpu", cache: str | None = None
    ) -> Bundle:
        out = folder / str(export.cache_info().currsize)
        options = ExportOptions(
            precision=precision,
            engine=engine,
            form=BASIC,
            cache=cache,
            cache_rows=160 if engine == "tensorrt" else None,
            engines=False,
            max_kl=1e9,
            min_agreement=0.0,
        )
        return Bundle.open(export_checkpoint(checkpoint, out, options=options).path)

    return export


@lru_cache(maxsize=4)
def poisoned(path: Path) -> OrtRunner:
    return OrtRunner.from_bundle(
        Bundle.open(path), threads=1, capacity=512, bucket_rows=1, poison=True
    )


def test_golden_logits(logits_case: Any, basic: Exported) -> None:
    runner = poisoned(basic(logits_case.checkpoint).path)
    ids = logits_case["input_ids"]
    lengths = [ids.shape[1]] * len(ids)
    if "attention_mask" in logits_case:
        lengths = [int(row.sum()) for row in logits_case["attention_mask"].astype(bool)]
    for row, length in enumerate(lengths):
        got = all_logits(runner, ids[row, :length].tolist())
        for mode in logits_case.args["mode"]:
            want = logits_case[f"logits_{mode}"][row, :length]
            np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE)


def test_golden_generation(generation_case: Any, basic: Exported) -> None:
    bundle = basic(generation_case.checkpoint)
    speech = SpeechEngine.from_bundle(bundle.path, threads=1, capacity=512)
    prompt = generation_case["prompt_ids"].tolist()
    new_ids = speech.generate_ids(prompt, GenerationConfig.from_dict(generation_case.args))
    assert prompt + new_ids == generation_case["output_ids"].tolist()


@pytest.mark.parametrize(
    ("precision", "engine", "cache", "opset"),
    [
        ("fp32", "cpu", None, 20),
        ("fp32", "cpu", "fp16", 20),
        ("fp16", "cuda", None, 20),
        ("bf16", "tensorrt", None, 20),
        ("int8", "tensorrt", None, 20),  # a scale for each column, no blocks
        ("int8", "cpu", None, 21),
        ("int4", "tensorrt", None, 21),
        ("int4", "cpu", None, 21),
    ],
)
def test_every_operator_and_type_is_in_the_parsers_table(
    basic: Exported,
    golden_checkpoints: list[Path],
    precision: str,
    engine: str,
    cache: str | None,
    opset: int,
) -> None:
    bundle = basic(golden_checkpoints[0], precision, engine, cache)
    for name, entry in bundle.config.graphs.items():
        assert is_basic(entry.spec)
        model = onnx.load(str(bundle.file(entry.file)), load_external_data=False)
        check_operators(model, name)
        known = {"decoder": (opset,), "text_head": (20, 21), "speech_head": (20, 21)}[name]
        assert [o.version for o in model.opset_import] in [[number] for number in known]


def test_standard_graphs_are_refused_by_the_same_check(
    exported: Any, golden_checkpoints: list[Path]
) -> None:
    path = exported(golden_checkpoints[0]).path
    model = onnx.load(str(path / "decoder.onnx"), load_external_data=False)
    with pytest.raises(ExportError, match=r"does not take node .* \(RMSNormalization\)"):
        check_operators(model, "decoder")


def test_an_int8_cache_is_refused_before_a_board_would(
    basic: Exported, golden_checkpoints: list[Path]
) -> None:
    with pytest.raises(ExportError, match=r"past_k\.0 is int8"):
        basic(golden_checkpoints[0], "fp32", "cpu", "int8")


def test_unknown_forms_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected one of standard, basic"):
        ExportOptions(form="plain")


def test_an_old_onnxruntime_takes_the_basic_form_only(
    basic: Exported,
    exported: Any,
    golden_checkpoints: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Old:
        __version__ = "1.20.1"

    monkeypatch.setattr(session, "import_onnxruntime", lambda: Old)
    specs = [
        Bundle.open(path).graph("decoder").spec
        for path in (basic(golden_checkpoints[0]).path, exported(golden_checkpoints[0]).path)
    ]
    assert specs[0].attributes[OPERATORS] == BASIC
    require_onnxruntime(specs[0])
    with pytest.raises(DeviceError, match=r"onnxruntime 1\.20\.1 found, 1\.31 needed") as caught:
        require_onnxruntime(specs[1])
    assert "--form basic" in str(caught.value)
    Old.__version__ = "1.19.2"
    with pytest.raises(DeviceError, match=r"1\.19\.2 found, 1\.20 needed"):
        require_onnxruntime(specs[0])
