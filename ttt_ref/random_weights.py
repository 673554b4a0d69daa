"""``ttt-random``: a random-weight checkpoint in the released format.

For tests and speed measurements without a download. Weights are made and written shard by shard,
so the memory needed is that of one shard, whatever the model's size.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import AddedToken, Tokenizer, pre_tokenizers
from torch import Tensor

from ttt_ref.checkpoint import RANDOM_MARK, config_dict, staged_folder, write_json, write_weights
from ttt_ref.codec.glm4voice.random_weights import write_codec
from ttt_ref.command_line import run_app
from ttt_ref.config import (
    AUDIO_MARKER,
    BEGIN_OF_AUDIO,
    BEGIN_OF_QUAD,
    END_OF_AUDIO,
    END_OF_AUDIO_NEW,
    END_OF_AUDIO_SPAN_LAST,
    IM_END,
    IM_START,
    MASK_TOKEN,
    PAD,
    ModelConfig,
    TokenLayout,
    code_token,
)
from ttt_ref.errors import CheckpointError, ConfigError, exit_on_error
from ttt_ref.model import TttModel
from ttt_ref.noise import NoiseConfig
from ttt_ref.tokenizer_files import build_tokenizer

SHARD_BYTES = 1_000_000_000
RELEASED_CODES = 16_384
CHUNK_VALUES = 16_000_000  # values drawn at a time: float32 draws of a large table stay small
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Special tokens of the Qwen2.5 family that TtT does not use, after <|im_end|>.
_QWEN_SPECIALS = (
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
_QWEN_REGULAR_TOKENS = 151_643
# The published vocabulary has 16 more tokens before the audio ones; their names do not matter.
_QWEN_FILLERS = tuple(f"<|unused_{index}|>" for index in range(16))


@dataclass(frozen=True)
class Like:
    """Shape and vocabulary of one choice of ``--like``."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    regular_tokens: int
    unused_specials: tuple[str, ...]
    num_codes: int
    dtype: str

    def specials(self) -> list[str]:
        """Return the special tokens in the official order."""
        if not self.num_codes:  # a plain model of text, as ttt-init wants it
            return [PAD, IM_START, IM_END, *self.unused_specials]
        return [
            *(PAD, IM_START, IM_END),
            *self.unused_specials,
            *(BEGIN_OF_AUDIO, END_OF_AUDIO, BEGIN_OF_QUAD, AUDIO_MARKER),
            *(code_token(code) for code in range(self.num_codes)),
            *(MASK_TOKEN, END_OF_AUDIO_NEW, END_OF_AUDIO_SPAN_LAST),
        ]

    def model_config(self) -> ModelConfig:
        """Return the model's shape."""
        return ModelConfig(
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            vocab_size=self.regular_tokens + len(self.specials()),
            rope_theta=1e6,
            rms_norm_eps=1e-6,
            tie_word_embeddings=True,
            max_position_embeddings=self.max_position_embeddings,
        )


def _qwen(hidden: int, intermediate: int, layers: int, heads: int, positions: int) -> Like:
    return Like(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        regular_tokens=_QWEN_REGULAR_TOKENS,
        unused_specials=_QWEN_SPECIALS + _QWEN_FILLERS,
        num_codes=16_384,
        dtype="bfloat16",
    )


LIKES = {
    "tiny": Like(64, 160, 3, 4, 2, 2048, 256, (), 64, "float32"),
    # The published form in every token and file, small enough for a test.
    "released-tiny": Like(
        64, 160, 3, 4, 2, 512, 256, _QWEN_SPECIALS + _QWEN_FILLERS, 16_384, "bfloat16"
    ),
    # A plain Qwen2.5 checkpoint without speech tokens, for ttt-init.
    "plain-tiny": Like(64, 160, 3, 4, 2, 2048, 256, _QWEN_SPECIALS, 0, "float32"),
    "qwen2.5-0.5b": _qwen(896, 4864, 24, 14, 32_768),
    "qwen2.5-1.5b": _qwen(1536, 8960, 28, 12, 131_072),
    "qwen2.5-3b": _qwen(2048, 11_008, 36, 16, 32_768),
}


def make_tokenizer(regular_tokens: int, specials: list[str]) -> Tokenizer:
    """Return a byte-level BPE tokenizer with invented merges.

    Args:
        regular_tokens: at least 256; first the byte alphabet, then all pairs of bytes, then all
            triples, as far as the number goes (at most 256 + 256^2 + 256^3).
        specials: special tokens that follow.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: token_id for token_id, letter in enumerate(letters)}
    merges: list[tuple[str, str]] = []
    parts = letters
    while len(vocab) < regular_tokens:
        longer = []
        for first in parts:
            for second in letters:
                if len(vocab) == regular_tokens:
                    break
                merges.append((first, second))
                longer.append(first + second)
                vocab[first + second] = len(vocab)
        parts = longer
    added = [
        (regular_tokens + index, AddedToken(token, normalized=False, special=True))
        for index, token in enumerate(specials)
    ]
    return build_tokenizer(vocab, merges, added)


def random_checkpoint(
    out: str | Path,
    like: str = "tiny",
    *,
    seed: int = 0,
    dtype: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write a random-weight checkpoint folder.

    Args:
        out: folder to make; complete or not there at all.
        like: a key of :data:`LIKES`.
        seed: seed of all weights.
        dtype: a key of :data:`DTYPES`; None takes float32 for tiny, bfloat16 for the others.
        overwrite: replace an existing folder.
        progress: called with the bytes of each finished weight.

    Raises:
        ConfigError: an unknown ``like`` or ``dtype``.
        CheckpointError: the folder exists, or the disk has too little room.
    """
    if like not in LIKES:
        raise ConfigError(f"unknown --like {like!r}; choose one of {', '.join(LIKES)}")
    shape = LIKES[like]
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"unknown --dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    torch_dtype = DTYPES[dtype or shape.dtype]
    config = shape.model_config()
    sizes = weight_sizes(config, torch_dtype)
    with staged_folder(out, overwrite=overwrite) as staging:
        needed, free = sum(sizes.values()), shutil.disk_usage(staging).free
        if needed > free:
            raise CheckpointError(
                f"{needed / 1e9:.1f} GB are needed for {out}, {free / 1e9:.1f} GB are free"
            )
        tokenizer = make_tokenizer(shape.regular_tokens, shape.specials())
        tokenizer.save(str(staging / "tokenizer.json"))
        _write_tokenizer_config(staging, tokenizer, config)
        hf_config = _hf_config(shape, config, tokenizer, torch_dtype)
        write_json(staging / "config.json", hf_config)
        weights = random_weights(config, torch_dtype, seed, progress)
        mark = {RANDOM_MARK: f"seed {seed}"}
        write_weights(staging, weights, sizes, SHARD_BYTES, mark)


