"""Replace a validated portable decoder by its grouped form, and hold that to the portable one.

Both are run on the same cases with products that round nothing: what differs is a fault of the
rewriting. The second body, if wanted, is held to the reference on the very weights that it stores.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from ttt_export.cases import BLOCK, SHORT_BLOCK, decoder_cases
from ttt_export.checks import Check, ValidationError
from ttt_export.decoder_graph import layer_matrices
from ttt_export.executors import Written, executor_for
from ttt_export.gqa.emitter import GqaEmitter, query_factors
from ttt_export.gqa.products import BlockProducts, Products, RowProducts, emit_middles
from ttt_export.gqa.unrounded import RowTensors, make_exact
from ttt_export.graph_weights import BundleWeights, GraphTensors
from ttt_export.leak_probe import probe_leaks
from ttt_export.reference_stream import StreamedReference
from ttt_export.source import Checkpoint
from ttt_export.validate import EXACT_PRODUCTS, HEAD_ROWS, TOLERANCES, check_decoder, compare
from ttt_export.writer import GraphWriter
from ttt_runtime.bundle.gqa_spec import BLOCK_DECODER, grouped_decoder_spec, lean_head_spec
from ttt_runtime.bundle.graph_spec import DECODER, SPEECH_HEAD, TEXT_HEAD, GraphSpec

# The tables of rotary angles end here; they are mapped from the file, so their length is free.
LONGEST_CONTEXT: Final = 32_768

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Grouped:
    """A rewritten decoder, not in its final place yet.

    Attributes:
        decoder: the grouped decoder with the heads.
        block: the same with the second body in its place, or None.
        checks: all comparisons, passed ones.
    """

    decoder: Written
    block: Written | None
    checks: list[Check]


def regroup(
    checkpoint: Checkpoint, written: Written, block_body: str | None, progress: Progress, seed: int
) -> Grouped:
    """Write and check the grouped form of a validated portable decoder (float32, layout `rows`).

    Raises:
        ValidationError: the forms differ.
    """
    tensors = GraphTensors(written.path(DECODER))
    progress("grouping the decoder for the CPU")
    decoder = _room(written, ".grouped", _spec(checkpoint, DECODER))
    products = BlockProducts(tensors)
    with GraphWriter(decoder.path(DECODER)) as writer:
        emitter = GqaEmitter(writer, checkpoint.model, decoder.specs[DECODER], tensors)
        emitter.emit(lambda _: products)
    decoder = _lean_heads(written, decoder)
    checks = [*_check_same(written, decoder, seed), *_check_heads(written, decoder, seed)]
    block = None
    if block_body is not None:
        progress(f"writing the decoder for blocks in {block_body}")
        spec = _spec(checkpoint, BLOCK_DECODER, weights=block_body)
        block = _room(decoder, f"../.{BLOCK_DECODER}", spec)
        _write_rows(checkpoint, block, tensors)
        checks += _check_rows(written, block, seed)
    if not all(check.passed for check in checks):
        raise ValidationError(checks)
    return Grouped(decoder, block, checks)


def install(grouped: Grouped, folder: Path) -> Written:
    """Put decoder and heads in place of the portable ones; return them there."""
    for name in (DECODER, TEXT_HEAD, SPEECH_HEAD):
        _move(grouped.decoder.path(name), folder / f"{name}.onnx")
    shutil.rmtree(grouped.decoder.folder)
    return replace(grouped.decoder, folder=folder)


def install_block(written: Written, block: Written) -> Written:
    """Put the second body beside the others; return all of them."""
    _move(block.path(DECODER), written.path(BLOCK_DECODER))
    shutil.rmtree(block.folder)
    return replace(written, specs={**written.specs, BLOCK_DECODER: block.specs[DECODER]})


def _spec(checkpoint: Checkpoint, name: str, **attributes: str) -> GraphSpec:
    rows = min(checkpoint.model.max_position_embeddings, LONGEST_CONTEXT)
    return grouped_decoder_spec(checkpoint.model, rows, name, **attributes)


def _room(written: Written, folder: str, spec: GraphSpec) -> Written:
    """Return a folder for another decoder beside the same heads (linked, not copied)."""
    room = replace(
        written, folder=(written.folder / folder).resolve(), specs={**written.specs, DECODER: spec}
    )
    room.folder.mkdir()
    for name in (TEXT_HEAD, SPEECH_HEAD):
        for path in (written.path(name), _data(written, name)):
            os.link(path, room.folder / path.name)
    return room


def _data(written: Written, name: str) -> Path:
    return written.path(name).with_name(f"{name}.onnx.data")


def _lean_heads(portable: Written, room: Written) -> Written:
    """Replace the heads of a room by ones that give logits only."""
    specs = dict(room.specs)
    for name in (TEXT_HEAD, SPEECH_HEAD):
        for path in (room.path(name), _data(room, name)):
            path.unlink()
        specs[name] = lean_head_spec(portable.specs[name])
        products = BlockProducts(GraphTensors(portable.path(name)))
        with GraphWriter(room.path(name)) as writer:
            product = products.emit(writer, "hidden", name, None)
            writer.node("Identity", [product], "logits")
            writer.finish(specs[name])
    return replace(room, specs=specs)


def _write_rows(checkpoint: Checkpoint, block: Written, tensors: GraphTensors) -> None:
    source = checkpoint.weights

    def products_of(index: int) -> Products:
        return RowProducts({m.name: m for m in layer_matrices(source, index).values()})

    with GraphWriter(block.path(DECODER)) as writer:
        emit_middles(writer)
        emitter = GqaEmitter(writer, checkpoint.model, block.specs[DECODER], tensors)
        emitter.emit(products_of)


def _exact(written: Written) -> Written:
    """Return a twin, over the same data, that rounds no inputs of products."""
    twin = _room(written, ".exact", written.specs[DECODER])
    os.link(_data(written, DECODER), _data(twin, DECODER))
    for name in (DECODER, TEXT_HEAD, SPEECH_HEAD):
        twin.path(name).unlink(missing_ok=True)  # a link, which must not be written through
        shutil.copyfile(written.path(name), twin.path(name))
        make_exact(twin.path(name))
    return twin.with_attributes(**EXACT_PRODUCTS)  # or dequantized products are fused and round


def _check_same(portable: Written, grouped: Written, seed: int) -> list[Check]:
    """Compare both forms' hidden rows, and look for leaks in the new one."""
    cases = decoder_cases(portable.layout, seed, SHORT_BLOCK if portable.is_large else BLOCK)
    want = executor_for(portable.with_attributes(**EXACT_PRODUCTS)).hidden(cases)
    twin = _exact(grouped)
    got = executor_for(twin).hidden(cases)
    shutil.rmtree(twin.folder)
    factor = TOLERANCES["float32"]
    checks = [
        compare(f"grouped decoder, {case.name}", g, w, factor)
        for case, g, w in zip(cases, got, want, strict=True)
    ]
    stride = 3 if grouped.is_large else 1
    return checks + _named("grouped", grouped, seed, stride)


