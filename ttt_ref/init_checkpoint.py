"""``ttt-init``: a plain Qwen2.5 checkpoint becomes a Text-to-Talk checkpoint, ready for training.

The vocabulary gets the speech tokens in the published order: the fillers that bring the text side
to its published length, the begin and end tags, ``<|audio|>``, the codes, the mask and both end
tokens. Old rows stay as they are; new ones are drawn around the mean of the old rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors import SafetensorError, safe_open
from tokenizers import AddedToken, Tokenizer
from torch import Tensor

from ttt_ref.bounded import check_plain
from ttt_ref.checkpoint import (
    config_dict,
    iter_weights,
    read_config,
    staged_folder,
    weight_files,
    write_json,
    write_weights,
)
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
from ttt_ref.hub import find_folder
from ttt_ref.tokenizer_files import load_tokenizer, read_json

BASE_ARCHITECTURE = "Qwen2ForCausalLM"
TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# <|begin_of_audio|> has this id in the published vocabulary; names before it do not matter.
PUBLISHED_BEGIN = 151_681
HUB_PATTERNS = ("*.json", "*.safetensors", "*.txt")


def new_tokens(known: int, codes: int) -> list[str]:
    """Return the tokens to add behind `known` ids, in the published order."""
    fillers = PUBLISHED_BEGIN - known if 0 <= PUBLISHED_BEGIN - known < 64 else 0
    return [
        *(f"<|unused_{index}|>" for index in range(fillers)),
        *(BEGIN_OF_AUDIO, END_OF_AUDIO, BEGIN_OF_QUAD, AUDIO_MARKER),
        *(code_token(code) for code in range(codes)),
        *(MASK_TOKEN, END_OF_AUDIO_NEW, END_OF_AUDIO_SPAN_LAST),
    ]


def extend_tokenizer(tokenizer: Tokenizer, codes: int) -> TokenLayout:
    """Add the speech tokens and return the layout.

    Raises:
        CheckpointError: not a Qwen2.5 tokenizer, or one that has speech tokens already.
    """
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    if missing := [token for token in (PAD, IM_START, IM_END) if token not in vocab]:
        raise CheckpointError(
            f"the tokenizer has no {missing[0]} token; expected that of a Qwen2.5 checkpoint"
        )
    if code_token(0) in vocab:
        raise CheckpointError(
            f"the tokenizer has {code_token(0)} already: a Text-to-Talk checkpoint, ready to train"
        )
    known = max(vocab.values()) + 1
    added = new_tokens(known, codes)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in added])
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    return TokenLayout.from_vocab(vocab, {"vocab_size": known + len(added)})


def extended(table: Tensor, known: int, rows: int, generator: torch.Generator) -> Tensor:
    """Return a table [rows, hidden] whose first `known` rows are those of `table`.

    New rows are the mean of the known ones plus noise of half their spread: near enough to what
    the layers have seen, and apart from each other.
    """
    used = table[:known].float()
    noise = torch.randn(rows - known, table.shape[1], generator=generator)
    fresh = used.mean(0) + 0.5 * used.std(0) * noise
    return torch.cat([table[:known], fresh.to(table.dtype)])


def init_checkpoint(
    base: Path,
    out: Path,
    *,
    codes: int = 16_384,
    tied: bool | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> TokenLayout:
    """Write a Text-to-Talk checkpoint made of a Qwen2.5 one.

    Args:
        base: folder of the Qwen2.5 checkpoint.
        out: folder to make; complete or not there at all.
        codes: code book of the speech tokenizer.
        tied: share the embedding with the output layer; None does what the base does. A tied
            base that is untied starts with two equal tables.
        seed: of the new rows.
        overwrite: replace `out`.

    Raises:
        CheckpointError: not a Qwen2.5 checkpoint, damaged files, or `out` exists.
        ConfigError: an untied base cannot be tied, or there are no codes.
    """
    if codes < 1:
        raise ConfigError(f"--codes is {codes}; expected the size of a code book, 1 or more")
    raw = read_config(base)
    named = raw.get("architectures") or ["none"]
    if BASE_ARCHITECTURE not in named:
        raise CheckpointError(
            f"{base}: config.json names the architecture {', '.join(map(str, named))}; expected "
            f"{BASE_ARCHITECTURE} (Qwen2.5)"
        )
    try:
        config = ModelConfig.from_dict({k: v for k, v in raw.items() if k != "architectures"})
    except ConfigError as error:
        raise CheckpointError(f"{base}: {error}") from None
    was_tied = config.tie_word_embeddings
    tied = was_tied if tied is None else tied
    if tied and not was_tied:
        raise ConfigError(
            f"{base} has an output layer of its own, which --tied would throw away; use --untied"
        )
    tokenizer = load_tokenizer(base)
    known = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    layout = extend_tokenizer(tokenizer, codes)
    sizes, dtype = _stored(base, layout.vocab_size, known, config.hidden_size)
    if was_tied:
        sizes.pop(HEAD, None)  # some writers store the tied rows twice
        if not tied:
            sizes[HEAD] = sizes[TABLE]
    shape = ModelConfig(
        **{**config.to_dict(), "vocab_size": layout.vocab_size, "tie_word_embeddings": tied}
    )
    with staged_folder(out, overwrite=overwrite) as staging:
        needed, free = sum(sizes.values()), shutil.disk_usage(staging).free
        if needed > free:
            raise CheckpointError(
                f"{needed / 1e9:.1f} GB are needed for {out}, {free / 1e9:.1f} GB are free"
            )
        write_json(staging / "config.json", config_dict(shape, layout, dtype))
        tokenizer.save(str(staging / "tokenizer.json"))
        _copy_tokenizer_config(base, staging)
        found = _weights(base, known, layout.vocab_size, was_tied, tied, seed)
        write_weights(staging, found, sizes)
    return layout


def _stored(base: Path, rows: int, known: int, hidden: int) -> tuple[dict[str, int], torch.dtype]:
    """Return name -> bytes of what will be written, in the order of reading, and the dtype."""
    sizes: dict[str, int] = {}
    dtype = torch.float32
    for file in weight_files(base):
        check_plain(file, CheckpointError)
        try:
            with safe_open(str(file), framework="pt", device="cpu") as shard:
                for name in shard.keys():  # noqa: SIM118 (no mapping, it has no iterator)
                    part = shard.get_slice(name)
                    shape = list(part.get_shape())
                    one = shard.get_tensor(name) if name == TABLE else None
                    if one is not None:
                        dtype = one.dtype
                    if name in (TABLE, HEAD):
                        if len(shape) != 2 or shape[0] < known or shape[1] != hidden:
                            raise CheckpointError(
                                f"{base}: {name} has shape {shape}; expected at least {known} rows "
                                f"of {hidden}"
                            )
                        shape[0] = rows
                    sizes[name] = torch.Size(shape).numel() * _width(str(part.get_dtype()))
        except SafetensorError as error:
            raise CheckpointError(
                f"{file} is truncated or damaged ({error}); download it again"
            ) from None
    if TABLE not in sizes:
        raise CheckpointError(f"{base} has no weight {TABLE}; expected a Qwen2.5 checkpoint")
    return sizes, dtype


def _width(name: str) -> int:
    widths = {"F32": 4, "F16": 2, "BF16": 2}
    if name not in widths:
        raise CheckpointError(f"weights of type {name}; expected {', '.join(widths)}")
    return widths[name]


def _weights(
    base: Path, known: int, rows: int, was_tied: bool, tied: bool, seed: int
) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights in the order of `_stored`, a head made of the table last."""
    head: Tensor | None = None
    for name, value in iter_weights(base):
        if name == HEAD and was_tied:
            continue
        if name in (TABLE, HEAD):
            generator = torch.Generator().manual_seed(seed + (name == HEAD))
            value = extended(value, known, rows, generator)
        if name == TABLE and was_tied and not tied:
            head = value.clone()
        yield name, value
    if head is not None:
        yield HEAD, head


