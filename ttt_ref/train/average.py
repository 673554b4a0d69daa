"""Average the weights of checkpoints: ``python -m ttt_ref.train.average OUT A B [C...]``.

Checkpoints of one training, or of trainings that went on from one another, lie in one valley of the
loss, and their mean is often better than each of them, for nothing (Wortsman et al. 2022, arXiv
2203.05482). Checkpoints that were trained apart from the start have no useful mean; whatever comes
out is to be measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from tqdm import tqdm

from ttt_ref import checkpoint
from ttt_ref.errors import CheckpointError, ConfigError, exit_on_error
from ttt_ref.random_weights import DTYPES


def average(
    paths: Sequence[Path], out: Path, *, dtype: str | None = None, overwrite: bool = False
) -> None:
    """Write the mean of checkpoints.

    Means are taken in float32, one tensor at a time. Config and tokenizer are the first one's; what
    else lies in its folder (a codec) is not copied.

    Args:
        paths: two or more folders in the released format.
        out: folder to make.
        dtype: a key of :data:`ttt_ref.random_weights.DTYPES` to store the mean in; None takes the
            first one's.
        overwrite: replace ``out`` if it exists.

    Raises:
        CheckpointError: fewer than two, one that cannot be read, two of which one is another model
            (another shape, other token ids or another vocabulary), or a mean that is not finite or
            too large for ``dtype``.
        ConfigError: an unknown ``dtype``.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"unknown --dtype {dtype!r}; choose one of {', '.join(DTYPES)}")
    if len(paths) < 2:
        raise CheckpointError(f"{len(paths)} checkpoint to average; give two or more")
    with checkpoint.staged_folder(out, overwrite=overwrite) as staging:
        first, *others = (checkpoint.load(path, dtype=None) for path in paths)
        vocabulary = first.tokenizer.get_vocab()
        for path, other in zip(paths[1:], others, strict=True):
            for part, differs in (
                ("config", other.model.config != first.model.config),
                ("token ids", other.layout != first.layout),
                ("vocabulary", other.tokenizer.get_vocab() != vocabulary),
            ):
                if differs:
                    raise CheckpointError(
                        f"{path} and {paths[0]} differ in {part}; only checkpoints of one model "
                        "that was trained on have a mean"
                    )
        states = [other.model.state_dict() for other in others]
        means = first.model.state_dict(keep_vars=True)
        for name, mean in tqdm(means.items(), desc="averaging", unit="tensor"):
            total = mean.detach().float()
            for state in states:
                total = total + state[name].float()
            if not torch.isfinite(total).all():
                raise CheckpointError(
                    f"the mean of {name} is not finite; one of the checkpoints has NaN or infinity "
                    "there, take an earlier one"
                )
            stored = (total / len(paths)).to(DTYPES[dtype] if dtype else mean.dtype)
            if not torch.isfinite(stored).all():
                raise CheckpointError(
                    f"the mean of {name} reaches {total.abs().max() / len(paths):.3g}, which "
                    f"{dtype or mean.dtype} cannot hold; store it as bfloat16 or float32"
                )
            mean.data = stored
        config = checkpoint.read_config(paths[0])
        if dtype is not None:
            config["torch_dtype"] = dtype
        checkpoint.save(
            staging,
            first.model,
            paths[0],  # all files of its tokenizer
            first.layout,
            extra_config=config,
            overwrite=True,
        )


def main(
    out: Annotated[Path, typer.Argument(help="checkpoint folder to write")],
    paths: Annotated[list[Path], typer.Argument(help="checkpoint folders, two or more")],
    dtype: Annotated[
        str | None, typer.Option(help=f"store as {', '.join(DTYPES)} (default: as the first)")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace an existing folder")] = False,
) -> None:
    """Average the weights of checkpoints that were trained on from one another."""
    with exit_on_error():
        average(paths, out, dtype=dtype, overwrite=force)
        print(f"{out}: the mean of {len(paths)} checkpoints")


if __name__ == "__main__":
    typer.run(main)