def _check_heads(portable: Written, lean: Written, seed: int) -> list[Check]:
    """Compare both forms' logits."""
    draw = np.random.default_rng(seed)
    rows = draw.standard_normal((HEAD_ROWS, lean.config.hidden_size)).astype(np.float32)
    exact = portable.with_attributes(**EXACT_PRODUCTS)
    twin = _exact(lean)
    checks = []
    for name in (TEXT_HEAD, SPEECH_HEAD):
        feeds: dict[str, NDArray[Any]] = {"hidden": rows, "end_bias": np.zeros(1, np.float32)}
        names = [t.name for t in exact.specs[name].inputs]
        (want,) = exact.session(name).run({n: feeds[n] for n in names}, ["logits"])
        (got,) = twin.session(name).run({"hidden": rows})
        checks.append(compare(f"lean {name} logits", [got], [want], TOLERANCES["float32"]))
    shutil.rmtree(twin.folder)
    return checks


def _check_rows(portable: Written, block: Written, seed: int) -> list[Check]:
    """Hold the second body to the reference on its own weights, and look for leaks."""
    source = BundleWeights(portable.folder, block.config, block.layout, block.table)
    source.decoder = RowTensors(block.path(DECODER), query_factors(block.config))
    reference = StreamedReference(block.config, block.layout, source, head_name="lm_head.weight")
    twin = _exact(block)
    cases = decoder_cases(block.layout, seed, SHORT_BLOCK if block.is_large else BLOCK)
    checks = check_decoder(reference, executor_for(twin), cases, TOLERANCES["float32"])
    shutil.rmtree(twin.folder)
    checks = [replace(check, name=f"block {check.name}") for check in checks]
    return checks + _named("block", block, seed, 3 if block.is_large else 1)


def _named(form: str, written: Written, seed: int, stride: int) -> list[Check]:
    checks = probe_leaks(executor_for(written), written.layout, seed, stride=stride)
    return [replace(check, name=f"{form} decoder, {check.name}") for check in checks]


def _move(source: Path, target: Path) -> None:
    """Move a graph and its data under another name."""
    data = target.with_name(f"{target.name}.data")
    model = onnx.load(str(source), load_external_data=False)
    for proto in model.graph.initializer:
        for entry in proto.external_data:
            if entry.key == "location":
                entry.value = data.name
    target.write_bytes(model.SerializeToString())
    os.replace(source.with_name(f"{source.name}.data"), data)
