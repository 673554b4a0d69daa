"""Names of weights as other tools write them: under the prefixes of wrappers around a model.

`torch.compile` puts `_orig_mod.` before every name, DDP and DataParallel `module.`, peft
`base_model.model.`; they may be nested. The released names begin after them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ttt_ref.errors import CheckpointError

WRAPPERS = ("_orig_mod.", "module.", "base_model.model.")
HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"
OTHER_HEAD_NOTE = (
    "config.json ties the output layer to the embedding, yet the stored lm_head.weight differs: "
    "the embedding is used, as transformers does; if the head was trained, set "
    "tie_word_embeddings to false in config.json"
)
# What peft adds beside the weights of a model that it wraps.
_ADAPTER_PARTS = (".base_layer.", ".lora_A.", ".lora_B.")


def wrapper_prefix(names: Iterable[str], folder: Path) -> str:
    """Return the prefix of wrappers that all names share; empty if there is none.

    Raises:
        CheckpointError: the names are those of a model with its adapter beside it.
    """
    rest = list(names)
    if not rest:
        return ""
    beside = next((name for name in rest if any(part in name for part in _ADAPTER_PARTS)), None)
    if beside is not None:
        raise CheckpointError(
            f"{folder} holds a model with an adapter that is not merged ({beside}); save it after "
            "peft's merge_and_unload, or export the base model with --adapter"
        )
    prefix = ""
    while True:
        for wrapper in WRAPPERS:
            longer = prefix + wrapper
            if all(name.startswith(longer) for name in rest):
                prefix = longer
                break
        else:
            return prefix


def prefix_note(prefix: str) -> str:
    """Return the line that says what was taken off the names."""
    return f"weights are stored under {prefix!r}, as a wrapper wrote them; that prefix is left out"
