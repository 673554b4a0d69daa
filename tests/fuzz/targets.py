"""What is fuzzed: each target takes bytes, and may raise our errors and nothing else.

A target is a function of bytes. It returns, or raises `TttError`: both are right. Any other
exception, a signal, a hang or memory beyond the limit is a finding.
"""

from __future__ import annotations

import copy
import functools
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ttt_ref.bounded import Unreadable, parse_json, parse_toml
from ttt_ref.errors import ConfigError, TttError

Target = Callable[[bytes], None]
_MEMORY = Path("/dev/shm")
_FOLDER = Path(tempfile.mkdtemp(prefix="ttt-fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None))


def _file(data: bytes, name: str) -> Path:
    path = _FOLDER / f"{os.getpid()}-{name}"
    path.write_bytes(data)
    return path


def json_text(data: bytes) -> None:
    """The bounded JSON reader."""
    try:
        parse_json(data)
    except Unreadable:
        return


def toml_text(data: bytes) -> None:
    """The bounded TOML reader, and the two kinds of files in it."""
    from ttt_quant.recipe import Recipe
    from ttt_ref.train.config import TrainConfig, from_mapping

    try:
        table = parse_toml(data)
    except Unreadable:
        return
    for read in (lambda: Recipe.from_dict(table, "x"), lambda: from_mapping(TrainConfig, table)):
        try:
            read()
        except ConfigError:
            continue


def manifest(data: bytes) -> None:
    """A bundle's ttt_config.json, its codec's params included."""
    from ttt_runtime.bundle.folder import Bundle
    from ttt_runtime.bundle.manifest import BundleConfig
    from ttt_runtime.codec.factory import check_codec
    from ttt_runtime.dialogue.prompt import Prompts

    table = edited(json.loads(small_manifest()), data)
    config = BundleConfig.from_dict(table)
    Prompts.from_dict(config.prompts)
    if config.codec is not None:
        check_codec(Bundle(_FOLDER, config))


VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 255, 4096, 65_537, 1 << 20, 1 << 31, 1 << 63, 1 << 70,
    10**400, 0.0, -0.5, 0.5, 1e-40, 1e38, 1e300, float("nan"), float("inf"), "", "x", "7", "Q",
    "N", "x" * 300, "\x1b[2J", "\ud800", "../x", [], {}, [1], ["N", "N"], {"x": 1}, [[]],
)  # fmt: skip


def edited(table: Any, data: bytes) -> Any:
    """Return a table with some of its values replaced, taken away or moved, as `data` says."""
    stream = iter(data[:100])
    while (edit := next(stream, None)) is not None:
        here, parent, key = table, None, None
        while isinstance(here, dict | list) and here:
            keys = sorted(here) if isinstance(here, dict) else list(range(len(here)))
            # A high byte stops half-way: a whole branch is replaced.
            step = next(stream, 0) | next(stream, 0) << 8
            if parent is not None and step >= 0xF000:
                break
            parent, key = here, keys[step % len(keys)]
            here = parent[key]
        if parent is None:
            return table
        if edit < 16:
            del parent[key]
        elif edit < 32 and isinstance(parent, dict):
            parent[f"{key}"[:-1] or "k"] = parent.pop(key)
        elif edit < 200:
            parent[key] = copy.deepcopy(VALUES[edit % len(VALUES)])
        else:
            parent[key] = next(stream, 0) << 8 | next(stream, 0)
    return table


@functools.cache
def small_manifest() -> bytes:
    """Return the shipped bundle's manifest with one layer: many more runs a second."""
    root = Path(__file__).parents[2]
    table = json.loads((root / "runtime/ttt_runtime/bundles/tiny/ttt_config.json").read_text())
    table["model"]["num_hidden_layers"] = 1
    for graph in table["graphs"].values():
        for kind in ("inputs", "outputs"):
            tensors = graph["spec"][kind]
            kept = [t for t in tensors if "." not in t["name"] or t["name"].endswith(".0")]
            graph["spec"][kind] = kept
    return json.dumps(table).encode()


def audio(data: bytes) -> None:
    """Headers and samples of sound files."""
    from ttt_runtime.audio.reader import read_sound

    class Hearer:
        sample_rate_hz = 16_000

    hearer: Any = Hearer()
    read_sound(io.BytesIO(data), "x", hearer, max_seconds=2.0)


def safetensors(data: bytes) -> None:
    """The exporter's own reader of weights."""
    from ttt_export.weights import SafetensorsTensors

    read = SafetensorsTensors([_file(data, "w.safetensors")])
    for name in read.names()[:20]:
        shape = read.shape(name)
        read.rows(name, 0, min(shape[0], 3) if shape else 1)
    read.stored_bytes()


def onnx(data: bytes) -> None:
    """The runtime's own reader of graphs."""
    from ttt_runtime.backends.native.onnx_file import OnnxFile

    file = OnnxFile.read(_file(data, "g.onnx"))
    for name in file.names()[:20]:
        try:
            file.tensor(name)
        except TttError:
            continue


def pickle(data: bytes) -> None:
    """The walker of torch files: the bytes are the pickle inside, all else is whole."""
    import zipfile

    from ttt_ref.codec.glm4voice.unpickle import load_torch_zip

    path = _FOLDER / f"{os.getpid()}-p.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", data)
        for name, size in (("0", 24), ("1", 16)):  # of the seed's tensors
            archive.writestr(f"a/data/{name}", bytes(size))
    load_torch_zip(path)


