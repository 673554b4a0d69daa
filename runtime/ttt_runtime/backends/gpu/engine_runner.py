"""Load a bundle's engines: find those that fit, check them, give them memory and a stream."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ttt_ref.errors import ConfigError, DeviceError
from ttt_runtime.backends.gpu.cuda import CudaStream
from ttt_runtime.backends.gpu.engine_graph import EngineGraph
from ttt_runtime.backends.gpu.runner import DeviceRunner
from ttt_runtime.backends.tensorrt.api import FLAVOURS, Backend, load_backend
from ttt_runtime.backends.tensorrt.kernel_cache import KernelCache, kernel_cache_path
from ttt_runtime.backends.tensorrt.loader import (
    FoundEngine,
    Probe,
    deserialize,
    find_bundle_engine,
    require_gpu,
)
from ttt_runtime.bundle.embeddings import EmbeddingTable
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.graph_spec import DECODER, SPEECH_HEAD, TEXT_HEAD
from ttt_runtime.machine.device import Device
from ttt_runtime.machine.gpu import Gpu, probe_gpus


@dataclass(frozen=True)
class _Loaded:
    """An engine in memory; the runtime object must outlive it."""

    found: FoundEngine
    runtime: Any
    engine: Any


def engine_runner(
    bundle: Bundle,
    device: str,
    *,
    capacity: int | None = None,
    backend: Backend | None = None,
    probe: Probe = probe_gpus,
    open_stream: Callable[[int], CudaStream] = CudaStream,
) -> DeviceRunner:
    """Load decoder and heads of a bundle as engines.

    Args:
        bundle: an opened bundle with fixed cache length.
        device: `tensorrt` or `rtx`, see `device.Device`.
        capacity: must be the engines' cache length, if given.
        backend: a loaded API; None loads the device's own.
        probe: finds the GPUs.
        open_stream: takes the number of a GPU.

    Raises:
        DeviceError: library, driver, GPU or a fitting engine is missing; the line says which.
        BundleError: an engine is not what its graph's spec says.
    """
    target = Device.parse(device)
    if bundle.config.engine not in FLAVOURS:
        from ttt_runtime.bundle.folder import wrong_engine

        raise DeviceError(wrong_engine(bundle, target.name))
    backend = backend or load_backend(target.name)
    gpu = require_gpu(target.name, probe, target.index)
    graphs = [bundle.graph(name) for name in (DECODER, TEXT_HEAD, SPEECH_HEAD)]
    rows = graphs[0].spec.input("mask").shape[1]
    assert isinstance(rows, int)  # engines were refused a cache of open length
    if capacity not in (None, rows):
        raise ConfigError(f"capacity {capacity}; this bundle's engines are built for {rows} rows")
    found = [find_bundle_engine(bundle, entry.spec.name, backend, gpu) for entry in graphs]
    stream = open_stream(target.index)
    loaded = [_Loaded(one, *deserialize(backend, one, probe)) for one in found]
    scratch_bytes = max(max(scratch_size(one.engine) for one in loaded), 1)
    scratch = stream.allocate(scratch_bytes)
    makers = [_context_maker(backend, one, gpu, target) for one in loaded]
    decoder, text, speech = (
        EngineGraph(
            backend,
            one.engine,
            entry.spec,
            stream,
            make,
            (scratch.address, scratch_bytes),
            # TensorRT-RTX captures by itself; see `_context_maker`.
            captures=target.graphs and target.name == "tensorrt",
        )
        for one, entry, (make, _) in zip(loaded, graphs, makers, strict=True)
    )
    runner = DeviceRunner(
        decoder,
        text,
        speech,
        stream,
        EmbeddingTable.from_bundle(bundle),
        bundle.config.layout,
        rows,
        runs_in=f"{target.name} engines",
    )
    caches = [cache for _, cache in makers if cache is not None]
    # At the end of the runner or of the process; it also keeps scratch and engines till then.
    weakref.finalize(runner, _save, caches, scratch, loaded)
    return runner


def scratch_size(engine: Any) -> int:
    """Return the bytes of scratch memory that an engine's contexts need."""
    size = getattr(engine, "device_memory_size_v2", None)  # since TensorRT 10.1
    return int(engine.device_memory_size if size is None else size)


def _context_maker(
    backend: Backend, one: _Loaded, gpu: Gpu, target: Device
) -> tuple[Callable[[], Any], KernelCache | None]:
    """Return what makes contexts without scratch memory, and the kernels to keep."""
    strategy = backend.trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if not backend.flavour.kernel_cache:
        return lambda: one.engine.create_execution_context(strategy), None
    path = kernel_cache_path(one.found.stamp.identity, gpu)
    cache = KernelCache(backend.trt, one.engine, path, strategy=strategy, graphs=target.graphs)
    return cache.new_context, cache


def _save(caches: Iterable[KernelCache], *kept: object) -> None:
    for cache in caches:
        cache.save()
