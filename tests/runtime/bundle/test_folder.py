"""A bundle is read whole or refused in one line, and never half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.bundles import edit_config, toy_config, write_toy
from ttt_ref.config import GenerationConfig
from ttt_ref.errors import BundleError, ConfigError
from ttt_runtime.bundle.folder import Bundle, BundleWriter
from ttt_runtime.bundle.graph_spec import GraphSpec, TensorSpec
from ttt_runtime.bundle.manifest import CONFIG_NAME, CodecEntry, EmbeddingsEntry, GraphEntry


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_toy(tmp_path / "toy")


def refused(path: Path, verify: Any = "auto") -> str:
    """Open a bundle that must be refused; return the message, which must be one line."""
    with pytest.raises(BundleError) as caught:
        Bundle.open(path, verify)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def test_what_was_written_is_read_back(bundle: Path) -> None:
    read = Bundle.open(bundle, "hashes")
    expected = toy_config()
    for field in ("name", "model", "layout", "precision", "presets", "prompts", "embeddings"):
        assert getattr(read.config, field) == getattr(expected, field), field
    assert read.config.graphs == expected.graphs
    assert set(read.config.files) == {"table.bin", *(g.file for g in expected.graphs.values())}
    assert read.graph("decoder").spec.input("mask").shape == ("Q", "C")


def test_codec_round_trip(tmp_path: Path) -> None:
    spec = GraphSpec("wave", (TensorSpec("codes", "int64", (1, "S")),), (), {"hop": 640})
    codec = CodecEntry("builtin", {"rate": 16000}, {"wave": GraphEntry(spec, "table.bin")})
    read = Bundle.open(write_toy(tmp_path / "toy", codec=codec))
    assert read.config.codec == codec
    assert read.codec_graph("wave").spec == spec
    with pytest.raises(BundleError, match="no codec graph 'mel'"):
        read.codec_graph("mel")


def test_missing_folder_file_and_config(tmp_path: Path, bundle: Path) -> None:
    assert "not there" in refused(tmp_path / "nowhere")
    assert "a file, not a folder" in refused(bundle / "table.bin")
    (bundle / CONFIG_NAME).unlink()
    assert "has no ttt_config.json" in refused(bundle)


@pytest.mark.parametrize("keep", [0, 1, 100, -2])
def test_truncated_json(bundle: Path, keep: int) -> None:
    path = bundle / CONFIG_NAME
    path.write_bytes(path.read_bytes()[:keep])
    assert "cut short or damaged" in refused(bundle)


@pytest.mark.parametrize("text", [b"[" * 100_000, b"\xff\xfe\x00", b"[1, 2]", b"null", b"17"])
def test_other_json(bundle: Path, text: bytes) -> None:
    (bundle / CONFIG_NAME).write_bytes(text)
    refused(bundle)


@pytest.mark.parametrize(("version", "word"), [(2, "up to 1"), (99, "update"), (0, "is 0")])
def test_other_versions(bundle: Path, version: int, word: str) -> None:
    edit_config(bundle, lambda c: c.update(format_version=version, new_key=[1]))
    assert word in refused(bundle)


@pytest.mark.parametrize("version", [None, "1", True, 1.5])
def test_versions_that_are_none(bundle: Path, version: object) -> None:
    edit_config(bundle, lambda c: c.update(format_version=version))
    assert "format_version" in refused(bundle)


def _set(*keys: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    "path",
    [
        "../table.bin",
        "/etc/passwd",
        "graphs/../../table.bin",
        "./table.bin",
        "graphs//decoder.onnx",
        "..\\table.bin",
        "C:table.bin",
        "table.bin\0.onnx",
        ".",
        "..",
    ],
)
def test_paths_that_lead_out_are_refused(bundle: Path, path: str) -> None:
    """Wherever a path stands: in a graph, the table, the tokenizer or the list of files."""
    original = (bundle / CONFIG_NAME).read_text()
    record = {"sha256": "0" * 64, "bytes": 1}
    for change in (
        _set("graphs", "decoder", "file", value=path),
        _set("embeddings", "file", value=path),
        _set("tokenizer", value=path),
        _set("files", path, value=record),
    ):
        (bundle / CONFIG_NAME).write_text(original)
        edit_config(bundle, change)
        assert "only plain relative paths" in refused(bundle)


def test_symlinks_may_not_lead_out(bundle: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes((bundle / "table.bin").read_bytes())
    (bundle / "table.bin").unlink()
    (bundle / "table.bin").symlink_to(secret)
    assert "link that leads out" in refused(bundle)


def test_symlinked_folder_may_not_lead_out(bundle: Path, tmp_path: Path) -> None:
    (bundle / "graphs").rename(tmp_path / "elsewhere")
    (bundle / "graphs").symlink_to(tmp_path / "elsewhere")
    assert "link that leads out" in refused(bundle)


def test_a_link_to_the_whole_bundle_is_fine(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle)
    assert Bundle.open(tmp_path / "link").config.name == "toy"


def test_wrong_size_wrong_hash_missing_file(bundle: Path) -> None:
    graph = bundle / "graphs" / "decoder.onnx"
    good = graph.read_bytes()
    graph.write_bytes(good[:-1])
    assert "has 16 bytes, expected 17" in refused(bundle)
    graph.write_bytes(good[:-1] + b"X")
    assert "wrong SHA-256" in refused(bundle)
    assert "graphs/decoder.onnx" in refused(bundle, "hashes")
    Bundle.open(bundle, "sizes")  # asked for sizes only
    graph.unlink()
    assert "lacks its file 'graphs/decoder.onnx'" in refused(bundle)
    graph.mkdir()
    assert "lacks its file" in refused(bundle)


def test_a_file_that_is_used_must_be_listed(bundle: Path) -> None:
    edit_config(bundle, lambda c: c["files"].pop("table.bin"))
    assert "does not list it" in refused(bundle)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (_set("surprise", value=1), "unknown key 'surprise'"),
        (lambda c: c.pop("graphs"), "missing key 'graphs'"),
        (_set("graphs", value=[]), "expected a table"),
        (_set("graphs", "decoder", "spec", "inputs", 0, "dtype", value="float7"), "float7"),  # type: ignore[arg-type]
        (_set("graphs", "decoder", "spec", "inputs", 0, "shape", value=[1, -4]), "-4"),  # type: ignore[arg-type]
        (_set("graphs", "decoder", "spec", "inputs", value=7), "expected a list"),
        (_set("model", "hidden_size", value="8"), "hidden_size"),
        (_set("model", "hidden_size", value=16), "8"),
        (_set("layout", "mask_id", value=-1), "mask_id"),
        (_set("presets", value={"a": {"block_length": 0}}), "block_length"),
        (_set("embeddings", "dtype", value="int4"), "int4"),
        (_set("embeddings", "rows", value=3), "embeddings of shape 3"),
        (_set("embeddings", "scales_file", value="table.bin"), "exactly int8"),
        (_set("embeddings", "rows", value=True), "True"),
        (_set("files", "table.bin", "bytes", value=-1), "-1"),
        (_set("precision", value=8), "precision"),
        (_set("codec", value={"type": "x", "params": {}}), "missing key 'codec.graphs'"),
    ],
)
def test_contents_that_cannot_be_are_named(bundle: Path, change: Any, word: str) -> None:
    edit_config(bundle, change)
    assert word in refused(bundle)


def test_table_of_another_size(bundle: Path) -> None:
    (bundle / "table.bin").write_bytes(b"123")
    edit_config(bundle, _set("files", "table.bin", "bytes", value=3))
    assert "the table 'table.bin' has 3 bytes" in refused(bundle, "sizes")


def test_scales_of_another_size(tmp_path: Path) -> None:
    config = toy_config(
        embeddings=EmbeddingsEntry("t.bin", "int8", toy_config().model.vocab_size, 8, "s.bin")
    )
    with BundleWriter(tmp_path / "toy") as writer:
        for graph in config.graphs.values():
            writer.add_bytes(graph.file, b"x")
        writer.add_bytes("t.bin", bytes(8 * config.model.vocab_size))
        writer.add_bytes("s.bin", bytes(12))
        with pytest.raises(BundleError, match=r"'s.bin' has 12 bytes"):
            writer.publish(config)


def test_an_unfinished_bundle_leaves_nothing(tmp_path: Path) -> None:
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error):
            _begin_and_fail(tmp_path / "toy", error)
    with BundleWriter(tmp_path / "toy"):
        pass  # never published
    assert list(tmp_path.iterdir()) == []


def _begin_and_fail(out: Path, error: type[BaseException]) -> None:
    with BundleWriter(out) as writer:
        writer.add_bytes("a", b"1")
        raise error


def test_a_bundle_that_cannot_be_read_back_is_not_published(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "toy") as writer:
        writer.add_bytes("table.bin", b"too short")
        with pytest.raises(BundleError):
            writer.publish(toy_config())
    assert list(tmp_path.iterdir()) == []


def test_overwrite_replaces_a_bundle_and_nothing_else(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="exists and is not empty"):
        BundleWriter(bundle)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match="exists"):
        BundleWriter(other, overwrite=True)
    with BundleWriter(bundle, overwrite=True) as writer:
        for graph in toy_config().graphs.values():
            writer.add_bytes(graph.file, b"newer")
        writer.add_file("table.bin", bundle / "table.bin")
        writer.publish(toy_config(presets={"new": GenerationConfig()}))
    assert list(Bundle.open(bundle, "hashes").config.presets) == ["new"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "toy"]


def test_writer_refuses_paths_outside_and_links(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "toy") as writer:
        with pytest.raises(BundleError, match="plain relative"):
            writer.path("../x")
        writer.path("link").symlink_to("/etc/passwd")
        with pytest.raises(BundleError, match="is a link"):
            writer.publish(toy_config())


def test_files_get_the_usual_rights(bundle: Path) -> None:
    assert bundle.stat().st_mode & 0o777 == 0o755


def test_configuration_is_strict_json(bundle: Path) -> None:
    text = (bundle / CONFIG_NAME).read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_graph_specs_refuse_nonsense() -> None:
    with pytest.raises(ConfigError, match="twice"):
        GraphSpec("g", (TensorSpec("a", "bool", (1,)), TensorSpec("a", "bool", (1,))), ())
    with pytest.raises(ConfigError, match=r"at least 1.* or text"):
        TensorSpec("a", "bool", (True,))
    spec = TensorSpec("a", "float32", (1, "Q", 3))
    assert spec.resolve({"Q": 5}) == (1, 5, 3)
    assert spec.bytes({"Q": 5}) == 60
    with pytest.raises(ConfigError, match="'Q'"):
        spec.resolve({})
