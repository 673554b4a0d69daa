"""Reading released codec files: what is right loads, what is wrong or hostile is refused unrun."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ttt_ref.codec.glm4voice import random_weights, released_config
from ttt_ref.codec.glm4voice.config import FlowConfig, HiftConfig, TokenizerConfig
from ttt_ref.codec.glm4voice.unpickle import load_torch_zip
from ttt_ref.codec.glm4voice.weights import load_flow, load_hift, load_tokenizer
from ttt_ref.codec.glm4voice.yaml_plain import read_yaml
from ttt_ref.errors import CodecError


def test_real_shapes_are_the_released_ones(golden_codec: Path, tmp_path: Path) -> None:
    wanted = json.loads((golden_codec / "real_shapes.json").read_text())
    (tmp_path / "c.yaml").write_text(released_config.DECODER_YAML.format(**released_config.DECODER))
    sections = read_yaml(tmp_path / "c.yaml", ("flow", "hift"))
    got = {
        "flow.pt": random_weights.flow_shapes(FlowConfig.from_dict(sections["flow"])),
        "hift.pt": random_weights.hift_shapes(HiftConfig.from_dict(sections["hift"])),
        "tokenizer model.safetensors": random_weights.tokenizer_shapes(
            TokenizerConfig.from_dict(released_config.TOKENIZER)
        ),
    }
    for file, shapes in got.items():
        assert {name: list(shape) for name, shape in shapes.items()} == wanted[file], file


def test_torch_zip_equals_torch_load(golden_codec: Path) -> None:
    path = golden_codec / "decoder_pt" / "hift.pt"
    mine, theirs = load_torch_zip(path), torch.load(path, weights_only=True)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_torch_zip_reads_views_halves_and_parameters(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    state = {
        "t": base.T,
        "part": base[1:, 2:],
        "half": base.half(),
        "bf16": base.bfloat16(),
        "long": torch.arange(3),
        "none": torch.empty(0, 4),
        "scalar": torch.tensor(2.5),
        "p": torch.nn.Parameter(base),
    }
    torch.save(state, tmp_path / "x.pt")
    got = load_torch_zip(tmp_path / "x.pt")
    assert all(torch.equal(got[name], value) for name, value in state.items())
    module = torch.nn.Linear(2, 3)
    torch.save(module.state_dict(), tmp_path / "y.pt")  # an OrderedDict with metadata
    assert load_torch_zip(tmp_path / "y.pt").keys() == {"weight", "bias"}


class Touch:
    """Pickles to a call that writes a file when it is run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


class Evaluate:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (eval, (f"open({str(self.path)!r}, 'w')",))


@pytest.mark.parametrize("hostile", [Touch, Evaluate])
def test_a_pickle_that_calls_something_is_refused_and_nothing_runs(tmp_path, hostile) -> None:
    mark = tmp_path / "ran"
    torch.save({"a": torch.zeros(2), "b": hostile(mark)}, tmp_path / "x.pt")
    with pytest.raises(CodecError, match="nothing was executed"):
        load_torch_zip(tmp_path / "x.pt")
    assert not mark.exists()
    torch.load(tmp_path / "x.pt", weights_only=False)  # the trap does work
    assert mark.exists()


