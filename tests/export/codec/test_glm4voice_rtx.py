"""TensorRT-RTX takes every graph of the GLM-4-Voice codec; parsing and building need no GPU."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from ttt_export.codec.glm4voice import graph_precisions, write_graphs
from ttt_export.codec.glm4voice_check import Reference
from ttt_export.tensorrt.builder import build_engine
from ttt_export.tensorrt.network import check_network, parse_network
from ttt_export.tensorrt.profiles import Profile
from ttt_export.tensorrt.progress import Silent
from ttt_export.tensorrt.request import BuildOptions, build_request
from ttt_ref.codec.glm4voice.weights import load_flow, load_hift, load_tokenizer
from ttt_runtime.backends.tensorrt.api import load_backend
from ttt_runtime.backends.tensorrt.stamp import AHEAD_OF_TIME
from ttt_runtime.codec.glm4voice import graphs

pytestmark = [
    pytest.mark.tensorrt,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx-cu13 not installed"
    ),
]

RANGES = {
    graphs.TOKENIZER: {"W": (12, 404, 404), "L": (4, 200, 200), "P": (0, 200, 1400)},
    graphs.FLOW_ENCODER: {"S": (1, 66, 256), "F": (6, 454, 1764)},
}


@pytest.fixture(scope="module")
def reference(tiny_codec: Path) -> Reference:
    decoder = tiny_codec / "decoder"
    encoder = load_tokenizer(tiny_codec / "tokenizer")
    return Reference(encoder, load_flow(decoder), load_hift(decoder))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_graph_is_parsed_as_its_spec_says(reference, tmp_path: Path, precision: str) -> None:
    backend = load_backend("rtx")
    specs = write_graphs(reference, graph_precisions(precision, "rtx"), tmp_path)
    logger = backend.new_logger()
    for name, spec in specs.items():
        builder = backend.trt.Builder(logger)
        network, parser = parse_network(backend, builder, logger, tmp_path / f"{name}.onnx")
        check_network(network, spec)
        del parser


@pytest.mark.parametrize("name", RANGES)
def test_an_engine_is_built(reference, tmp_path: Path, name: str) -> None:
    backend = load_backend("rtx")
    specs = write_graphs(reference, graph_precisions("int8", "rtx"), tmp_path)
    profile = Profile(name, RANGES[name])
    graph = tmp_path / f"{name}.onnx"
    request = build_request(backend, specs[name], graph, (profile,), BuildOptions(), AHEAD_OF_TIME)
    assert memoryview(build_engine(backend, request, Silent()).engine).nbytes > 10**5
