"""Export the GLM-4-Voice codec: five graphs, what the runtime must know, and a measured report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ttt_export.codec.glm4voice_check import (
    Gates,
    Made,
    Reference,
    check_gates,
    compare,
)
from ttt_export.codec.glm4voice_flow import write_flow_encoder, write_flow_velocity
from ttt_export.codec.glm4voice_tokenizer import tokenizer_params, write_tokenizer
from ttt_export.codec.glm4voice_vocoder import write_vocoder, write_vocoder_f0
from ttt_export.codec.ops import Precision, array
from ttt_export.codec_export import CODEC_REPORT_FILE
from ttt_ref.codec.glm4voice.flow import Flow
from ttt_ref.codec.glm4voice.hift import Hift
from ttt_ref.codec.glm4voice.weights import load_flow, load_hift, load_tokenizer
from ttt_ref.errors import CodecError, ExportError
from ttt_runtime.backends.ort.session import GraphSession, SessionSettings
from ttt_runtime.bundle.folder import BundleWriter
from ttt_runtime.bundle.graph_spec import GraphSpec
from ttt_runtime.bundle.manifest import CodecEntry, GraphEntry
from ttt_runtime.codec.glm4voice import graphs
from ttt_runtime.codec.glm4voice.load import assemble
from ttt_runtime.codec.glm4voice.params import DecoderParams
from ttt_runtime.profiler.glm4voice.times import fastest_solver

FLOAT32 = Precision()
MAX_MEL_DISTANCE_DB = 1.0
# Codec precision for each precision of a bundle.
SAME_AS = {"bf16": "fp16", "fp8": "fp16", "int4": "int8"}
PRECISIONS = ("fp32", "fp16", "int8")

# On a CPU float16 is storage only, and int8 multiplies in integers: all matrices, and the vocoder's
# convolutions (the estimator's are too short to gain). GPUs compute in float16 and widen blocks of
# int8 weights themselves.
RECIPES: Mapping[tuple[str, str], Precision] = {
    ("fp32", "cpu"): FLOAT32,
    ("fp32", "gpu"): FLOAT32,
    ("fp16", "cpu"): Precision("float32", "half", "half"),
    ("fp16", "gpu"): Precision("float16"),
    ("int8", "cpu"): Precision("float32", "dynamic", "stored"),
    ("int8", "gpu"): Precision("float16", "blocks"),
}
GATES: Mapping[str, Gates] = {
    "fp32": Gates(min_agreement=1.0, max_mel_db=0.005, max_spectrum_db=0.01),
    "fp16": Gates(min_agreement=0.97, max_mel_db=0.2, max_spectrum_db=0.2),
    "int8": Gates(min_agreement=0.85, max_mel_db=1.0, max_spectrum_db=1.0),
}


def graph_precisions(precision: str, engine: str) -> dict[str, Precision]:
    """Return the precision of each graph; ExportError for an unknown name."""
    name = SAME_AS.get(precision, precision)
    if name not in PRECISIONS:
        raise ExportError(f"codec precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
    recipe = RECIPES[name, "cpu" if engine == "cpu" else "gpu"]
    chosen = dict.fromkeys(graphs.ALL, recipe)
    chosen[graphs.VOCODER_F0] = FLOAT32  # small, and a hertz of error is heard
    if recipe.linear == "dynamic":
        chosen[graphs.VOCODER] = replace(recipe, conv="dynamic")
    return chosen


def decoder_params(flow: Flow, hift: Hift) -> DecoderParams:
    """Return what the runtime must know of the decoder."""
    linear = hift.m_source.l_linear
    return DecoderParams(
        num_codes=flow.config.num_codes,
        mel_bins=flow.config.mel_bins,
        encoder_block=flow.config.encoder_block,
        guidance=flow.config.guidance,
        harmonics=hift.config.harmonics,
        sine_amplitude=hift.config.sine_amplitude,
        noise_sigma=hift.config.noise_sigma,
        voiced_threshold_hz=hift.config.voiced_threshold_hz,
        source_weight=tuple(array(linear.weight)[0].tolist()),
        source_bias=float(linear.bias),
        speaker=tuple(array(flow.speaker())[0].tolist()),
    )


def write_graphs(
    reference: Reference, precisions: Mapping[str, Precision], folder: Path
) -> dict[str, GraphSpec]:
    """Write all five graphs as `<name>.onnx` into a folder and return their specs."""
    writers = {
        graphs.TOKENIZER: (write_tokenizer, reference.encoder),
        graphs.FLOW_ENCODER: (write_flow_encoder, reference.flow),
        graphs.FLOW_VELOCITY: (write_flow_velocity, reference.flow),
        graphs.VOCODER_F0: (write_vocoder_f0, reference.hift),
        graphs.VOCODER: (write_vocoder, reference.hift),
    }
    specs = {}
    for name, (write, module) in writers.items():
        spec = write(folder / f"{name}.onnx", module, precisions[name])  # type: ignore[operator]
        if precisions[name].linear == "blocks" and precisions[name].compute == "float32":
            # 4: products round activations to 8 bit a block, which is several times faster.
            spec = replace(spec, attributes={"session.qdq_matmulnbits_accuracy_level": "4"})
        specs[name] = spec
    return specs


def load_made(folder: Path, specs: Mapping[str, GraphSpec], reference: Reference) -> Made:
    """Load written graphs with the runtime, on the CPU."""
    settings = SessionSettings("cpu")

    def session(name: str) -> GraphSession:
        return GraphSession(folder / f"{name}.onnx", specs[name], settings)

    params = decoder_params(reference.flow, reference.hift)
    return Made(*assemble(tokenizer_params(reference.encoder), params, session))


def export_glm4voice(
    speech_tokenizer: Path,
    speech_decoder: Path,
    bundle: BundleWriter,
    engine: str,
    precision: str = "fp32",
    *,
    solver: tuple[int, str] | None = None,
    max_mel_distance_db: float = MAX_MEL_DISTANCE_DB,
    gates: Gates | None = None,
) -> CodecEntry:
    """Write the codec's graphs into a bundle and return its entry.

    Args:
        speech_tokenizer: released tokenizer folder.
        speech_decoder: released decoder folder.
        bundle: where the graphs go, under `codec/`.
        engine: what the graphs are made for: cpu, cuda, tensorrt or rtx.
        precision: fp32, fp16 or int8; bf16 is taken as fp16 and int4 as int8.
        solver: steps and name; by default the fewest evaluations of the estimator whose mel
            stays within `max_mel_distance_db` of ten Euler steps, measured on these weights.
        max_mel_distance_db: root mean square, in dB of the log-mel.
        gates: what the graphs must reach; by default those of the precision.

    Raises:
        CodecError: files that cannot be used.
        ExportError: unknown precision, or the graphs do not give what torch gives.
    """
    precisions = graph_precisions(precision, engine)
    encoder = load_tokenizer(speech_tokenizer)
    flow, hift = load_flow(speech_decoder), load_hift(speech_decoder)
    if encoder.config.num_codes != flow.config.num_codes:
        raise CodecError(
            f"the speech tokenizer has {encoder.config.num_codes} codes, the decoder "
            f"{flow.config.num_codes}; give both of one release"
        )
    reference = Reference(encoder, flow, hift)
    folder = bundle.path(CODEC_REPORT_FILE).parent
    specs = write_graphs(reference, precisions, folder)
    made = load_made(folder, specs, reference)
    report: dict[str, Any] = {"precision": precision, "engine": engine}
    report["graphs"] = {name: asdict(p) for name, p in precisions.items()}
    report["difference"] = compare(reference, made)
    check_gates(report["difference"], gates or GATES[SAME_AS.get(precision, precision)])
    if solver is None:
        solver, report["solvers"] = fastest_solver(made.decoder, max_mel_distance_db)
    steps, name = solver
    params = made.decoder.with_options(steps=steps, solver=name).params
    report["solver"] = {"steps": steps, "name": name}
    bundle.add_bytes(CODEC_REPORT_FILE, (json.dumps(report, indent=1) + "\n").encode())
    return CodecEntry(
        "glm4voice",
        {"tokenizer": tokenizer_params(encoder).to_dict(), "decoder": params.to_dict()},
        {name: GraphEntry(spec, f"codec/{name}.onnx") for name, spec in specs.items()},
    )
