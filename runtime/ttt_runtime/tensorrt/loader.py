"""Find the engine that fits this machine and load it; never one that merely lies there."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ttt_ref.errors import BundleError, DeviceError
from ttt_runtime.doctor.gpu import Gpu, GpuReport, probe_gpus
from ttt_runtime.tensorrt.api import Backend, find_flavour
from ttt_runtime.tensorrt.stamp import (
    ENGINE_SUFFIX,
    EngineStamp,
    check_engine_file,
    graph_sha256,
    mismatch,
    read_stamp,
)

ENGINE_FOLDER: Final = "engines"
REBUILD: Final = "build one here with: ttt-engines {bundle}"

Probe = Callable[[], GpuReport]


@dataclass(frozen=True)
class FoundEngine:
    """An engine file whose stamp fits."""

    path: Path
    stamp: EngineStamp


def require_gpu(engine: str, probe: Probe = probe_gpus) -> Gpu:
    """Return the first GPU; DeviceError when the machine has none or its driver does not answer."""
    report = probe()
    if not report.gpus:
        title = find_flavour(engine).title
        raise DeviceError(
            f"a {title} engine needs an NVIDIA GPU and its driver to be loaded: {report.problem}; "
            "use a bundle made with -e cpu on this machine"
        )
    return report.gpus[0]


def find_engine(
    folder: Path, graph: str, graph_file: Path, backend: Backend, gpu: Gpu | None
) -> FoundEngine:
    """Return the engine of a graph that may run here.

    Args:
        folder: where engines and their stamps lie.
        graph: name of the graph.
        graph_file: the ONNX file that the engine must have been built from.
        backend: library that would run it.
        gpu: GPU that would run it; None when only the rest is to be compared.

    Raises:
        DeviceError: none fits; the line says why each one was refused.
        BundleError: the graph's name is none that an engine can have.
    """
    if not graph.isidentifier():  # names come from the bundle; this one would be a path or pattern
        raise BundleError(f"graph {graph!r} cannot have an engine: its name is no plain word")
    reasons = []
    graph_hash = graph_sha256(graph_file)
    for path in sorted(folder.glob(f"{graph}-*{ENGINE_SUFFIX}")):
        if path.is_symlink():
            reasons.append(f"{path.name} is a link")
            continue
        try:
            stamp = read_stamp(path)
            why = mismatch(
                stamp.identity,
                engine=backend.flavour.engine,
                version=backend.version,
                graph_hash=graph_hash,
                gpu=gpu,
            )
            if why is None:
                check_engine_file(path, stamp)
                return FoundEngine(path, stamp)
            reasons.append(f"{path.name} {why}")
        except BundleError as error:
            reasons.append(str(error))
    seen = "; ".join(reasons) or "there is none"
    raise DeviceError(
        f"no {backend.flavour.title} engine of graph {graph} fits: {seen}; "
        + REBUILD.format(bundle=folder.parent)
    )


def deserialize(backend: Backend, found: FoundEngine, probe: Probe = probe_gpus) -> tuple[Any, Any]:
    """Load an engine; returns (runtime, engine), of which the runtime must outlive the engine.

    Raises:
        DeviceError: no GPU or driver, or the library refuses the engine.
    """
    require_gpu(backend.flavour.engine, probe)
    backend.clear()
    runtime = backend.trt.Runtime(backend.new_logger())
    engine = runtime.deserialize_cuda_engine(found.path.read_bytes())
    if engine is None:
        raise DeviceError(
            f"{backend.flavour.title} refuses engine {found.path.name}: {backend.first_error()}; "
            + REBUILD.format(bundle=found.path.parent.parent)
        )
    return runtime, engine


class RuntimeCache:
    """The kernels that TensorRT-RTX compiles on the device, kept in a file between starts.

    Args:
        engine: a loaded TensorRT-RTX engine.
        path: the file; a missing or refused one only costs the compilation.
    """

    def __init__(self, engine: Any, path: Path) -> None:
        self._path = path
        self._config = engine.create_runtime_config()
        self._cache = self._config.create_runtime_cache()
        if path.is_file():
            self._cache.deserialize(path.read_bytes())
        self._config.set_runtime_cache(self._cache)
        self.context = engine.create_execution_context(self._config)

    def save(self) -> None:
        """Write the cache, whole or not at all."""
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            temporary.write_bytes(bytes(self._cache.serialize()))
            temporary.replace(self._path)
        finally:
            temporary.unlink(missing_ok=True)
