"""Write the embedding table: raw rows that the runtime maps from its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ttt_export.source import Checkpoint
from ttt_export.weights import row_chunks
from ttt_ref.errors import ExportError
from ttt_runtime.bundle.manifest import EmbeddingsEntry

EMBEDDINGS = "model.embed_tokens.weight"
FLOAT16_LIMIT = float(np.finfo(np.float16).max)


def write_table(
    checkpoint: Checkpoint, dtype: str, folder: Path, table_file: str, scales_file: str
) -> EmbeddingsEntry:
    """Write all rows in pieces.

    Args:
        checkpoint: gives the rows.
        dtype: float32, float16, or int8 with one float32 scale a row.
        folder: where to write.
        table_file: name of the table.
        scales_file: name of the scales, written for int8 only.

    Returns:
        The bundle's entry.

    Raises:
        ExportError: a value does not fit into float16.
    """
    rows, columns = checkpoint.weights.shape(EMBEDDINGS)
    scales = []
    with (folder / table_file).open("wb") as file:
        for chunk in row_chunks(checkpoint.weights, EMBEDDINGS, 0, rows):
            if dtype == "int8":
                peak = np.maximum(np.abs(chunk).max(axis=1, keepdims=True), 1e-12)
                scale = (peak / 127).astype("<f4")
                scales.append(scale)
                file.write(np.rint(chunk / scale).astype(np.int8).tobytes())
            elif dtype == "float16":
                if float(np.abs(chunk).max()) > FLOAT16_LIMIT:
                    raise ExportError("an embedding value does not fit into float16; use fp32")
                file.write(chunk.astype("<f2").tobytes())
            else:
                file.write(chunk.astype("<f4").tobytes())
    if dtype != "int8":
        return EmbeddingsEntry(table_file, dtype, rows, columns)
    (folder / scales_file).write_bytes(np.concatenate(scales).tobytes())
    return EmbeddingsEntry(table_file, dtype, rows, columns, scales_file)