def archive(path: Path, pickled: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("x/data.pkl", pickled)
        file.writestr("x/data/0", b"\0" * 64)
    return path


HOSTILE_PICKLES = {
    "global": b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00lstR.",
    "inst": b"(S'ls'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nX\x02\x00\x00\x00lso.",
    "newobj": b"\x80\x02cos\nsystem\n)\x81.",
    "build": b"\x80\x02ccollections\nOrderedDict\n}b.",
    "stack_global": b"\x80\x04\x8c\x02os\x8c\x06systemq\x00\x93\x8c\x02ls\x85R.",
    "ext": b"\x80\x02\x82\x01.",
    "list": b"\x80\x02]q\x00.",
    "short": b"\x80\x02}q\x00(X\x01\x00\x00\x00a",
    "underflow": b"\x80\x02R.",
    "bad_memo": b"\x80\x02h\x09.",
    "no_pickle": b"hello",
    "plain": pickle.dumps({"a": 1}, 2),
    "cycle": b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.",
}


@pytest.mark.parametrize("name", HOSTILE_PICKLES)
def test_hostile_pickles_are_codec_errors(tmp_path: Path, name: str) -> None:
    with pytest.raises(CodecError) as error:
        load_torch_zip(archive(tmp_path / "x.pt", HOSTILE_PICKLES[name]))
    assert "\n" not in str(error.value)


def tensor_pickle(numel: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A state dict of one float tensor with the sizes it claims."""

    class Storage:
        pass

    class Fake:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage(), 0, shape, stride, False, None)

    import io

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, Storage):
                return ("storage", torch.FloatStorage, "0", "cpu", numel)
            return None

    out = io.BytesIO()
    Pickler(out, 2).dump({"w": Fake()})
    return out.getvalue()


@pytest.mark.parametrize(
    ("numel", "shape", "stride"),
    [
        (1 << 38, (1 << 38,), (1,)),  # a storage larger than its file
        (16, (17,), (1,)),  # beyond the end
        (16, (1 << 30, 1 << 8), (0, 0)),  # a huge view of little
        (16, (2, 2), (1,)),
        (16, (-1,), (1,)),
    ],
)
def test_tensors_larger_than_their_file_take_no_memory(tmp_path, numel, shape, stride) -> None:
    path = archive(tmp_path / "x.pt", tensor_pickle(numel, shape, stride))
    with pytest.raises(CodecError):
        load_torch_zip(path)
    good = archive(tmp_path / "y.pt", tensor_pickle(16, (4, 4), (4, 1)))
    assert load_torch_zip(good)["w"].shape == (4, 4)


def test_compressed_and_broken_archives_are_refused(tmp_path: Path) -> None:
    pickled = tensor_pickle(16, (16,), (1,))
    for path in (
        archive(tmp_path / "bomb.pt", pickled, zipfile.ZIP_DEFLATED),
        tmp_path / "text.pt",
        tmp_path / "cut.pt",
    ):
        if path.name == "text.pt":
            path.write_text("this is no archive")
        elif path.name == "cut.pt":
            path.write_bytes(archive(tmp_path / "z.pt", pickled).read_bytes()[:-40])
        with pytest.raises(CodecError):
            load_torch_zip(path)


def test_yaml_tags_are_not_obeyed(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = tmp_path / "c.yaml"
    path.write_text(
        f"a: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path "
        f"['{mark}']]\n"
        f"b: !apply:os.system ['touch {mark}']\n"
        f"c: !new:subprocess.Popen {{args: ['touch', '{mark}'], n: !ref <n>}}\n"
        f"d: !name:eval\nn: 7\n"
    )
    data = read_yaml(path, ("b", "c"))
    assert data == {"b": [f"touch {mark}"], "c": {"args": ["touch", str(mark)], "n": 7}}
    assert not mark.exists()


@pytest.mark.parametrize(
    "text",
    [
        "a: [1, 2",
        "just text",
        "flow: !ref <nowhere>\nhift: 1\n",
        "a: &x [1]\nb: *x\nflow: 1\nhift: 1\n",
        "flow: " + "[" * 5000,
        "flow: " + "[" * 100 + "]" * 100 + "\nhift: 1\n",
        "other: 1",
        "flow: {? [1, 2] : 3}\nhift: 1\n",
    ],
)
def test_bad_yaml_is_a_codec_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(CodecError):
        read_yaml(tmp_path / "c.yaml", ("flow", "hift"))
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CodecError):
        read_yaml(tmp_path / "c.yaml", ("flow",))


@pytest.fixture
def copy(tiny_codec: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_codec, tmp_path / "codec"))


def test_both_forms_of_tokenizer_files_load(copy: Path, tiny_tokenizer) -> None:
    """Training-style files have a prefix, a last norm and layers that are not used."""
    path = copy / "tokenizer" / "model.safetensors"
    state = load_file(path)
    prefixed = {f"model.encoder.{name}": value for name, value in state.items()}
    prefixed["model.encoder.layer_norm.weight"] = torch.ones(48)
    prefixed["model.encoder.layers.2.fc1.bias"] = torch.ones(96)
    prefixed["model.decoder.layers.0.fc1.bias"] = torch.ones(96)
    save_file(prefixed, path)
    loaded = load_tokenizer(copy / "tokenizer")
    mine, theirs = loaded.state_dict(), tiny_tokenizer.encoder.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    half = list(prefixed)[:20]
    save_file({k: prefixed[k] for k in half}, copy / "tokenizer" / "a.safetensors")
    rest = {k: v for k, v in prefixed.items() if k not in half}
    save_file(rest, copy / "tokenizer" / "b.safetensors")
    path.unlink()
    names = {k: "a.safetensors" if k in half else "b.safetensors" for k in prefixed}
    index = copy / "tokenizer" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    load_tokenizer(copy / "tokenizer")
    index.write_text(json.dumps({"weight_map": {"x": "../../secret.safetensors"}}))
    with pytest.raises(CodecError, match="outside"):
        load_tokenizer(copy / "tokenizer")


def test_safetensors_decoders_load_too(copy: Path, tiny_decoder) -> None:
    for name in ("flow", "hift"):
        path = copy / "decoder" / f"{name}.pt"
        save_file(load_torch_zip(path), path.with_suffix(".safetensors"))
        path.unlink()
    flow, hift = load_flow(copy / "decoder"), load_hift(copy / "decoder")
    for mine, theirs in ((flow, tiny_decoder.flow), (hift, tiny_decoder.hift)):
        want = theirs.state_dict()
        assert all(torch.equal(value, want[name]) for name, value in mine.state_dict().items())


def spoil(path: Path, change) -> None:
    state = load_torch_zip(path) if path.suffix == ".pt" else load_file(path)
    change(state)
    torch.save(state, path) if path.suffix == ".pt" else save_file(state, path)


SPOILED = [
    ("tokenizer/model.safetensors", lambda s: s.pop("conv1.bias"), "lacks 1"),
    ("tokenizer/model.safetensors", lambda s: s.update(x=torch.ones(1)), "does not ask"),
    ("decoder/flow.pt", lambda s: s.update({"encoder_proj.bias": torch.ones(3)}), "shape"),
    ("decoder/flow.pt", lambda s: s["encoder_proj.bias"].fill_(float("nan")), "finite"),
    ("decoder/hift.pt", lambda s: s.pop("conv_pre.weight_v"), "without matching"),
    ("decoder/hift.pt", lambda s: s.update({"conv_pre.weight_g": torch.ones(2, 1, 1)}), "without"),
    ("decoder/hift.pt", lambda s: s.pop("m_source.l_linear.bias"), "lacks 1"),
]


@pytest.mark.parametrize(("file", "change", "message"), SPOILED)
def test_wrong_tensors_are_named(copy: Path, file: str, change, message: str) -> None:
    spoil(copy / file, change)
    loader = {"model": load_tokenizer, "flow": load_flow, "hift": load_hift}[Path(file).stem]
    with pytest.raises(CodecError, match=message) as error:
        loader((copy / file).parent)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("tokenizer/config.json", '"d_model": 48', '"d_model": 50'),
        ("tokenizer/config.json", '"gelu"', '"relu"'),
        ("tokenizer/config.json", '"quantize_vocab_size": 64', '"quantize_vocab_size": -1'),
        ("tokenizer/config.json", "{", "["),
        ("decoder/config.yaml", "vocab_size: 64", "vocab_size: lots"),
        ("decoder/config.yaml", "channels: [16, 16]", "channels: [16]"),
        ("decoder/config.yaml", "solver: 'euler'", "solver: 'dopri'"),
        ("decoder/config.yaml", "estimator:", "estimated:"),
        ("decoder/config.yaml", "upsample_rates: [8, 8]", "upsample_rates: [8, 4]"),
        ("decoder/config.yaml", "base_channels: 16", "base: 16"),
    ],
)
def test_configs_that_do_not_fit_are_refused(copy: Path, file: str, old: str, new: str) -> None:
    path = copy / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))

    def load_both() -> None:
        load_tokenizer(copy / "tokenizer")
        load_flow(copy / "decoder")
        load_hift(copy / "decoder")

    with pytest.raises(CodecError):
        load_both()


def test_missing_files_are_named(tmp_path: Path) -> None:
    for loader in (load_tokenizer, load_flow, load_hift):
        with pytest.raises(CodecError, match="has no config"):
            loader(tmp_path)
