"""What a bundle needs of a machine, held against what is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ttt_ref.errors import BundleError, DeviceError
from ttt_runtime.backends.kv_cache import DEFAULT_CAPACITY
from ttt_runtime.backends.native.library import missing as kernels_missing
from ttt_runtime.backends.probe import EngineStatus, check_engine
from ttt_runtime.backends.tensorrt.api import FLAVOURS, load_backend
from ttt_runtime.backends.tensorrt.loader import ENGINE_FOLDER, find_bundle_engine
from ttt_runtime.bundle.basic_spec import is_basic, least_onnxruntime, least_tensorrt
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.gqa_spec import is_gqa
from ttt_runtime.bundle.graph_spec import DECODER, SPEECH_HEAD, TEXT_HEAD
from ttt_runtime.machine.gpu import Gpu, GpuReport, probe_gpus
from ttt_runtime.machine.host import Memory, read_memory
from ttt_runtime.machine.versions import (
    cuda_mismatch,
    library_cuda,
    precision_mismatch,
    version_tuple,
)

# Beside weights and cache: the interpreter, onnxruntime itself and the activations.
PROGRAM_BYTES: Final = 200 * 2**20
CODEC_FOLDER: Final = "codec"


@dataclass(frozen=True)
class Need:
    """One need of a bundle: met or not, in words."""

    name: str
    met: bool
    detail: str


def needed_memory(bundle: Bundle) -> int:
    """Return about how many bytes it takes to answer with a bundle: weights, cache, program.

    The codec is counted, whatever runs it.
    """
    is_engine = bundle.config.engine in FLAVOURS
    graphs = {entry.file for entry in bundle.config.graphs.values()}
    # The CPU multiplies float32 only: onnxruntime keeps such a copy of 16-bit weights.
    copies = 2 if bundle.config.engine == "cpu" and bundle.config.precision == "fp16" else 1
    weights = 0
    for name, record in bundle.config.files.items():
        is_graph = name.removesuffix(".data") in graphs
        # Engines hold their own copy of the weights: the model's graphs are not loaded beside them.
        is_unread = is_graph if is_engine else name.startswith(f"{ENGINE_FOLDER}/")
        is_widened = is_graph or name.startswith(f"{CODEC_FOLDER}/")
        if not is_unread:
            weights += record.bytes * (copies if is_widened else 1)
    return weights + cache_bytes(bundle) + PROGRAM_BYTES


def cache_bytes(bundle: Bundle) -> int:
    """Return the size of a full KV cache at the capacity that the runtime chooses.

    Engines of basic operators have two that take turns.
    """
    if DECODER not in bundle.config.graphs:
        return 0
    spec = bundle.config.graphs[DECODER].spec
    rows = min(DEFAULT_CAPACITY, bundle.config.model.max_position_embeddings)
    past = [tensor for tensor in spec.inputs if tensor.name.startswith("past_")]
    size = sum(t.bytes({d: rows for d in t.shape if isinstance(d, str)}) for t in past)
    return 2 * size if bundle.config.engine in FLAVOURS and is_basic(spec) else size


def bundle_needs(
    bundle: Bundle,
    status: EngineStatus | None = None,
    gpus: GpuReport | None = None,
    memory: Memory | None = None,
) -> list[Need]:
    """Compare a bundle with this machine.

    Args:
        bundle: an opened bundle.
        status: its engine on this machine; None tries it.
        gpus: GPUs of this machine; None asks the driver.
        memory: memory of this machine; None reads it.
    """
    engine = bundle.config.engine
    gpus = gpus or probe_gpus()
    status = status or check_engine(engine, gpus=gpus)
    needs = [_engine_need(bundle, status)]
    needs += _version_needs(bundle, status)
    if engine != "cpu" and gpus.gpus:
        needs += _gpu_needs(bundle, gpus)
    if engine in FLAVOURS:
        needs += _engine_file_needs(bundle, status, gpus)
    needs += _codec_need(bundle, gpus)
    needs.append(_memory_need(bundle, memory or read_memory(), gpus))
    return needs


def explain_bundle(bundle: Bundle) -> str | None:
    """Return the first thing that a bundle lacks on this machine, on one line; None if nothing.

    The engine comes first: the other needs are looked at only once it loads.
    """
    engine = bundle.config.engine
    gpus = probe_gpus()
    status = check_engine(engine, gpus=gpus)
    first = _engine_need(bundle, status)
    for need in [first] if not first.met else bundle_needs(bundle, status, gpus):
        if not need.met:
            return cannot_run(bundle.config.name, need)
    return None


def cannot_run(bundle_name: str, need: Need) -> str:
    """Return the line that every refusal of a bundle uses."""
    return f"bundle {bundle_name} cannot run on this machine: {need.detail}"


def _engine_need(bundle: Bundle, status: EngineStatus) -> Need:
    engine = bundle.config.engine
    name = f"engine {engine}"
    line = status.line()
    if line is None:
        return Need(name, True, f"version {status.version}")
    # Plain graphs also run on the CPU, whose kernels know no bfloat16 products.
    if engine == "cuda" and bundle.config.precision != "bf16" and check_engine("cpu").loads:
        return Need(name, True, f"not here ({line}), but --device cpu runs this bundle too")
    return Need(name, False, f"it was made for {engine}: {line}")


def _version_needs(bundle: Bundle, status: EngineStatus) -> list[Need]:
    if status.version is None or DECODER not in bundle.config.graphs:
        return []
    spec = bundle.config.graphs[DECODER].spec
    if bundle.config.engine == "rtx":
        return []  # every version that loads takes every form
    if bundle.config.engine == "tensorrt":
        name, least, others = "TensorRT", least_tensorrt(spec), "update JetPack"
    else:
        name, least, others = "onnxruntime", least_onnxruntime(spec), "update onnxruntime"
    needed = ".".join(map(str, least))
    if version_tuple(status.version) >= least:
        return [Need(name, True, f"{status.version} here, {needed} or later needed")]
    if runs_natively(bundle):
        text = f"{status.version} here, for the codec only: the kernels run the model"
        return [Need(name, True, text)]
    text = f"{status.version} found, {needed} needed; {others}"
    return [Need(name, False, text if is_basic(spec) else f"{text}, or export with --form basic")]


def runs_natively(bundle: Bundle) -> bool:
    """Tell whether our kernels are there and the bundle's decoder has the form that they run."""
    gqa = is_gqa(bundle.config.graphs[DECODER].spec)
    return bundle.config.engine == "cpu" and gqa and kernels_missing() is None


