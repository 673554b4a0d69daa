"""Reading and writing checkpoint folders in the released Hugging Face format.

``config.json``, ``model.safetensors`` (or shards with ``model.safetensors.index.json``) and the
tokenizer files. Weights are read from safetensors only: a pickle can run code.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from ttt_ref.bounded import check_plain, shown
from ttt_ref.config import ARCHITECTURE, ModelConfig, TokenLayout
from ttt_ref.errors import CheckpointError, ConfigError
from ttt_ref.model import TttModel
from ttt_ref.outputs import staged
from ttt_ref.tokenizer_files import TOKENIZER_FILES, load_tokenizer, read_json
from ttt_ref.weight_names import HEAD, OTHER_HEAD_NOTE, TABLE, prefix_note, wrapper_prefix

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARD_BYTES = 4_000_000_000
# In the metadata of a weight file: its weights were drawn, nothing was ever learnt. There and not
# in config.json, so that a random checkpoint has the published form to the letter.
RANDOM_MARK = "ttt_random"


class Loaded(NamedTuple):
    """What :func:`load` returns; unpacks as ``model, tokenizer, layout``."""

    model: TttModel
    tokenizer: Tokenizer
    layout: TokenLayout


def read_config(path: str | Path) -> dict[str, Any]:
    """Return the checkpoint's ``config.json`` as it stands, extra keys included.

    Raises:
        CheckpointError: the folder or the file is missing, or it is no JSON table.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint folder at {folder}; check the path")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise CheckpointError(f"{folder / 'config.json'} holds no table of values")
    return config


def read_model_config(path: str | Path) -> ModelConfig:
    """Return the model's shape; CheckpointError for another architecture or a bad value."""
    config = read_config(path)
    named = config.get("architectures")
    named = named if isinstance(named, list) and named else [named or "none"]
    if ARCHITECTURE not in named:
        found = shown(", ".join(map(str, named[:3])))
        raise CheckpointError(
            f"{path}: config.json names the architecture {found}; expected {ARCHITECTURE}"
        )
    try:
        return ModelConfig.from_dict(config)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None


def read_layout(path: str | Path, tokenizer: Tokenizer) -> TokenLayout:
    """Return the token ids of a checkpoint.

    Raises:
        CheckpointError: a special token is missing, an id lies outside the embedding rows, or
            config.json contradicts the tokenizer.
    """
    config = read_config(path)
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    try:
        layout = TokenLayout.from_vocab(vocab, config)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    highest = max(vocab.values())
    if highest >= layout.vocab_size:
        raise CheckpointError(
            f"{path}: the tokenizer goes up to id {highest}, but the model has only "
            f"{layout.vocab_size} embedding rows; tokenizer and weights do not belong together"
        )
    return layout


def load(
    path: str | Path,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: str | torch.device = "cpu",
) -> Loaded:
    """Read a checkpoint folder.

    Args:
        path: folder in the released format.
        dtype: dtype of the weights in memory; None keeps the stored one.
        device: where the weights go.

    Returns:
        The model in evaluation mode, the tokenizer and the token layout.

    Raises:
        CheckpointError: anything missing, damaged, of another architecture or of another shape.
    """
    folder = Path(path)
    config = read_model_config(folder)
    tokenizer = load_tokenizer(folder)
    layout = read_layout(folder, tokenizer)
    with torch.device("meta"):
        model = TttModel(config)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    state: dict[str, Tensor] = {}
    for name, value in iter_weights(folder):
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue  # some writers store the tied rows twice
        if name not in expected:
            raise CheckpointError(f"{folder}: unexpected weight {name!r} in the checkpoint")
        if tuple(value.shape) != expected[name]:
            raise CheckpointError(
                f"{folder}: weight {name!r} has shape {list(value.shape)}, config.json asks for "
                f"{list(expected[name])}"
            )
        state[name] = value.to(device=device, dtype=dtype or value.dtype)
    missing = sorted(set(expected) - set(state))
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} weights are missing, the first is {missing[0]!r}"
        )
    model.load_state_dict(state, assign=True)
    return Loaded(model.eval(), tokenizer, layout)


def iter_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield (name, tensor) of all weights, file by file, without a wrapper's prefix.

    Raises:
        CheckpointError: a file is damaged.
    """
    prefix = weight_prefix(folder)
    for file in weight_files(folder):
        with _opened(file) as shard:
            for name in shard.keys():  # noqa: SIM118 (no mapping, it has no iterator)
                yield name.removeprefix(prefix), shard.get_tensor(name)


def weight_prefix(folder: Path) -> str:
    """Return the prefix of wrappers before all names (see `weight_names`); empty: there is none."""
    names: list[str] = []
    for file in weight_files(folder):
        with _opened(file) as shard:
            names += shard.keys()
    return wrapper_prefix(names, folder)


def read_notes(folder: Path) -> list[str]:
    """Return what a user should know of a checkpoint that can be read; a line each."""
    prefix = weight_prefix(folder)
    notes = [prefix_note(prefix)] if prefix else []
    if read_model_config(folder).tie_word_embeddings:
        found = {name: value for name, value in iter_weights(folder) if name in (HEAD, TABLE)}
        if HEAD in found and not torch.equal(found[HEAD], found[TABLE]):
            notes.append(OTHER_HEAD_NOTE)
    return notes


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    check_plain(file, CheckpointError)
    try:
        with safe_open(str(file), framework="pt", device="cpu") as shard:
            yield shard
    except SafetensorError as error:
        raise CheckpointError(
            f"{file} is truncated or damaged ({error}); download it again"
        ) from None


def is_random(folder: Path) -> bool:
    """Tell whether a checkpoint's weights were drawn by `ttt-random`.

    Raises:
        CheckpointError: there are no weight files, or the first is damaged.
    """
    with _opened(weight_files(folder)[0]) as shard:
        return RANDOM_MARK in (shard.metadata() or {})


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint, in order.

    Raises:
        CheckpointError: there are none, a shard is missing, or the index points outside.
    """
    single, index = folder / SINGLE_FILE, folder / INDEX_FILE
    if single.exists() and not index.exists():
        return [single]
    if not index.exists():
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        hint = " (pickled weights are not read: convert them to safetensors)" if pickled else ""
        raise CheckpointError(f"no {SINGLE_FILE} or {INDEX_FILE} in {folder}{hint}")
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map; download it again")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index} names {name!r}, which is no safetensors file beside it")
        if not (folder / name).exists():
            raise CheckpointError(f"shard {name} is missing in {folder}; download it again")
    return [folder / name for name in names]


