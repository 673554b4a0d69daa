"""Checkpoints by name: a folder of this machine, or a repository of the hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ttt_ref.errors import CheckpointError


def find_folder(
    model: str,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    patterns: Sequence[str],
) -> Path:
    """Return the folder of a checkpoint: `model` is a folder, or an `org/name` of the hub.

    Downloads resume where they stopped; `HF_HUB_OFFLINE` and the other variables of
    huggingface_hub hold. `revision` belongs to hub names only; `patterns` say which files of the
    repository are fetched.

    Raises:
        CheckpointError: the folder or the repository cannot be had.
    """
    if Path(model).exists():
        if revision is not None:
            raise CheckpointError(f"{model} is a folder; --revision belongs to hub names")
        return Path(model)
    parts = model.split("/")
    if len(parts) != 2 or not all(parts) or model.startswith((".", "~")):
        raise CheckpointError(f"no checkpoint folder at {model}, and it is no hub name (org/name)")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                model,
                revision=revision,
                local_files_only=local_files_only,
                allow_patterns=list(patterns),
            )
        )
    except Exception as error:  # many classes over the library's versions and its HTTP client
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        offline = " (offline: only downloaded files are used)" if local_files_only else ""
        raise CheckpointError(f"hub checkpoint {model} cannot be had{offline}: {reason}") from None
