"""Export the built-in codec: two graphs, their params, checked against torch."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from ttt_export.codec.int8_storage import store_int8
from ttt_ref.codec.builtin.checkpoint import load_decoder, load_tokenizer
from ttt_ref.codec.builtin.config import DecoderConfig
from ttt_ref.codec.builtin.decoder import SpeechDecoder, unit_to_pitch
from ttt_ref.codec.builtin.features import LOG_CENTRE, LOG_SPREAD, POWER_FLOOR, mel_filters
from ttt_ref.codec.builtin.layers import digits_to_ids
from ttt_ref.codec.builtin.source import gains, noise_gate
from ttt_ref.codec.builtin.tokenizer import SpeechTokenizer
from ttt_ref.errors import ExportError
from ttt_runtime.backends.ort.session import GraphSession, SessionSettings
from ttt_runtime.bundle.folder import BundleWriter
from ttt_runtime.bundle.graph_spec import GraphSpec
from ttt_runtime.bundle.manifest import CodecEntry, GraphEntry
from ttt_runtime.codec.builtin.decoder import BuiltinDecoder
from ttt_runtime.codec.builtin.params import DecoderParams, TokenizerParams
from ttt_runtime.codec.builtin.specs import decoder_spec, tokenizer_spec
from ttt_runtime.codec.builtin.tokenizer import BuiltinTokenizer

OPSET = 20
PRECISIONS = ("fp32", "int8")


class TokenizerGraph(nn.Module):
    """Power spectra [1, 4 S, bins] -> ids int64 [1, S]."""

    def __init__(self, tokenizer: SpeechTokenizer):
        super().__init__()
        self.encoder = tokenizer.encoder
        self.register_buffer("filters", mel_filters(tokenizer.config))
        self.filters: Tensor

    def forward(self, power: Tensor) -> Tensor:
        """Log-mel, encoder, rounding."""
        log = torch.log(power @ self.filters + POWER_FLOOR)
        return digits_to_ids(self.encoder((log - LOG_CENTRE) / LOG_SPREAD))


class DecoderGraph(nn.Module):
    """Codes [1, N] and the convolutions' past -> the filters of 4 N frames and the new past."""

    def __init__(self, decoder: SpeechDecoder):
        super().__init__()
        self.network = decoder.network
        self.config = decoder.config

    def forward(self, codes: Tensor, past: Tensor) -> tuple[Tensor, ...]:
        """Codes int64 [1, N], past [blocks, kernel - 1, width]."""
        before = [row.unsqueeze(0) for row in past.unbind(0)]
        unit, logit, filters, after = self.network(codes, None, before)
        voiced = (logit > 0).float()
        pulse, noise = gains(filters)
        gate = noise_gate(pulse * voiced.unsqueeze(-1), noise, self.config)
        pulse = pulse * gate
        return (
            unit_to_pitch(unit),
            voiced,
            pulse * torch.cos(filters[:, :, 1]),
            pulse * torch.sin(filters[:, :, 1]),
            noise * gate,
            torch.cat(after, 0),
        )


def tokenizer_params(tokenizer: SpeechTokenizer) -> TokenizerParams:
    """What the runtime must know of the tokenizer beside its graph."""
    c = tokenizer.config
    return TokenizerParams(
        c.sample_rate_hz, c.fft_samples, c.window_samples, c.hop_samples, c.pad_samples,
        c.num_codes, c.look_back_tokens, c.look_ahead_tokens,
    )  # fmt: skip


def decoder_params(config: DecoderConfig) -> DecoderParams:
    """What the runtime must know of the decoder beside its graph."""
    c = config
    return DecoderParams(
        c.sample_rate_hz, c.fft_samples, c.hop_samples, c.lead_samples, c.num_codes,
        c.look_ahead_tokens, c.noise_seed,
    )  # fmt: skip