def record(data: bytes) -> None:
    """Training records and the state of a run."""
    from ttt_ref.data import read_records
    from ttt_ref.train.state import read_run

    for name, read in (("r.jsonl", read_records), ("r.json", read_records)):
        try:
            read(_file(data, name))
        except TttError:
            continue
    folder = _FOLDER / f"{os.getpid()}-run" / "step-00000001"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_bytes(data)
    read_run(folder)


TARGETS: dict[str, Target] = {
    "json": json_text,
    "toml": toml_text,
    "manifest": manifest,
    "audio": audio,
    "safetensors": safetensors,
    "onnx": onnx,
    "pickle": pickle,
    "record": record,
}


def run_one(name: str, data: bytes) -> None:
    """Run a target; our own errors are right, and say one line."""
    try:
        TARGETS[name](data)
    except TttError as error:
        line = str(error)
        if "\n" in line or len(line) > 2000:
            raise AssertionError(f"no line: {line[:200]!r}") from None


def seeds(name: str) -> list[bytes]:
    """Return small inputs that a target accepts, from which mutations begin."""
    corpus = Path(__file__).parent / "corpus" / name
    found = [path.read_bytes() for path in sorted(corpus.iterdir())] if corpus.is_dir() else []
    return [*found, *_MADE.get(name, list)()]


def _manifest_seed() -> list[bytes]:
    return [b"", b"\x20\x01\x00\x02\x00", bytes(range(40, 80)), bytes(range(200, 255))]


def _audio_seed() -> list[bytes]:
    import numpy as np
    import soundfile

    made = []
    for kind, sub, channels in (
        ("WAV", "PCM_16", 1), ("WAV", "FLOAT", 2), ("FLAC", "PCM_16", 1), ("AIFF", "PCM_24", 1),
        ("OGG", "VORBIS", 1), ("AU", "ULAW", 1), ("WAV", "IMA_ADPCM", 1), ("MP3", None, 1),
        ("CAF", "PCM_16", 1), ("W64", "PCM_16", 1),
    ):  # fmt: skip
        file = io.BytesIO()
        sound = np.sin(np.arange(400 * channels) / 5).reshape(-1, channels) / 2
        soundfile.write(file, sound, 8000, format=kind, subtype=sub)
        made.append(file.getvalue())
    return made


def _safetensors_seed() -> list[bytes]:
    import numpy as np
    from safetensors.numpy import save

    return [save({"a": np.ones((2, 3), np.float32), "b.c": np.zeros(4, np.float16)})]


def _onnx_seed() -> list[bytes]:
    from onnx import TensorProto, helper

    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="n")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    weights = [
        helper.make_tensor("w", TensorProto.FLOAT, [2, 2], [1.0, 2, 3, 4]),
        helper.make_tensor("i", TensorProto.INT64, [3], [1, -2, 3]),
        helper.make_tensor("r", TensorProto.INT8, [4], b"abcd", raw=True),
    ]
    graph = helper.make_graph([node], "g", [x], [y], weights)
    return [helper.make_model(graph).SerializeToString()]


def _pickle_seed() -> list[bytes]:
    import zipfile

    import torch

    path = _FOLDER / "seed.pt"
    torch.save({"a": torch.ones(2, 3), "b": torch.zeros(4)[1:]}, path)
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        return [archive.read(name)]


def _toml_seed() -> list[bytes]:
    root = Path(__file__).parents[2]
    files = [root / "quant/ttt_quant/recipes/int4-cpu.toml", root / "ttt_ref/train/example.toml"]
    return [path.read_bytes() for path in files if path.is_file()]


def _record_seed() -> list[bytes]:
    message = {
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}]
    }
    position = {"pool": 1, "cursors": [2], "batch": 3, "micro_step": 4}
    run = {
        "format": 1, "step": 1, "elapsed_s": 2.5, "processes": 1, "position": position,
        "config": {}, "files": {"x": {"sha256": "0" * 64, "bytes": 3}},
    }  # fmt: skip
    return [json.dumps(v).encode() for v in (message, [message], run)]


_MADE: dict[str, Callable[[], list[bytes]]] = {
    "json": lambda: [b'{"a": [1, -2.5e3, true, null, "\\u00e9"]}'],
    "toml": _toml_seed,
    "manifest": _manifest_seed,
    "audio": _audio_seed,
    "safetensors": _safetensors_seed,
    "onnx": _onnx_seed,
    "pickle": _pickle_seed,
    "record": _record_seed,
}
