"""Emit the two output heads: text rows and speech rows of the LM head as graphs of their own.

Each gives its logits and what a choice needs of them: the best id, its logit and the sum of the
exponentials relative to it, so that a caller who wants only the choice never moves the logits.
"""

from __future__ import annotations

import numpy as np

from ttt_export.linear import LayerQuantizer, Matrix, cast, emit_linear
from ttt_export.weights import Float32Array, WeightSource
from ttt_export.writer import GraphWriter
from ttt_quant.scheme import Scheme
from ttt_ref.config import ModelConfig, TokenLayout
from ttt_runtime.bundle.graph_spec import TEXT_HEAD, GraphSpec


def head_tensor(config: ModelConfig) -> str:
    """Return the checkpoint's tensor that holds the output rows."""
    return "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"


def head_matrix(source: WeightSource, tensor_name: str, name: str, start: int, stop: int) -> Matrix:
    """Return output rows start..stop-1 as a matrix W [hidden, stop - start]."""

    def columns(first: int, last: int) -> Float32Array:
        return np.ascontiguousarray(source.rows(tensor_name, start + first, start + last).T)

    return Matrix(name, source.shape(tensor_name)[1], stop - start, columns)


def emit_head(
    writer: GraphWriter,
    spec: GraphSpec,
    source: WeightSource,
    config: ModelConfig,
    layout: TokenLayout,
    scheme: Scheme,
    quantizer: LayerQuantizer,
) -> None:
    """Write one head; `spec.name` says which."""
    is_text = spec.name == TEXT_HEAD
    start, stop = (0, layout.audio_start) if is_text else (layout.audio_start, config.vocab_size)
    matrix = head_matrix(source, head_tensor(config), spec.name, start, stop)
    compute = spec.input("hidden").dtype
    logits = emit_linear(writer, "hidden", matrix, scheme, compute, quantizer)
    if compute != "float32":
        logits = cast(writer, logits, "logits.wide", "float32")
    if is_text:
        is_end = np.zeros(stop - start, dtype=bool)
        is_end[layout.im_end_id] = True
        writer.constant("is_end", is_end)
        writer.constant("zero", np.zeros(1, dtype=np.float32))
        # Where, not a product: a ban of -inf must not make NaN of 0 * inf elsewhere.
        bias = writer.node("Where", ["is_end", "end_bias", "zero"], "end_row")
        writer.node("Add", [logits, bias], "logits")
    else:
        writer.node("Identity", [logits], "logits")
    writer.constant("last_axis", np.array([-1], dtype=np.int64))
    local = writer.node(
        "ArgMax", ["logits"], "best_row" if start else "best_id", axis=-1, keepdims=0
    )
    if start:
        writer.constant("first_id", np.array(start, dtype=np.int64))
        writer.node("Add", [local, "first_id"], "best_id")
    writer.node("ReduceMax", ["logits", "last_axis"], "best_logit", keepdims=0)
    # The sum relative to the best logit, not a log-sum-exp: of a certain choice that would keep
    # nothing (20 + 1e-7 is 20), and the order of confidences above 0.999999 would be rounding.
    writer.node("ReduceMax", ["logits", "last_axis"], "best_column", keepdims=1)
    relative = writer.node("Sub", ["logits", "best_column"], "relative")
    writer.node("Exp", [relative], "relative_exp")
    writer.node("ReduceSum", ["relative_exp", "last_axis"], "sum_exp", keepdims=0)
    writer.finish(spec)
