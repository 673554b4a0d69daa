"""Exporting the GLM-4-Voice codec into a bundle: precisions, gates, solver choice, loading."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.runtime.bundles import toy_config
from ttt_export.codec.glm4voice import export_glm4voice, graph_precisions
from ttt_export.codec.glm4voice_benchmark import benchmark
from ttt_export.codec.glm4voice_check import Gates
from ttt_export.codec.graph_work import gflop
from ttt_export.codec_export import CODEC_REPORT_FILE, find_codec
from ttt_ref.codec.glm4voice.random_weights import write_tokenizer
from ttt_ref.errors import BundleError, CheckpointError, CodecError, ExportError
from ttt_runtime.backends.ort.session import SessionSettings
from ttt_runtime.bundle.folder import Bundle, BundleWriter
from ttt_runtime.codec.factory import load_codec
from ttt_runtime.codec.glm4voice import graphs
from ttt_runtime.codec.glm4voice.load import load
from ttt_runtime.profiler.glm4voice.times import speechlike

TOKENS = np.arange(30) * 7 % 64


def publish(tiny_codec: Path, out: Path, precision: str = "fp32", engine: str = "cpu", **options):
    """Export into a bundle whose model is only claimed."""
    with BundleWriter(out) as writer:
        config = toy_config()
        for entry in config.graphs.values():
            writer.add_bytes(entry.file, b"no graph")
        writer.add_bytes(config.embeddings.file, bytes(config.embedding_bytes()))
        codec = export_glm4voice(
            tiny_codec / "tokenizer", tiny_codec / "decoder", writer, engine, precision, **options
        )
        writer.publish(toy_config(codec=codec))
    return Bundle.open(out, verify="hashes")


@pytest.mark.parametrize(
    ("precision", "engine"),
    [("fp32", "cpu"), ("fp16", "cpu"), ("int8", "cpu"), ("bf16", "cuda"), ("int4", "rtx")],
)
def test_every_precision_passes_its_gates_and_loads(
    tiny_codec, tmp_path, precision, engine
) -> None:
    bundle = publish(tiny_codec, tmp_path / "b", precision, engine, solver=(2, "euler"))
    report = json.loads((bundle.path / CODEC_REPORT_FILE).read_text())
    assert report["difference"]["token_agreement"] >= 0.85
    tokenizer, decoder = load(bundle, SessionSettings("cpu", 1))
    assert len(tokenizer.encode(speechlike(1.0))) == 13
    assert len(decoder.decode(TOKENS)) == 30 * 441 // 64 * 256
    for name in graphs.ALL:
        path = bundle.file(f"codec/{name}.onnx")
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(str(path), load_external_data=False)
        assert {opset.domain for opset in model.opset_import} == {""}  # standard operators only


def test_smaller_precisions_are_smaller(tiny_codec: Path, tmp_path: Path) -> None:
    def size(precision: str) -> int:
        bundle = publish(tiny_codec, tmp_path / precision, precision, solver=(2, "euler"))
        return sum(f.stat().st_size for f in (bundle.path / "codec").glob("flow_*.data"))

    fp32, fp16, int8 = (size(p) for p in ("fp32", "fp16", "int8"))
    assert int8 < fp16 < fp32


def test_the_default_solver_is_the_cheapest_within_the_distance(tiny_codec, tmp_path) -> None:
    bundle = publish(tiny_codec, tmp_path / "a", max_mel_distance_db=1.0)
    report = json.loads((bundle.path / CODEC_REPORT_FILE).read_text())
    chosen = report["solver"]
    near = [row for row in report["solvers"] if row["mel_rms_db"] <= 1.0]
    assert (chosen["steps"], chosen["name"]) == (near[0]["steps"], near[0]["solver"])
    assert load(bundle, SessionSettings("cpu", 1))[1].params.steps == chosen["steps"]
    strict = publish(tiny_codec, tmp_path / "b", max_mel_distance_db=0.0)
    assert json.loads((strict.path / CODEC_REPORT_FILE).read_text())["solver"]["steps"] == 10


def test_a_missed_gate_publishes_nothing(tiny_codec: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"too far from torch: token_agreement .* mel_rms_db"):
        publish(tiny_codec, tmp_path / "b", "int8", gates=Gates(1.0, 1e-9, 1e-9))
    assert list(tmp_path.iterdir()) == []


def test_unknown_precisions_and_unequal_halves_are_refused(tiny_codec, tmp_path) -> None:
    with pytest.raises(ExportError, match="expected one of fp32"):
        graph_precisions("fp3", "cpu")
    write_tokenizer(tmp_path / "other", "tiny")
    config = tmp_path / "other" / "config.json"
    config.write_text(
        config.read_text().replace('"quantize_vocab_size": 64', '"quantize_vocab_size": 32')
    )
    with pytest.raises(CodecError, match="shape"):
        export_glm4voice(
            tmp_path / "other", tiny_codec / "decoder", BundleWriter(tmp_path / "b"), "cpu"
        )


def test_a_codec_of_another_code_book_than_the_model_is_refused(tiny_codec, tmp_path) -> None:
    bundle = publish(tiny_codec, tmp_path / "b", solver=(1, "euler"))
    assert bundle.config.layout.num_codes != 64
    with pytest.raises(BundleError, match="64 codes"):
        load_codec(bundle, threads=1)


def test_wrong_params_in_a_bundle_are_refused(tiny_codec: Path, tmp_path: Path) -> None:
    bundle = publish(tiny_codec, tmp_path / "b", solver=(1, "euler"))
    params = bundle.config.codec.params
    params["decoder"]["num_codes"] = 63
    with pytest.raises(BundleError, match="63"):
        load(bundle, SessionSettings("cpu", 1))
    del params["decoder"]
    with pytest.raises(BundleError, match="decoder and tokenizer"):
        load(bundle, SessionSettings("cpu", 1))


def test_codec_folders_and_hub_names_are_told_apart(tiny_codec: Path, monkeypatch) -> None:
    assert find_codec(None) is None
    assert find_codec(tiny_codec) == tiny_codec
    with pytest.raises(CheckpointError):
        find_codec(Path("/nowhere/at/all"))
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, **k: asked.append((name, k)) or "/x"
    )
    assert find_codec(Path("org/decoder"), local_files_only=True) == Path("/x")
    assert asked[0][0] == "org/decoder"
    assert "flow.pt" in asked[0][1]["allow_patterns"]


def test_counted_work_is_that_of_the_layers(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    weight = helper.make_tensor("w", TensorProto.FLOAT, [8, 4, 3], [0.0] * 96)
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="c", kernel_shape=[3])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, "F"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, None])
    graph = helper.make_graph([node], "g", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    onnx.save(model, tmp_path / "g.onnx")
    assert gflop(tmp_path / "g.onnx", {"F": 12}) == pytest.approx(2e-9 * 10 * 8 * 4 * 3)


def test_the_benchmark_measures_in_a_process_without_torch(tiny_codec, tmp_path) -> None:
    options = ["--repeats", "1", "--threads", "1", "--stream-seconds", "6"]
    folders = tiny_codec / "tokenizer", tiny_codec / "decoder"
    result = benchmark(*folders, "fp32", tmp_path, options)
    assert result["gflop"]["flow_evaluation"] > 0
    assert result["file_mb"].keys() == set(graphs.ALL)
    assert 0 < result["loaded_mb"] < 200
    assert result["rtf_vocoder"] > 0
