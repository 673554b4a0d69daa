"""Load the released codec files into our modules, by name, with every shape checked."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ttt_ref.bounded import check_plain, read_json
from ttt_ref.codec.glm4voice.config import FlowConfig, HiftConfig, TokenizerConfig
from ttt_ref.codec.glm4voice.flow import Flow
from ttt_ref.codec.glm4voice.hift import Hift
from ttt_ref.codec.glm4voice.istft import analysis_kernel, envelope_kernel, synthesis_kernel
from ttt_ref.codec.glm4voice.tokenizer import SpeechEncoder
from ttt_ref.codec.glm4voice.unpickle import load_torch_zip
from ttt_ref.codec.glm4voice.yaml_plain import read_yaml
from ttt_ref.errors import CodecError

_PREFIXES = ("model.encoder.", "encoder.", "model.")
_TRAINING_ONLY = ("ema_count", "ema_weight", "quantize_ema_count", "total_code_usage")
Module = TypeVar("Module", bound=nn.Module)
State = dict[str, Tensor]


def _read_safetensors(paths: list[Path]) -> State:
    state: State = {}
    for path in paths:
        check_plain(path, CodecError)
        try:
            state.update(load_file(path))
        except (SafetensorError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:120]
            raise CodecError(f"{path} is no readable safetensors file ({reason})") from None
    return state


def _read_json(path: Path) -> dict[str, object]:
    data = read_json(path, error=CodecError, advice="fetch it again")
    if not isinstance(data, dict):
        raise CodecError(f"{path} holds no table; expected the tokenizer's config")
    return data


def _need(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise CodecError(
        f"{folder} has no {' or '.join(names)}; give the folder of the released codec files"
    )


def _safetensors_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [_need(folder, "model.safetensors")]
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CodecError(f"{index} has no weight_map; fetch it again")
    names = sorted({str(name) for name in weight_map.values()})
    if any(Path(name).name != name for name in names):
        raise CodecError(f"{index} names files outside its folder; they are not read")
    return [_need(folder, name) for name in names]


def _fold_weight_norm(state: State) -> State:
    """Replace weight_g and weight_v by g * v / |v|, the norm over all axes but the first."""
    plain = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in state.items()
    }
    for name in [n for n in plain if n.endswith(".weight_g")]:
        root = name.removesuffix("_g")
        gain, direction = plain.pop(name), plain.pop(f"{root}_v", None)
        if direction is None or gain.numel() != len(direction):
            raise CodecError(f"weights: {root} has a norm without matching directions")
        norm = direction.float().flatten(1).norm(dim=1).view(-1, *[1] * (direction.dim() - 1))
        plain[root] = gain.float().view_as(norm) * direction.float() / norm
    return plain


def _fill(module: Module, state: State, what: str) -> Module:
    """Move the tensors into a module built on the meta device; CodecError names a misfit."""
    wanted = module.state_dict()
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    if missing:
        raise CodecError(f"{what} lacks {len(missing)} tensors, the first is {missing[0]!r}")
    if extra:
        raise CodecError(
            f"{what} has {len(extra)} tensors that its config does not ask for, "
            f"the first is {extra[0]!r}"
        )
    floats: State = {}
    for name, tensor in wanted.items():
        if state[name].shape != tensor.shape:
            raise CodecError(
                f"{what}: {name!r} has shape {list(state[name].shape)}, "
                f"its config asks for {list(tensor.shape)}"
            )
        floats[name] = state.pop(name).float()
        if not torch.isfinite(floats[name]).all():
            raise CodecError(f"{what}: {name!r} holds values that are not finite")
    module.load_state_dict(floats, assign=True)
    return module.eval().requires_grad_(False)


def _tokenizer_name(name: str, layers: int) -> str | None:
    """Return our name of a tensor of the tokenizer's file, None for one that is not used."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    if name.startswith(("decoder.", "layer_norm.", "proj_out.")) or name in _TRAINING_ONLY:
        return None
    if name.startswith("layers."):
        number = name.split(".")[1]
        return name if number.isdecimal() and int(number) < layers else None
    return name


def load_tokenizer(folder: str | Path) -> SpeechEncoder:
    """Load the speech tokenizer's folder (config.json and safetensors).

    Released files and training-style ones (prefix `model.encoder.`, unused layers) both work.
    """
    folder = Path(folder)
    config = TokenizerConfig.from_dict(_read_json(_need(folder, "config.json")))
    raw = _read_safetensors(_safetensors_files(folder))
    named = {_tokenizer_name(name, config.layers): tensor for name, tensor in raw.items()}
    state = {name: tensor for name, tensor in named.items() if name is not None}
    del raw, named
    with torch.device("meta"):
        module = SpeechEncoder(config)
    return _fill(module, state, "the speech tokenizer")


def _decoder_state(folder: Path, name: str) -> State:
    path = _need(folder, f"{name}.safetensors", f"{name}.pt")
    return _read_safetensors([path]) if path.suffix == ".safetensors" else load_torch_zip(path)


def load_flow(folder: str | Path) -> Flow:
    """Load the flow from a folder with config.yaml and flow.pt (or flow.safetensors)."""
    folder = Path(folder)
    sections = read_yaml(_need(folder, "config.yaml"), ("flow",))
    config = FlowConfig.from_dict(sections["flow"])
    with torch.device("meta"):
        module = Flow(config)
    return _fill(module, _decoder_state(folder, "flow"), "the flow")


def load_hift(folder: str | Path) -> Hift:
    """Load the vocoder from a folder with config.yaml and hift.pt (or hift.safetensors)."""
    folder = Path(folder)
    sections = read_yaml(_need(folder, "config.yaml"), ("hift",))
    config = HiftConfig.from_dict(sections["hift"])
    state = _fold_weight_norm(_decoder_state(folder, "hift"))
    with torch.device("meta"):
        module = Hift(config)
    # Kernels of the Fourier transform are no weights: they are made, not loaded.
    module.analysis, module.synthesis, module.envelope = (
        kernel() for kernel in (analysis_kernel, synthesis_kernel, envelope_kernel)
    )
    return _fill(module, state, "the vocoder")