def _gpu_needs(bundle: Bundle, gpus: GpuReport) -> list[Need]:
    gpu, built_for = gpus.gpus[0], library_cuda(bundle.config.engine)
    needs = []
    if built_for is not None and gpus.cuda is not None:
        mismatch = cuda_mismatch(built_for, gpus)
        text = f"built for CUDA {built_for}, the driver offers {gpus.cuda}"
        needs.append(Need("CUDA", mismatch is None, mismatch or text))
    mismatch = precision_mismatch(bundle.config.precision, gpu)
    text = f"{bundle.config.precision} on {gpu.name}, {gpu.architecture}"
    needs.append(Need("GPU", mismatch is None, mismatch or text))
    return needs


def _codec_need(bundle: Bundle, gpus: GpuReport) -> list[Need]:
    """Say where the codec will run; it needs onnxruntime whatever runs the model."""
    if bundle.config.codec is None:
        return []
    engine = bundle.config.engine
    place = engine
    if engine in FLAVOURS:
        place = "cuda" if check_engine("cuda", gpus=gpus).loads else "cpu"
    line = check_engine(place, gpus=gpus).line()
    if line is not None and place == "cuda":
        place, line = "cpu", check_engine("cpu").line()
    text = f"runs on {place}" if line is None else f"needs onnxruntime: {line}"
    return [Need("codec", line is None, text)]


def _engine_file_needs(bundle: Bundle, status: EngineStatus, gpus: GpuReport) -> list[Need]:
    if status.version is None:
        return []
    backend = load_backend(bundle.config.engine)
    gpu: Gpu | None = gpus.gpus[0] if gpus.gpus else None
    needs = []
    for name in (DECODER, TEXT_HEAD, SPEECH_HEAD):
        try:
            found = find_bundle_engine(bundle, name, backend, gpu)
            needs.append(Need(f"engine of {name}", True, found.path.name))
        except (DeviceError, BundleError) as error:
            needs.append(Need(f"engine of {name}", False, str(error)))
    return needs


def _memory_need(bundle: Bundle, memory: Memory | None, gpus: GpuReport) -> Need:
    needed = needed_memory(bundle)
    text = f"about {gib(needed)} for weights, cache and program"
    free = None if memory is None else memory.available_bytes
    place = "available"
    if bundle.config.engine != "cpu" and gpus.gpus:
        on_gpu = gpus.gpus[0].memory_free_bytes
        if on_gpu is not None:
            free, place = on_gpu, f"free on {gpus.gpus[0].name}"
    if free is None:
        return Need("memory", True, f"{text}; this system does not say how much is available")
    text += f", {gib(free)} {place}"
    if needed > free:
        text += "; end other programs or export a smaller precision (-p int8, -p int4)"
    return Need("memory", needed <= free, text)


def gib(size: int) -> str:
    """Return a size in GiB or MiB for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