def save(
    path: str | Path,
    model: TttModel,
    tokenizer: Tokenizer | str | Path,
    layout: TokenLayout,
    *,
    extra_config: Mapping[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
) -> None:
    """Write a checkpoint folder in the released format.

    It is written beside ``path`` under a temporary name and renamed when complete.

    Args:
        path: folder to make.
        model: weights, stored in the dtype they have.
        tokenizer: a tokenizer (written as tokenizer.json), or a folder to copy the files from.
        layout: token ids; ``audio_token_id_start`` and ``mask_token`` go into config.json.
        extra_config: further keys for config.json.
        shard_bytes: largest size of one weight file; more is split into shards with an index.
        overwrite: replace ``path`` if it exists; otherwise that is a CheckpointError.
    """
    with staged_folder(path, overwrite=overwrite) as staging:
        dtype = next(iter(model.state_dict().values())).dtype
        config = config_dict(model.config, layout, dtype)
        write_json(staging / "config.json", {**config, **(extra_config or {})})
        weights = model.state_dict()
        sizes = {name: value.numel() * value.element_size() for name, value in weights.items()}
        write_weights(staging, weights.items(), sizes, shard_bytes)
        write_tokenizer(staging, tokenizer)


def config_dict(config: ModelConfig, layout: TokenLayout, dtype: torch.dtype) -> dict[str, Any]:
    """Return config.json in the released form."""
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "qwen2",
        **config.to_dict(),
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "audio_token_id_start": layout.audio_start,
        "mask_token": layout.mask_id,
        "bos_token_id": layout.pad_id,
        "eos_token_id": layout.im_end_id,
        "rope_scaling": None,
        "use_sliding_window": False,
        "use_cache": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def write_json(path: Path, content: Any) -> None:
    """Write JSON as the released files have it: indented, keys in order."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def write_weights(
    folder: Path,
    weights: Iterable[tuple[str, Tensor]],
    sizes: Mapping[str, int],
    shard_bytes: int = SHARD_BYTES,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write weights as one file, or as shards with an index, holding one shard in memory.

    Args:
        folder: where to write.
        weights: (name, tensor) in the order of ``sizes``; may be a generator.
        sizes: name -> bytes of all weights: decides the shards before any weight exists.
        shard_bytes: largest size of a file; a single larger tensor gets a file of its own.
        metadata: further entries for the header of each file.
    """
    shard_of: dict[str, int] = {}
    shard, filled = 0, 0
    for name, size in sizes.items():
        if filled and filled + size > shard_bytes:
            shard, filled = shard + 1, 0
        shard_of[name] = shard
        filled += size
    count = shard + 1

    def file_name(number: int) -> str:
        return SINGLE_FILE if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"

    held: dict[str, Tensor] = {}
    current = 0
    for name, value in weights:
        if shard_of[name] != current:
            _write_shard(folder / file_name(current), held, metadata)
            held, current = {}, shard_of[name]
        held[name] = value.detach().to("cpu").contiguous()
    _write_shard(folder / file_name(current), held, metadata)
    if count > 1:
        weight_map = {name: file_name(number) for name, number in shard_of.items()}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        write_json(folder / INDEX_FILE, index)


def _write_shard(
    file: Path, weights: dict[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    try:
        save_file(weights, str(file), metadata={"format": "pt", **(metadata or {})})
    except SafetensorError as error:  # its only cause here: the file system
        raise CheckpointError(f"{file} cannot be written ({error})") from None
    file.chmod(0o644)  # the library makes it private


def write_tokenizer(folder: Path, tokenizer: Tokenizer | str | Path) -> None:
    """Write ``tokenizer.json``, or copy the tokenizer files of another folder."""
    if isinstance(tokenizer, Tokenizer):
        tokenizer.save(str(folder / "tokenizer.json"))
        return
    found = [Path(tokenizer) / name for name in TOKENIZER_FILES]
    found = [file for file in found if file.exists()]
    if not found:
        raise CheckpointError(f"no tokenizer files in {tokenizer}")
    for file in found:
        shutil.copyfile(file, folder / file.name)


@contextlib.contextmanager
def staged_folder(path: str | Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary folder beside ``path`` that becomes ``path`` when the block succeeds.

    Raises:
        CheckpointError: ``path`` exists and ``overwrite`` is false, or it is a file.
    """
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise CheckpointError(f"{target} is a file; a folder is written here")
    if target.exists() and not overwrite:
        raise CheckpointError(f"{target} exists already; choose another name or overwrite")
    target.parent.mkdir(parents=True, exist_ok=True)
    with staged(target, folder=True) as staging:
        yield staging
