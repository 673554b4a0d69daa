"""The command that NVIDIA's own tool would take to build the same engine."""

from __future__ import annotations

import shlex

from ttt_export.tensorrt.cache import TIMING_CACHE
from ttt_export.tensorrt.profiles import dynamic_inputs
from ttt_export.tensorrt.request import BuildRequest
from ttt_runtime.backends.tensorrt.api import Backend
from ttt_runtime.backends.tensorrt.loader import ENGINE_FOLDER
from ttt_runtime.backends.tensorrt.stamp import AHEAD_OF_TIME


def equivalent_command(backend: Backend, request: BuildRequest) -> str:
    """Return the trtexec or tensorrt_rtx line, ready for a shell.

    The engine's place is the bundle's engine folder, beside the graph of the request.
    """
    folder = request.graph.parent / ENGINE_FOLDER
    engine = folder / request.identity.file_name
    words = [backend.flavour.program, f"--onnx={request.graph}", f"--saveEngine={engine}"]
    if backend.flavour.needs_gpu:
        words.append("--stronglyTyped")
    elif request.identity.architecture != AHEAD_OF_TIME:
        numbers = request.identity.architecture.replace("sm_", "").replace("+", ",")
        words.append(f"--computeCapabilities={numbers}")
    several = len(request.profiles) > 1
    for index, profile in enumerate(request.profiles):
        if several:
            words.append(f"--profile={index}")
        for position, option in enumerate(("minShapes", "optShapes", "maxShapes")):
            shapes = [
                f"{tensor.name}:{'x'.join(map(str, profile.shapes(tensor)[position]))}"
                for tensor in dynamic_inputs(request.spec)
            ]
            if shapes:
                words.append(f"--{option}={','.join(shapes)}")
    if request.options.workspace_mib is not None:
        words.append(f"--memPoolSize=workspace:{request.options.workspace_mib}M")
    if request.options.optimization_level is not None:
        words.append(f"--builderOptimizationLevel={request.options.optimization_level}")
    if request.spec.inputs[0].dtype == "float32":
        words.append("--noTF32")
    if backend.flavour.timing_cache:
        words.append(f"--timingCacheFile={folder / TIMING_CACHE}")
    words.append("--skipInference")
    return shlex.join(words)
