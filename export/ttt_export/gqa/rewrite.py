"""Replace a validated standard decoder by its GQA form, and hold that to the standard one.

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
from ttt_export.gqa.unrounded import RowTensors, make_unrounded
from ttt_export.graph_weights import BundleWeights, GraphTensors
from ttt_export.leak_probe import probe_leaks
from ttt_export.reference_stream import StreamedReference
from ttt_export.source import Checkpoint
from ttt_export.validate import EXACT_PRODUCTS, HEAD_ROWS, TOLERANCES, check_decoder, compare
from ttt_export.writer import GraphWriter
from ttt_runtime.bundle.gqa_spec import BLOCK_DECODER, gqa_decoder_spec, logits_only_head_spec
from ttt_runtime.bundle.graph_spec import DECODER, SPEECH_HEAD, TEXT_HEAD, GraphSpec

# The tables of rotary angles end here; they are mapped from the file, so their length is free.
LONGEST_CONTEXT: Final = 32_768

Progress = Callable[[str], None]


@dataclass(frozen=True)
class GqaForm:
    """A rewritten decoder, not in its final place yet.

    Attributes:
        decoder: the GQA decoder with the heads.
        block: the same with the second body in its place, or None.
        checks: all comparisons, passed ones.
    """

    decoder: Written
    block: Written | None
    checks: list[Check]


def rewrite_as_gqa(
    checkpoint: Checkpoint, written: Written, block_body: str | None, progress: Progress, seed: int
) -> GqaForm:
    """Write and check the GQA form of a validated standard decoder (float32, layout `rows`).

    Raises:
        ValidationError: the forms differ.
    """
    tensors = GraphTensors(written.path(DECODER))
    progress("writing the GQA decoder")
    decoder = _room(written, ".gqa", _spec(checkpoint, DECODER))
    products = BlockProducts(tensors)
    with GraphWriter(decoder.path(DECODER)) as writer:
        emitter = GqaEmitter(writer, checkpoint.model, decoder.specs[DECODER], tensors)
        emitter.emit(lambda _: products)
    decoder = _logits_only_heads(written, decoder)
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
    return GqaForm(decoder, block, checks)


def install(gqa: GqaForm, folder: Path) -> Written:
    """Put decoder and heads in place of the standard ones; return them there."""
    for name in (DECODER, TEXT_HEAD, SPEECH_HEAD):
        _move(gqa.decoder.path(name), folder / f"{name}.onnx")
    shutil.rmtree(gqa.decoder.folder)
    return replace(gqa.decoder, folder=folder)


def install_block(written: Written, block: Written) -> Written:
    """Put the second body beside the others; return all of them."""
    _move(block.path(DECODER), written.path(BLOCK_DECODER))
    shutil.rmtree(block.folder)
    return replace(written, specs={**written.specs, BLOCK_DECODER: block.specs[DECODER]})


def _spec(checkpoint: Checkpoint, name: str, **attributes: str) -> GraphSpec:
    rows = min(checkpoint.model.max_position_embeddings, LONGEST_CONTEXT)
    return gqa_decoder_spec(checkpoint.model, rows, name, **attributes)


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


def _logits_only_heads(standard: Written, room: Written) -> Written:
    """Replace the heads of a room by ones that give logits only."""
    specs = dict(room.specs)
    for name in (TEXT_HEAD, SPEECH_HEAD):
        for path in (room.path(name), _data(room, name)):
            path.unlink()
        specs[name] = logits_only_head_spec(standard.specs[name])
        products = BlockProducts(GraphTensors(standard.path(name)))
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


def _unrounded(written: Written) -> Written:
    """Return an unrounded copy, over the same data, that rounds no inputs of products."""
    unrounded = _room(written, ".exact", written.specs[DECODER])
    os.link(_data(written, DECODER), _data(unrounded, DECODER))
    for name in (DECODER, TEXT_HEAD, SPEECH_HEAD):
        unrounded.path(name).unlink(missing_ok=True)  # a link, which must not be written through
        shutil.copyfile(written.path(name), unrounded.path(name))
        make_unrounded(unrounded.path(name))
    return unrounded.with_attributes(
        **EXACT_PRODUCTS
    )  # or dequantized products are fused and round


def _check_same(standard: Written, gqa: Written, seed: int) -> list[Check]:
    """Compare both forms' hidden rows, and look for leaks in the new one."""
    cases = decoder_cases(standard.layout, seed, SHORT_BLOCK if standard.is_large else BLOCK)
    want = executor_for(standard.with_attributes(**EXACT_PRODUCTS)).hidden(cases)
    unrounded = _unrounded(gqa)
    got = executor_for(unrounded).hidden(cases)
    shutil.rmtree(unrounded.folder)
    factor = TOLERANCES["float32"]
    checks = [
        compare(f"GQA decoder, {case.name}", g, w, factor)
        for case, g, w in zip(cases, got, want, strict=True)
    ]
    stride = 3 if gqa.is_large else 1
    return checks + _named("GQA", gqa, seed, stride)


def _check_heads(standard: Written, logits_only: Written, seed: int) -> list[Check]:
    """Compare both forms' logits."""
    draw = np.random.default_rng(seed)
    rows = draw.standard_normal((HEAD_ROWS, logits_only.config.hidden_size)).astype(np.float32)
    exact = standard.with_attributes(**EXACT_PRODUCTS)
    unrounded = _unrounded(logits_only)
    checks = []
    for name in (TEXT_HEAD, SPEECH_HEAD):
        feeds: dict[str, NDArray[Any]] = {"hidden": rows, "end_bias": np.zeros(1, np.float32)}
        names = [t.name for t in exact.specs[name].inputs]
        (want,) = exact.session(name).run({n: feeds[n] for n in names}, ["logits"])
        (got,) = unrounded.session(name).run({"hidden": rows})
        checks.append(compare(f"logits-only {name} logits", [got], [want], TOLERANCES["float32"]))
    shutil.rmtree(unrounded.folder)
    return checks


def _check_rows(standard: Written, block: Written, seed: int) -> list[Check]:
    """Hold the second body to the reference on its own weights, and look for leaks."""
    source = BundleWeights(standard.folder, block.config, block.layout, block.table)
    source.decoder = RowTensors(block.path(DECODER), query_factors(block.config))
    reference = StreamedReference(block.config, block.layout, source, head_name="lm_head.weight")
    unrounded = _unrounded(block)
    cases = decoder_cases(block.layout, seed, SHORT_BLOCK if block.is_large else BLOCK)
    checks = check_decoder(reference, executor_for(unrounded), cases, TOLERANCES["float32"])
    shutil.rmtree(unrounded.folder)
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
