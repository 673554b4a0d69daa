"""Build one engine: network, profiles, builder options, and what it cost."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttt_export.tensorrt.network import check_network, parse_network
from ttt_export.tensorrt.profiles import add_profiles
from ttt_export.tensorrt.progress import Silent, interruptible, make_monitor
from ttt_export.tensorrt.request import BuildRequest
from ttt_ref.errors import DeviceError, ExportError
from ttt_runtime.backends.tensorrt.api import Backend
from ttt_runtime.backends.tensorrt.stamp import AHEAD_OF_TIME


@dataclass(frozen=True)
class BuildCost:
    """Wall time and peak resident memory of a build; None where the system does not say."""

    seconds: float
    peak_memory_bytes: int | None


@dataclass(frozen=True)
class Built:
    """A serialized engine, and the timing cache as it stands after the build (or None)."""

    engine: Any
    timing_cache: bytes | None
    cost: BuildCost


def build_engine(
    backend: Backend,
    request: BuildRequest,
    reporter: Silent,
    timing_cache: bytes | None = None,
) -> Built:
    """Build an engine.

    Raises:
        ExportError: the graph is refused or differs from its spec, or the builder fails.
        DeviceError: the builder cannot be started on this machine.
        KeyboardInterrupt: Ctrl-C; the builder was stopped cleanly.
    """
    backend.clear()
    logger = backend.new_logger()
    start = time.monotonic()
    with peak_memory() as peak, interruptible(reporter):
        builder = _new_builder(backend, logger)
        network, parser = parse_network(backend, builder, logger, request.graph)
        check_network(network, request.spec)
        config = builder.create_builder_config()
        _configure(backend, config, request)
        config.progress_monitor = make_monitor(backend.trt, reporter)
        add_profiles(builder, config, request.spec, request.profiles)
        cache = _set_timing_cache(backend, config, timing_cache)
        engine = builder.build_serialized_network(network, config)
        del parser  # it owns the weights that the network points at
    if engine is None:
        raise ExportError(
            f"graph {request.spec.name}: {backend.flavour.title} {backend.version} could not "
            f"build an engine: {backend.first_error()}"
        )
    kept = None if cache is None else bytes(config.get_timing_cache().serialize())
    return Built(engine, kept, BuildCost(time.monotonic() - start, peak()))


def _new_builder(backend: Backend, logger: Any) -> Any:
    try:
        return backend.trt.Builder(logger)
    except (RuntimeError, TypeError) as error:  # pybind's answer to a native null pointer
        raise DeviceError(
            f"{backend.flavour.title} cannot start its builder here: "
            f"{' '.join(str(error).split()) or backend.first_error()}"
        ) from None


def _configure(backend: Backend, config: Any, request: BuildRequest) -> None:
    trt, options = backend.trt, request.options
    if options.workspace_mib is not None:
        pool = trt.MemoryPoolType.WORKSPACE
        config.set_memory_pool_limit(pool, options.workspace_mib * 2**20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if request.spec.inputs[0].dtype == "float32":
        config.clear_flag(trt.BuilderFlag.TF32)  # fp32 was asked for, not 10 bits of mantissa
    if not backend.flavour.needs_gpu and request.identity.architecture != AHEAD_OF_TIME:
        names = request.identity.architecture.split("+")
        config.num_compute_capabilities = len(names)
        for index, name in enumerate(names):
            config.set_compute_capability(_capability(trt, name), index)


def _capability(trt: Any, name: str) -> Any:
    known = trt.ComputeCapability.__members__
    member = name.replace("_", "").upper()
    if member not in known:
        usable = ", ".join(k.replace("SM", "sm_") for k in known if k.startswith("SM"))
        raise ExportError(f"GPU architecture {name} is unknown to this builder; it has {usable}")
    return known[member]


def _set_timing_cache(backend: Backend, config: Any, data: bytes | None) -> Any:
    if not backend.flavour.timing_cache:
        return None
    cache = config.create_timing_cache(data or b"")
    # False: measured on another GPU or by another version. Then begin anew, never mix.
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


@contextlib.contextmanager
def peak_memory() -> Iterator[Any]:
    """Yield a function that returns the peak resident memory since the block began, in bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak so far

    def peak() -> int | None:
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return None
        for line in lines:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return None

    yield peak
