"""Check written graphs by numbers, where need be through a copy that rounds nothing.

Some graphs do more than store weights narrowly: they compute in bfloat16, which onnxruntime's CPU
kernels do not, or they round what matrices receive (fp8) or what the cache keeps. Their unrounded
copy holds the very same weights, rounds nothing else and computes in a type known here. It shows by
numbers that the emission is right; what the rounding costs is then measured on the real graphs.
"""

from __future__ import annotations

import shutil
from dataclasses import replace

from ttt_export.checks import Check, ValidationError
from ttt_export.executors import Written, executor_for
from ttt_export.graphs import graph_specs, write_graphs
from ttt_export.leak_probe import probe_leaks
from ttt_export.sequences import Sequences
from ttt_export.source import Checkpoint
from ttt_export.validate import check_structure, validate
from ttt_quant.recipe import Recipe
from ttt_runtime.bundle.basic_spec import BASIC, is_basic
from ttt_runtime.bundle.graph_spec import DECODER

UNROUNDED_FOLDER = ".unrounded"
# The CPU's kernels know no products of these; graphs that compute so cannot be run here.
NOT_HERE = ("bfloat16",)


def rounds_more_than_weights(recipe: Recipe, written: Written) -> bool:
    """Tell whether the graphs round activations or the cache by themselves."""
    spec = written.specs[DECODER]
    return recipe.rounds_inputs or spec.input("past_k.0").dtype != spec.input("embeds").dtype


def write_unrounded(
    checkpoint: Checkpoint, recipe: Recipe, written: Written, sequences: Sequences
) -> Written:
    """Write graphs of the same weights that round nothing else, beside the real ones."""
    folder = written.folder / UNROUNDED_FOLDER
    folder.mkdir()
    compute = "float32" if recipe.compute in NOT_HERE else recipe.compute
    plain = replace(recipe, compute=compute)
    spec = written.specs[DECODER]
    by_heads = spec.attributes["cache_layout"] == "heads"
    specs = graph_specs(
        checkpoint,
        plain,
        spec.input("mask").shape[1],
        "heads" if by_heads else "rows",
        operators=BASIC if is_basic(spec) else None,
    )
    write_graphs(checkpoint, plain, specs, folder, sequences, round_inputs=False)
    return replace(written, folder=folder, specs=specs)


def check_written(
    checkpoint: Checkpoint, recipe: Recipe, written: Written, sequences: Sequences, seed: int
) -> tuple[list[Check], Written]:
    """Validate graphs; return the checks, and the graphs whose quality can be measured here.

    Raises:
        ExportError: a structural fault, a difference beyond its tolerance, or a leak.
    """
    runs_here = recipe.compute not in NOT_HERE
    if runs_here and not rounds_more_than_weights(recipe, written):
        return validate(written, seed), written
    check_structure(written)
    unrounded = write_unrounded(checkpoint, recipe, written, sequences)
    checks = validate(unrounded, seed)
    if not runs_here:
        return checks, unrounded
    # A change that rounding swallows is no fault; a row that moves and must not is one.
    stride = 5 if written.is_large else 1
    leak, _ = probe_leaks(executor_for(written), written.layout, seed, stride=stride)
    checks.append(replace(leak, name=f"{leak.name}, rounded graph"))
    if not checks[-1].passed:
        raise ValidationError(checks)
    remove_unrounded(written)
    return checks, written


def remove_unrounded(written: Written) -> None:
    """Remove what `write_unrounded` wrote; nothing of it is published."""
    shutil.rmtree(written.folder / UNROUNDED_FOLDER, ignore_errors=True)
