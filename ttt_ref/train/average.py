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
from ttt_ref.errors import CheckpointError, exit_on_error


def average(paths: Sequence[Path], out: Path, *, overwrite: bool = False) -> None:
    """Write the mean of checkpoints.

    Means are taken in float32, one tensor at a time, and stored in the first one's dtype. Config
    and tokenizer are the first one's; what else lies in its folder (a codec) is not copied.

    Args:
        paths: two or more folders in the released format.
        out: folder to make.
        overwrite: replace ``out`` if it exists.

    Raises:
        CheckpointError: fewer than two, one that cannot be read, or two of which one is another
            model (another shape, other token ids or another vocabulary) or has NaN in it.
    """
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
        for name, mean in tqdm(first.model.state_dict().items(), desc="averaging", unit="tensor"):
            total = mean.float()
            for state in states:
                total = total + state[name].float()
            if not torch.isfinite(total).all():
                raise CheckpointError(
                    f"the mean of {name} is not finite; one of the checkpoints has NaN or infinity "
                    "there, take an earlier one"
                )
            with torch.no_grad():
                mean.copy_(total / len(paths))
        checkpoint.save(
            staging,
            first.model,
            first.tokenizer,
            first.layout,
            extra_config=checkpoint.read_config(paths[0]),
            overwrite=True,
        )


def main(
    out: Annotated[Path, typer.Argument(help="checkpoint folder to write")],
    paths: Annotated[list[Path], typer.Argument(help="checkpoint folders, two or more")],
    force: Annotated[bool, typer.Option("--force", help="replace an existing folder")] = False,
) -> None:
    """Average the weights of checkpoints that were trained on from one another."""
    with exit_on_error():
        average(paths, out, overwrite=force)
        print(f"{out}: the mean of {len(paths)} checkpoints")


if __name__ == "__main__":
    typer.run(main)
