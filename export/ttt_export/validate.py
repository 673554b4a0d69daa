"""Hold written graphs to the reference: structure, numbers, and who sees whom.

The truth here is `ttt_ref` run on the very weights that the files hold (see `graph_weights`), in
float32. What quantization loses against the checkpoint is another question, answered by `quality`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from ttt_export.cases import BLOCK, SHORT_BLOCK, Case, decoder_cases
from ttt_export.checks import Check, ValidationError
from ttt_export.executors import Executor, Written, executor_for
from ttt_export.graph_weights import BundleWeights
from ttt_export.leak_probe import probe_leaks
from ttt_export.reference_stream import StreamedReference
from ttt_export.tensorrt.operators import check_operators
from ttt_export.writer import BASIC_BLOCKS_OPSET, BASIC_OPSET, OPSET, value_info
from ttt_ref.errors import ExportError
from ttt_runtime.bundle.basic_spec import is_basic
from ttt_runtime.bundle.graph_spec import DECODER, SPEECH_HEAD, TEXT_HEAD

Float32Array = NDArray[np.float32]

# Largest difference allowed, relative to the reference's largest magnitude where that is above 1.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
# Products in 4/8 bit are checked with exact activations; the shipped graph may round those too.
EXACT_PRODUCTS = {"session.qdq_matmulnbits_accuracy_level": "1"}
HEAD_ROWS = 24


def check_structure(written: Written) -> None:
    """Check every graph with onnx and against its spec; ExportError names the first fault."""
    for name, spec in written.specs.items():
        path = written.path(name)
        try:
            onnx.checker.check_model(str(path), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            reason = " ".join(str(error).split())
            raise ExportError(f"graph {name} is not valid ONNX: {reason}") from None
        model = onnx.load(str(path), load_external_data=False)
        opsets = {o.domain: o.version for o in model.opset_import}
        known = (BASIC_OPSET[0], BASIC_BLOCKS_OPSET[0]) if is_basic(spec) else (OPSET,)
        if opsets.get("", 0) not in known:
            wanted = " or ".join(map(str, known))
            raise ExportError(f"graph {name} has opset {opsets.get('')}; expected {wanted}")
        if is_basic(spec):
            check_operators(model, name)
        for kind, infos, tensors in (
            ("input", model.graph.input, spec.inputs),
            ("output", model.graph.output, spec.outputs),
        ):
            have = [info.SerializeToString() for info in infos]
            want = [value_info(tensor).SerializeToString() for tensor in tensors]
            if have != want:
                differing = [
                    tensor.name for tensor, a, b in zip(tensors, have, want, strict=False) if a != b
                ]
                where = differing[0] if differing else f"the number of {kind}s"
                raise ExportError(f"graph {name}: {kind} {where} differs from the graph's spec")


def compare(
    name: str, got: Sequence[NDArray[np.floating]], want: Sequence[Float32Array], factor: float
) -> Check:
    """Compare lists of arrays; the tolerance is `factor` times max(1, largest |want|)."""
    differences = [
        np.abs(a.astype(np.float64) - b.astype(np.float64)).reshape(-1)
        for a, b in zip(got, want, strict=True)
    ]
    flat = np.concatenate(differences)
    peak = max(float(np.abs(b).max()) for b in want)
    return Check(name, float(flat.max()), float(flat.mean()), factor * max(1.0, peak))


def check_decoder(
    reference: StreamedReference, executor: Executor, cases: Sequence[Case], factor: float
) -> list[Check]:
    """Compare the hidden rows of every pass of every case with the full recompute."""
    sequences = {p.ids for case in cases for p in case.passes}
    ordered = sorted(sequences)
    states = reference.hidden([np.array(ids, dtype=np.int64) for ids in ordered])
    truth = dict(zip(ordered, states, strict=True))
    checks = []
    for case, got in zip(cases, executor.hidden(cases), strict=True):
        want = [truth[p.ids][p.start :] for p in case.passes]
        checks.append(compare(f"decoder, {case.name}", got, want, factor))
    return checks


def check_heads(
    reference: StreamedReference, written: Written, hidden: Float32Array, factor: float
) -> list[Check]:
    """Compare every output of both heads on hidden rows [N, hidden]."""
    layout, config = written.layout, written.config
    checks = []
    rows = hidden.astype(_numpy_type(written))
    for name, start, stop in (
        (TEXT_HEAD, 0, layout.audio_start),
        (SPEECH_HEAD, layout.audio_start, config.vocab_size),
    ):
        want = reference.logits(rows.astype(np.float32), start, stop)
        session = written.session(name)
        for ban in (False, True) if name == TEXT_HEAD else (False,):
            feeds: dict[str, NDArray[np.generic]] = {"hidden": rows}
            label = name
            if name == TEXT_HEAD:
                feeds["end_bias"] = np.array([-1e30 if ban else 0.0], dtype=np.float32)
            if ban:
                want[:, layout.im_end_id] = -np.inf
                label = f"{name}, end forbidden"
            logits, best_id, best_logit, sum_exp = session.run(feeds)
            finite = np.isfinite(want)
            checks.append(compare(f"{label} logits", [logits[finite]], [want[finite]], factor))
            chosen = want[np.arange(len(want)), best_id - start]
            checks.append(compare(f"{label} best_id", [want.max(axis=1)], [chosen], factor))
            checks.append(compare(f"{label} best_logit", [best_logit], [want.max(axis=1)], factor))
            relative = want.astype(np.float64) - want.max(axis=1, keepdims=True)
            total = np.exp(relative).sum(axis=1).astype(np.float32)
            checks.append(compare(f"{label} sum_exp", [sum_exp], [total], factor))
        del session
    return checks


def _numpy_type(written: Written) -> type[np.floating]:
    compute = written.specs[DECODER].input("embeds").dtype
    return np.float16 if compute == "float16" else np.float32


def validate(written: Written, seed: int = 0) -> list[Check]:
    """Run every check on written graphs.

    Returns:
        All comparisons, passed ones.

    Raises:
        ExportError: a structural fault.
        ValidationError: a comparison beyond its tolerance, or a leak.
    """
    check_structure(written)
    exact = written.with_attributes(**EXACT_PRODUCTS)
    compute = written.specs[DECODER].input("embeds").dtype
    factor = TOLERANCES[compute]
    source = BundleWeights(written.folder, written.config, written.layout, written.table)
    reference = StreamedReference(
        written.config, written.layout, source, head_name="lm_head.weight"
    )
    cases = decoder_cases(written.layout, seed, SHORT_BLOCK if written.is_large else BLOCK)
    # No name for the executor: its sessions must be gone when the heads are loaded.
    checks = check_decoder(reference, executor_for(exact), cases, factor)
    draw = np.random.default_rng(seed)
    rows = draw.standard_normal((HEAD_ROWS, written.config.hidden_size)).astype(np.float32)
    checks += check_heads(reference, exact, rows, factor)
    checks += probe_leaks(
        executor_for(written), written.layout, seed, stride=5 if written.is_large else 1
    )
    if not all(check.passed for check in checks):
        raise ValidationError(checks)
    return checks
