"""Find weights that no export can keep: NaN, infinite, or too large for float16."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ttt_export.weights import WeightSource, row_chunks
from ttt_ref.errors import CheckpointError, ExportError

FLOAT16_LIMIT = float(np.finfo(np.float16).max)


def check_values(weights: WeightSource, names: Iterable[str], compute: str) -> None:
    """Read every weight once, in pieces.

    Args:
        weights: the checkpoint's.
        names: which of them the export takes.
        compute: float type of the graphs.

    Raises:
        CheckpointError: a value is not finite; names the weight.
        ExportError: a value does not fit into float16, in which the graphs compute.
    """
    for name in names:
        for chunk in row_chunks(weights, name, 0, weights.shape(name)[0]):
            # Both ends are NaN if one value is.
            low, high = float(chunk.min()), float(chunk.max())
            if not np.isfinite(low) or not np.isfinite(high):
                count = int(np.count_nonzero(~np.isfinite(chunk)))
                raise CheckpointError(
                    f"weight {name} holds {count} values that are NaN or infinite; the training "
                    "diverged or the file is damaged: take an earlier checkpoint"
                )
            if compute == "float16" and max(-low, high) > FLOAT16_LIMIT:
                raise ExportError(
                    f"weight {name} holds {max(-low, high):.4g}, float16 ends at "
                    f"{FLOAT16_LIMIT:.0f}; choose -p bf16, or a precision that computes in float32"
                )
