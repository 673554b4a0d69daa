"""Reading a checkpoint's tokenizer files without transformers.

``tokenizer.json`` is complete and preferred. Older folders hold only ``vocab.json``, ``merges.txt``
and a list of added tokens; from these the same Qwen2 tokenizer (NFC, byte-level BPE) is built.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from ttt_ref import bounded
from ttt_ref.bounded import TOKENIZER_BYTES, TOKENIZER_VALUES, check_plain
from ttt_ref.errors import CheckpointError

# All that a checkpoint folder may carry; copied as they are when a model is saved.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)

# Word boundaries of the Qwen2 tokenizer family.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def read_json(path: Path) -> Any:
    """Read a JSON file; CheckpointError if it is missing or not JSON."""
    try:
        return bounded.read_json(
            path,
            TOKENIZER_BYTES,
            CheckpointError,
            most_values=TOKENIZER_VALUES,
            advice="download it again",
        )
    except FileNotFoundError:
        raise CheckpointError(f"no {path.name} in {path.parent}; is this a checkpoint?") from None


def read_table(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds a table; CheckpointError if it does not."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no table of values; download it again")
    return content


def build_tokenizer(
    vocab: dict[str, int], merges: list[tuple[str, str]], added: list[tuple[int, AddedToken]]
) -> Tokenizer:
    """Make a Qwen2-style tokenizer from byte-level vocabulary, merges and added tokens.

    Args:
        vocab: token text in byte-level spelling -> id, ids 0..n-1.
        merges: pairs in order of priority.
        added: (id, token) of the added tokens; ids must follow the vocabulary without gaps.

    Raises:
        CheckpointError: an added token would get another id than stated.
    """
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    ordered = sorted(added, key=lambda pair: pair[0])
    tokenizer.add_tokens([token for _, token in ordered])
    for token_id, token in ordered:
        if tokenizer.token_to_id(token.content) != token_id:
            raise CheckpointError(
                f"tokenizer: {token.content} should have id {token_id}, but ids before it are "
                "missing; the tokenizer files do not belong together"
            )
    return tokenizer


def _read_added_tokens(folder: Path) -> list[tuple[int, AddedToken]]:
    config_file = folder / "tokenizer_config.json"
    entries = (
        read_table(config_file).get("added_tokens_decoder", {}) if config_file.exists() else {}
    )
    if entries:
        flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
        return [
            (
                int(token_id),
                AddedToken(entry["content"], **{f: bool(entry.get(f, False)) for f in flags}),
            )
            for token_id, entry in entries.items()
        ]
    names = read_table(folder / "added_tokens.json")
    return [(i, AddedToken(t, normalized=False, special=True)) for t, i in names.items()]


def _check_added_ids(tokenizer: Tokenizer, file: Path) -> None:
    """Refuse a file with gaps in its ids: the library would renumber the tokens silently."""
    entries = read_table(file).get("added_tokens") or []
    whole = isinstance(entries, list) and all(
        isinstance(e, dict) and isinstance(e.get("content"), str) and "id" in e for e in entries
    )
    if not whole:
        raise CheckpointError(f"{file} has added_tokens without content or id; download it again")
    for entry in entries:
        found = tokenizer.token_to_id(entry["content"])
        if found != entry["id"]:
            raise CheckpointError(
                f"{file} gives {entry['content']} the id {entry['id']}, but tokens before it are "
                f"missing and it would get {found}; download it again"
            )


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a checkpoint folder.

    Raises:
        CheckpointError: no tokenizer files, or files that cannot be read or do not fit together.
    """
    complete = folder / "tokenizer.json"
    if complete.exists():
        if check_plain(complete, CheckpointError) > TOKENIZER_BYTES:
            raise CheckpointError(f"{complete} is larger than 64 MiB; that is no tokenizer")
        try:
            tokenizer = Tokenizer.from_file(str(complete))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(
                f"{complete} cannot be read ({error}); download it again"
            ) from None
        _check_added_ids(tokenizer, complete)
        return tokenizer
    if not (folder / "vocab.json").exists() or not (folder / "merges.txt").exists():
        raise CheckpointError(
            f"no tokenizer in {folder}; expected tokenizer.json, or vocab.json with merges.txt"
        )
    merges_file = folder / "merges.txt"
    lines = bounded.read_text(merges_file, TOKENIZER_BYTES, CheckpointError).splitlines()
    merges = []
    for line in lines:
        if not line or line.startswith("#version"):
            continue
        first, _, second = line.partition(" ")
        merges.append((first, second))
    vocab = read_table(folder / "vocab.json")
    try:
        return build_tokenizer(vocab, merges, _read_added_tokens(folder))
    except CheckpointError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(
            f"tokenizer files in {folder} do not fit together ({error})"
        ) from None