def weight_sizes(config: ModelConfig, dtype: torch.dtype) -> dict[str, int]:
    """Return weight name -> bytes, without making any weight."""
    with torch.device("meta"):
        state = TttModel(config).state_dict()
    return {name: value.numel() * dtype.itemsize for name, value in state.items()}


def random_weights(
    config: ModelConfig,
    dtype: torch.dtype,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor): normal matrices and biases, unit norms."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        state = TttModel(config).state_dict()
    for name, value in state.items():
        tensor = torch.ones(value.shape, dtype=dtype)
        if "norm" not in name:
            flat = tensor.view(-1)
            for start in range(0, flat.numel(), CHUNK_VALUES):
                part = flat[start : start + CHUNK_VALUES]
                draws = torch.empty(part.shape).normal_(generator=generator)
                part.copy_(draws * config.initializer_range)
        if progress is not None:
            progress(tensor.numel() * tensor.element_size())
        yield name, tensor


def _hf_config(
    shape: Like, config: ModelConfig, tokenizer: Tokenizer, dtype: torch.dtype
) -> dict[str, Any]:
    """Return config.json: the released form, or a plain Qwen2.5's where there are no codes."""
    if not shape.num_codes:
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            **config.to_dict(),
            "hidden_act": "silu",
            "torch_dtype": str(dtype).removeprefix("torch."),
        }
    hf_config = config_dict(config, _layout(tokenizer, config), dtype)
    noise = NoiseConfig()
    hf_config["unmasked_audio_prob"] = noise.unmasked_audio_prob
    hf_config["prefix_preservation_ratio"] = noise.prefix_preservation_ratio
    return hf_config


def _layout(tokenizer: Tokenizer, config: ModelConfig) -> TokenLayout:
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    return TokenLayout.from_vocab(vocab, {"vocab_size": config.vocab_size})


def _write_tokenizer_config(folder: Path, tokenizer: Tokenizer, config: ModelConfig) -> None:
    """Write the two small files that transformers wants beside tokenizer.json."""
    decoder = {
        str(token_id): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for token_id, token in sorted(tokenizer.get_added_tokens_decoder().items())
    }
    names = {"eos_token": PAD, "pad_token": PAD, "unk_token": PAD}
    content = {
        "added_tokens_decoder": decoder,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": config.max_position_embeddings,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        **names,
    }
    write_json(folder / "tokenizer_config.json", content)
    write_json(folder / "special_tokens_map.json", names)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def _command(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    like: Annotated[str, typer.Option(help=f"Shape: {', '.join(LIKES)}.")] = "tiny",
    seed: Annotated[int, typer.Option(help="Seed of the weights.")] = 0,
    dtype: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(DTYPES)}; default float32 for tiny, else bfloat16."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing folder.")] = False,
    codec: Annotated[
        Path | None,
        typer.Option(
            help="Also write a random GLM-4-Voice codec here (tokenizer/, decoder/): in its real "
            "shapes, for a tiny model in small ones with all codes."
        ),
    ] = None,
) -> None:
    """Write a random-weight checkpoint in the released format."""
    with exit_on_error(), _progress_bar() as bar:
        if codec is not None and like in LIKES and LIKES[like].num_codes != RELEASED_CODES:
            raise ConfigError(
                f"--codec needs a --like with the {RELEASED_CODES} released codes; {like} has "
                f"{LIKES[like].num_codes}"
            )
        if codec is not None and codec.exists() and not force:
            raise CheckpointError(f"{codec} exists already; choose another name or --force")
        task = bar.add_task("weights", total=None)
        if like in LIKES:
            stored = DTYPES.get(dtype or LIKES[like].dtype, torch.float32)
            bar.update(task, total=sum(weight_sizes(LIKES[like].model_config(), stored).values()))
        random_checkpoint(
            out,
            like,
            seed=seed,
            dtype=dtype,
            overwrite=force,
            progress=lambda done: bar.advance(task, done),
        )
        if codec is not None:
            with staged_folder(codec, overwrite=force) as staging:
                write_codec(staging, "small" if like == "released-tiny" else "real", seed)
    megabytes = math.ceil(sum(file.stat().st_size for file in out.iterdir()) / 1e6)
    typer.echo(f"{out}: {like}, {megabytes} MB")


def _progress_bar() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def main() -> None:
    """Entry point of ``ttt-random``."""
    run_app(app)


if __name__ == "__main__":
    main()