def to_onnx(
    module: nn.Module,
    example: tuple[Tensor, ...],
    spec: GraphSpec,
    dynamic: tuple[dict[int, Any] | None, ...],
) -> onnx.ModelProto:
    """Export one module with the names of its spec; the traced shapes stay open where asked."""
    # torch tells every user that torchvision is missing, which nothing here wants.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=[t.name for t in spec.inputs],
            output_names=[t.name for t in spec.outputs],
            dynamic_shapes=dynamic,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for node in [*model.graph.node, *(n for f in model.functions for n in f.node)]:
        del node.metadata_props[:]  # stack traces of the exporting machine
        node.doc_string = ""
    del model.graph.value_info[:]
    return model


def check_parity(
    tokenizer: SpeechTokenizer,
    decoder: SpeechDecoder,
    made: tuple[BuiltinTokenizer, BuiltinDecoder],
    precision: str,
) -> None:
    """Compare the exported codec with torch on a synthetic second of sound.

    Raises:
        ExportError: fp32 codes differ in more than 1 of 100, or audio by more than 1e-3.
    """
    if precision != "fp32":
        return
    rng = np.random.default_rng(0)
    audio = (0.1 * rng.standard_normal(tokenizer.sample_rate_hz)).astype(np.float32)
    want = tokenizer.encode(torch.from_numpy(audio)).numpy()
    got = made[0].encode(audio)
    if len(want) != len(got) or np.mean(want != got) > 0.01:
        raise ExportError(
            f"speech tokenizer: {int((want != got).sum())} of {len(want)} codes differ from torch; "
            "expected none (1 in 100 is tolerated)"
        )
    sound = decoder.decode(torch.from_numpy(want)).numpy()
    error = float(np.abs(made[1].decode(want) - sound).max())
    if not error <= 1e-3:
        raise ExportError(f"speech decoder: audio differs from torch by {error:.2e}; limit 1e-3")


def export_builtin(
    folder: Path, bundle: BundleWriter, engine: str, precision: str = "int8"
) -> CodecEntry:
    """Write the codec's graphs into a bundle and return its entry.

    Args:
        folder: codec checkpoint (``ttt_ref.codec.builtin.checkpoint``).
        bundle: where the graphs go, under ``codec/``.
        engine: what the graphs are made for; the same files serve every engine.
        precision: "fp32", or "int8" for weights stored in int8 and computed in float32.

    Raises:
        ExportError: unknown precision, or the graphs do not give what torch gives.
    """
    del engine
    if precision not in PRECISIONS:
        raise ExportError(f"codec precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
    tokenizer, decoder = load_tokenizer(folder), load_decoder(folder)
    t_params, d_params = tokenizer_params(tokenizer), decoder_params(decoder.config)
    shapes = decoder.network.state_shapes()
    state = (len(shapes), shapes[0][1], shapes[0][2])
    t_spec, d_spec = tokenizer_spec(t_params), decoder_spec(d_params, state)
    tokens = torch.export.Dim("tokens", min=1, max=100_000)
    bins = t_params.fft_samples // 2 + 1
    power, ids, past = torch.rand(1, 32, bins), torch.arange(7)[None], torch.zeros(state)
    models = [
        (t_spec, to_onnx(TokenizerGraph(tokenizer), (power,), t_spec, ({1: 4 * tokens},))),
        (d_spec, to_onnx(DecoderGraph(decoder), (ids, past), d_spec, ({1: tokens}, None))),
    ]
    sessions = []
    graphs = {}
    for spec, model in models:
        file = f"codec/{spec.name}.onnx"
        if precision == "int8":
            store_int8(model)
        onnx.save(model, bundle.path(file))
        graphs[spec.name] = GraphEntry(spec, file)
        sessions.append(GraphSession(bundle.path(file), spec, SessionSettings("cpu", 1)))
    made = BuiltinTokenizer(t_params, sessions[0]), BuiltinDecoder(d_params, sessions[1])
    check_parity(tokenizer, decoder, made, precision)
    return CodecEntry(
        "builtin", {"tokenizer": t_params.to_dict(), "decoder": d_params.to_dict()}, graphs
    )