def _copy_tokenizer_config(base: Path, out: Path) -> None:
    """Keep tokenizer_config.json but for its list of tokens, which tokenizer.json holds."""
    file = base / "tokenizer_config.json"
    if not file.is_file():
        return
    content = read_json(file)
    if isinstance(content, dict):
        content.pop("added_tokens_decoder", None)
        write_json(out / "tokenizer_config.json", content)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def _command(
    base: Annotated[str, typer.Argument(help="Qwen2.5 checkpoint: folder, or hub name.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    codes: Annotated[int, typer.Option(help="Code book of the speech tokenizer.")] = 16_384,
    tied: Annotated[
        bool | None,
        typer.Option("--tied/--untied", help="Share embedding and output layer; default: as base."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the new rows.")] = 0,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub name.")] = (
        None
    ),
    local_files_only: Annotated[
        bool, typer.Option("--local-files-only", help="Use downloaded files only.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing folder.")] = False,
) -> None:
    """Make a Text-to-Talk checkpoint of a plain Qwen2.5 one: its vocabulary with speech tokens."""
    with exit_on_error():
        folder = find_folder(
            base, revision=revision, local_files_only=local_files_only, patterns=HUB_PATTERNS
        )
        layout = init_checkpoint(folder, out, codes=codes, tied=tied, seed=seed, overwrite=force)
        typer.echo(
            f"{out}: {layout.vocab_size} rows, {layout.num_codes} codes from id "
            f"{layout.code_offset}"
        )


def main() -> None:
    """Entry point of ``ttt-init``."""
    run_app(app)


if __name__ == "__main__":
    main()
