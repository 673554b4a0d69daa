"""Find the engine that fits this machine and load it; never one that merely lies there."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ttt_ref.errors import BundleError, DeviceError
from ttt_runtime.backends.tensorrt.api import Backend, find_flavour
from ttt_runtime.backends.tensorrt.stamp import (
    ENGINE_SUFFIX,
    EngineStamp,
    check_engine_file,
    graph_sha256,
    mismatch,
    read_stamp,
    recorded_sha256,
)
from ttt_runtime.bundle.folder import AUTO_HASH_BYTES, Bundle
from ttt_runtime.machine.gpu import Gpu, GpuReport, probe_gpus

ENGINE_FOLDER: Final = "engines"
REBUILD: Final = "build one here with: ttt-engines {bundle}"

Probe = Callable[[], GpuReport]


@dataclass(frozen=True)
class FoundEngine:
    """An engine file whose stamp fits."""

    path: Path
    stamp: EngineStamp


def require_gpu(engine: str, probe: Probe = probe_gpus, index: int = 0) -> Gpu:
    """Return a GPU; DeviceError when the machine has none or its driver does not answer."""
    report = probe()
    if not report.gpus:
        title = find_flavour(engine).title
        raise DeviceError(
            f"a {title} engine needs an NVIDIA GPU and its driver to be loaded: {report.problem}; "
            "use a bundle made with -e cpu on this machine"
        )
    if index >= len(report.gpus):
        raise DeviceError(
            f"GPU {index} was asked for, this machine has {len(report.gpus)}: "
            f"{', '.join(f'{gpu.index} {gpu.name}' for gpu in report.gpus)}"
        )
    return report.gpus[index]


def find_engine(
    folder: Path,
    graph: str,
    graph_file: Path,
    backend: Backend,
    gpu: Gpu | None,
    *,
    graph_hash: str | None = None,
    contents: bool = True,
) -> FoundEngine:
    """Return the engine of a graph that may run here.

    Args:
        folder: where engines and their stamps lie.
        graph: name of the graph.
        graph_file: the ONNX file that the engine must have been built from.
        backend: library that would run it.
        gpu: GPU that would run it; None when only the rest is to be compared.
        graph_hash: SHA-256 of the graph where it is known; None reads the graph.
        contents: compare the engine file with its stamp's SHA-256, not only its size.

    Raises:
        DeviceError: none fits; the line says why each one was refused.
        BundleError: the graph's name is none that an engine can have.
    """
    if not graph.isidentifier():  # names come from the bundle; this one would be a path or pattern
        raise BundleError(f"graph {graph!r} cannot have an engine: its name is no plain word")
    reasons = []
    graph_hash = graph_hash or graph_sha256(graph_file)
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
                check_engine_file(path, stamp, contents=contents)
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
    # Mapped, not read: an engine is as large as its weights, and a Jetson has one memory for all.
    with found.path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise DeviceError(
            f"{backend.flavour.title} refuses engine {found.path.name}: {backend.first_error()}; "
            + REBUILD.format(bundle=found.path.parent.parent)
        )
    return runtime, engine


def find_bundle_engine(
    bundle: Bundle, graph: str, backend: Backend, gpu: Gpu | None
) -> FoundEngine:
    """Return the engine of a bundle's graph that may run here.

    Graph and engine of a large bundle are known by their recorded hashes and their sizes, as
    `Bundle.open` does by default: to read 6 GB twice at every start would cost many seconds.

    Raises:
        DeviceError: none fits; the line says why each one was refused.
    """
    entry = bundle.graph(graph)
    total = sum(record.bytes for record in bundle.config.files.values())
    large = total > AUTO_HASH_BYTES
    return find_engine(
        bundle.path / ENGINE_FOLDER,
        graph,
        bundle.file(entry.file),
        backend,
        gpu,
        graph_hash=recorded_sha256(entry.file, bundle.config.files) if large else None,
        contents=not large,
    )
