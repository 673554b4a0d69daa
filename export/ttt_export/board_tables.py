"""Memory and estimated speed of models on boards: ``python -m ttt_export.board_tables``.

Memory is what the runtime's own check counts before it loads a bundle (weights, a cache of 4096
rows, the program), with the sizes that the exporter writes. Speed is a roofline:

    time = max(bytes / (share of bandwidth * bandwidth),
               operations / (share of products * products))

with the shares of `boards`. The tests hold docs/boards.md to what this prints.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

from ttt_export.boards import BOARDS, SHARES, Board
from ttt_export.memory_plan import plan_export
from ttt_export.source import Checkpoint
from ttt_quant.recipe import Recipe, default_recipe
from ttt_ref.config import ModelConfig
from ttt_ref.random_weights import LIKES, Like
from ttt_runtime.backends.requirements import gib, needed_memory
from ttt_runtime.backends.tensorrt.api import FLAVOURS
from ttt_runtime.backends.tensorrt.loader import ENGINE_FOLDER
from ttt_runtime.bundle.basic_spec import BASIC, OPERATORS
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.graph_spec import DECODER, decoder_spec

SIZES: Final = {"0.5B": "qwen2.5-0.5b", "1.5B": "qwen2.5-1.5b", "3B": "qwen2.5-3b"}
MEMORY_GIB: Final = (4, 8, 16, 32, 64)
# Of a board's memory, what the system and a desktop leave to programs.
USABLE: Final = 0.8
# The GLM-4-Voice codec's files in bytes (docs/glm4voice.md), by the precision of its graphs.
CODEC_BYTES: Final = {"fp16": 957e6, "int8": 521e6}
CONTEXT_ROWS: Final = 512
BLOCK_ROWS: Final = 27


@dataclass(frozen=True)
class Sized:
    """A model in one precision for one engine: bytes of its weights, and what it needs in all."""

    model: ModelConfig
    weights_bytes: int
    table_bytes: int
    memory_bytes: int


def sized(like: str, precision: str, engine: str) -> Sized:
    """Return the sizes of a model without making it."""
    shape, recipe = LIKES[like], default_recipe(precision, engine)
    model = shape.model_config()
    bundle_bytes = plan_export(_shape_of(shape, model), recipe).bundle_bytes
    table = model.vocab_size * model.hidden_size * _element_bytes(recipe.embeddings)
    codec = CODEC_BYTES["int8" if recipe.codec == "int8" else "fp16"]
    files = {"decoder.onnx": bundle_bytes - table, "embeddings.bin": table, "codec/all": int(codec)}
    memory = needed_memory(_described(model, recipe, engine, precision, files))
    return Sized(model, bundle_bytes - table, table, memory)


def _shape_of(shape: Like, model: ModelConfig) -> Checkpoint:
    """Return what the planner asks of a checkpoint."""
    layout = SimpleNamespace(audio_start=model.vocab_size - shape.num_codes - 4)
    return cast(Checkpoint, SimpleNamespace(model=model, layout=layout))


def _described(
    model: ModelConfig, recipe: Recipe, engine: str, precision: str, files: dict[str, int]
) -> Bundle:
    """Return what the runtime's check reads of a bundle of the basic form with these files."""
    spec = decoder_spec(model, "C", recipe.compute)
    basic = replace(spec, attributes={**spec.attributes, OPERATORS: BASIC})
    if engine in FLAVOURS:
        files = {f"{ENGINE_FOLDER}/all": files.pop("decoder.onnx"), **files}
    config: Any = SimpleNamespace(
        engine=engine,
        precision=precision,
        files={name: SimpleNamespace(bytes=size) for name, size in files.items()},
        graphs={DECODER: SimpleNamespace(file="decoder.onnx", spec=basic)},
        model=model,
    )
    return Bundle(Path(), config)


def _element_bytes(dtype: str) -> int:
    return {"float32": 4, "float16": 2, "int8": 1}[dtype]


def memory_table() -> list[str]:
    """Return what each model needs and which boards hold it, as Markdown."""
    lines = [
        f"| model | engine | CPU | {' | '.join(f'{size} GB' for size in MEMORY_GIB)} |",
        f"| --- | ---: | ---: |{' --- |' * len(MEMORY_GIB)}",
    ]
    for size, like in SIZES.items():
        for precision in ("int4", "int8", "fp16"):
            needs = [sized(like, precision, name).memory_bytes for name in ("tensorrt", "cpu")]
            fits = [_fits(needs, memory * 2**30 * USABLE) for memory in MEMORY_GIB]
            shown = " | ".join(map(gib, needs))
            lines.append(f"| {size} {precision} | {shown} | {' | '.join(fits)} |")
    return lines


def _fits(needs: list[int], usable: float) -> str:
    """Say which of engine and CPU find enough memory."""
    engine, cpu = (need <= usable for need in needs)
    return {(True, True): "yes", (True, False): "engine", (False, True): "CPU"}.get(
        (engine, cpu), "no"
    )


def estimate_ms(board: Board, model: Sized, rows: int) -> tuple[float, str]:
    """Return the milliseconds of one forward with its heads, and which of the limits sets it."""
    shape = model.model
    row_bytes = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim
    read = model.weights_bytes + CONTEXT_ROWS * row_bytes * (4 if board.engine == "cpu" else 2)
    operations = 2 * rows * _parameters(shape)
    shares = SHARES[board.engine]
    memory = read / (shares.bandwidth * board.bandwidth_gbps * 1e9)
    products = operations / (shares.products * board.peak_tops * 1e12)
    limit = "memory" if memory >= products else "products"
    return max(memory, products) * 1e3, limit


def _parameters(model: ModelConfig) -> int:
    """Return the weights that every row is multiplied with, heads included."""
    hidden, wide = model.hidden_size, model.intermediate_size
    kv = model.num_key_value_heads * model.head_dim
    layer = hidden * (hidden + 2 * kv) + hidden * hidden + 3 * hidden * wide
    return model.num_hidden_layers * layer + model.vocab_size * hidden


def speed_table() -> list[str]:
    """Return the estimated times as Markdown: text step and block pass of each size."""
    columns = " | ".join(f"{size}: text step, block" for size in SIZES)
    lines = [
        f"| board | GB/s | Tops | weights | {columns} |",
        f"| --- | ---: | --- | --- |{' ---: |' * len(SIZES)}",
    ]
    for board in BOARDS:
        cells = []
        for like in SIZES.values():
            model = sized(like, board.precision, board.engine)
            text, _ = estimate_ms(board, model, 1)
            block, limit = estimate_ms(board, model, BLOCK_ROWS)
            mark = "" if limit == "memory" else " *"
            cells.append(f"{text:.1f}, {block:.1f} ms{mark}")
        peak = f"{board.peak_tops:g} {board.products}"
        machine = f"{board.name} | {board.bandwidth_gbps:g} | {peak} | {board.precision}"
        lines.append(f"| {machine} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    print("\n".join([*memory_table(), "", *speed_table()]))
