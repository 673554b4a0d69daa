"""Write a codec of random weights in the released files' form, for tests and measurements.

    python -m ttt_ref.codec.glm4voice.random_weights OUT              # the released shapes
    python -m ttt_ref.codec.glm4voice.random_weights OUT --like tiny    # or small: all 16,384 codes

OUT/tokenizer holds config.json and model.safetensors, OUT/decoder config.yaml, flow.pt, hift.pt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
import typer
from safetensors.torch import save_file
from torch import Tensor, nn

from ttt_ref.codec.glm4voice import released_config as released
from ttt_ref.codec.glm4voice.config import FlowConfig, HiftConfig, TokenizerConfig
from ttt_ref.codec.glm4voice.flow import Flow
from ttt_ref.codec.glm4voice.hift import Hift
from ttt_ref.codec.glm4voice.tokenizer import SpeechEncoder
from ttt_ref.codec.glm4voice.yaml_plain import read_yaml
from ttt_ref.errors import exit_on_error

Size = Literal["real", "tiny", "small"]
TOKENIZERS: Mapping[str, Mapping[str, Any]] = {
    "real": released.TOKENIZER,
    "tiny": released.TINY_TOKENIZER,
    "small": released.SMALL_TOKENIZER,
}
DECODERS: Mapping[str, Mapping[str, Any]] = {
    "real": released.DECODER,
    "tiny": released.TINY_DECODER,
    "small": released.SMALL_DECODER,
}
Shapes = dict[str, tuple[int, ...]]


def _shapes(module: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def tokenizer_shapes(config: TokenizerConfig) -> Shapes:
    """Return name -> shape of the tokenizer's file, its training buffers included."""
    with torch.device("meta"):
        shapes = _shapes(SpeechEncoder(config))
    buffers = {"ema_count": (config.num_codes,), "ema_weight": (config.num_codes, config.d_model)}
    return shapes | buffers


def flow_shapes(config: FlowConfig) -> Shapes:
    """Return name -> shape of flow.pt."""
    with torch.device("meta"):
        return _shapes(Flow(config))


def hift_shapes(config: HiftConfig) -> Shapes:
    """Return name -> shape of hift.pt: every convolution but `source_downs` is weight-normed."""
    with torch.device("meta"):
        shapes = _shapes(Hift(config))
    out: Shapes = {}
    for name, shape in shapes.items():
        if name.endswith(".weight") and len(shape) == 3 and not name.startswith("source_downs"):
            out[f"{name}_g"] = (shape[0], 1, 1)
            out[f"{name}_v"] = shape
        else:
            out[name] = shape
    return out


def random_state(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Draw weights that keep activations near unit size through all layers."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        is_matrix = len(shape) > 1 and "embed" not in name and "codebook" not in name
        if name.endswith(("_g", "alpha")):
            drawn = 1.0 + 0.1 * drawn
        elif name.endswith("_v"):
            pass  # a direction
        elif "pos_bias" in name or len(shape) == 1:
            is_norm = name.endswith(".weight") or name == "ema_count"
            drawn = (1.0 if is_norm else 0.0) + 0.05 * drawn
        elif is_matrix:
            drawn *= (drawn[0].numel() ** -0.5) if "conv2" not in name else 0.03
        state[name] = drawn
    return _audible(state)


def _audible(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give a vocoder a voice-like pitch and a level below its limit."""
    if "conv_post.bias" in state:
        state["conv_post.bias"][:9] -= 3.0
        state["conv_post.weight_g"] *= 0.5
        state["f0_predictor.classifier.bias"] += 150.0
        state["f0_predictor.classifier.weight"] *= 20.0
    return state


def write_tokenizer(folder: Path, like: Size = "real", seed: int = 0) -> None:
    """Write the tokenizer's folder."""
    data = TOKENIZERS[like]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(data, indent=1) + "\n")
    preprocessor = json.dumps(released.PREPROCESSOR, indent=1) + "\n"
    (folder / "preprocessor_config.json").write_text(preprocessor)
    shapes = tokenizer_shapes(TokenizerConfig.from_dict(data))
    save_file(random_state(shapes, seed), folder / "model.safetensors")


def write_decoder(folder: Path, like: Size = "real", seed: int = 0) -> None:
    """Write the decoder's folder."""
    values = DECODERS[like]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(released.DECODER_YAML.format(**values))
    sections = read_yaml(path, ("flow", "hift"))
    flow = random_state(flow_shapes(FlowConfig.from_dict(sections["flow"])), seed + 1)
    torch.save(flow, folder / "flow.pt")
    hift = random_state(hift_shapes(HiftConfig.from_dict(sections["hift"])), seed + 2)
    torch.save(hift, folder / "hift.pt")


def write_codec(folder: Path, like: Size = "real", seed: int = 0) -> None:
    """Write both folders below `folder`."""
    write_tokenizer(folder / "tokenizer", like, seed)
    write_decoder(folder / "decoder", like, seed)


def main(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    like: Annotated[str, typer.Option(help="Shapes: real, tiny or small.")] = "real",
    seed: Annotated[int, typer.Option(help="Seed of the weights.")] = 0,
) -> None:
    """Write a codec of random weights in the released files' form."""
    with exit_on_error():
        if like not in TOKENIZERS:
            raise typer.BadParameter(f"--like is {like!r}; expected {', '.join(TOKENIZERS)}")
        write_codec(out, cast(Size, like), seed)


if __name__ == "__main__":
    typer.run(main)
