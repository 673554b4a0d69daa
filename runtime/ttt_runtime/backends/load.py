"""The runner of a device: which one can run a bundle there, and the line that says why none can."""

from __future__ import annotations

from ttt_ref.errors import BundleError, DeviceError
from ttt_runtime.backends.base import Runner
from ttt_runtime.backends.gpu.runner import BUCKET_ROWS, DeviceRunner
from ttt_runtime.backends.kv_cache import open_capacity
from ttt_runtime.backends.native.graph import NotNativeError
from ttt_runtime.backends.native.library import suited
from ttt_runtime.backends.native.runner import NativeRunner
from ttt_runtime.backends.ort.runner import OrtRunner
from ttt_runtime.backends.ort.session import (
    GraphSession,
    SessionSettings,
    check_device,
    keep_own_pools,
    require_onnxruntime,
)
from ttt_runtime.bundle.embeddings import EmbeddingTable
from ttt_runtime.bundle.folder import OPEN_CACHE, Bundle, wrong_engine
from ttt_runtime.bundle.gqa_spec import is_gqa
from ttt_runtime.bundle.graph_spec import DECODER, SPEECH_HEAD, TEXT_HEAD
from ttt_runtime.machine.device import Device


def load_runner(
    bundle: Bundle, device: str, *, threads: int | None = None, capacity: int | None = None
) -> Runner:
    """Load a bundle's decoder and heads on a device.

    Args:
        bundle: an opened bundle.
        device: see `device.Device`.
        threads: CPU threads; None takes those that this process may use.
        capacity: rows of the cache; None takes the model's limit, up to 4096.

    Raises:
        DeviceError: the device is not there, or the bundle was made for another engine.
        BundleError: a graph is missing or is not what its spec says.
    """
    parsed = Device.parse(device)
    name = parsed.name
    if name == "cpu":
        return cpu_runner(bundle, way=parsed.way, threads=threads, capacity=capacity)
    if name == "cuda":
        return cuda_runner(bundle, device, threads=threads, capacity=capacity)
    from ttt_runtime.backends.gpu.engine_runner import (
        engine_runner,  # with it comes the engine's backend
    )

    return engine_runner(bundle, device, capacity=capacity)


def cpu_runner(
    bundle: Bundle,
    *,
    way: str | None = None,
    threads: int | None = None,
    capacity: int | None = None,
) -> OrtRunner | NativeRunner:
    """Load a bundle on the CPU: on our kernels where they can run it, else in onnxruntime.

    Args:
        bundle: an opened bundle.
        way: `native` or `onnxruntime` insists.
        threads, capacity: see `load_runner`.

    Raises:
        DeviceError: the kernels were insisted on, and are not there or cannot run this bundle.
        BundleError: a graph is missing or damaged.
    """
    why_not: str | None = None
    if way != "onnxruntime" and is_gqa(bundle.graph(DECODER).spec):
        check_device("cpu")  # the codec's graphs, and some of ours, need onnxruntime all the same
        try:
            native = NativeRunner(bundle, threads=threads, capacity=capacity)
            keep_own_pools()  # the codec's graphs, loaded next
            return native
        except NotNativeError as error:
            why_not = str(error)
        except DeviceError as error:
            if way == "native":
                raise
            why_not = str(error)
    if way == "native":
        why_not = why_not or "graphs in their standard form (floats) are onnxruntime's"
        raise DeviceError(f"device 'cpu+native': {why_not}; say cpu")
    runner = OrtRunner.from_bundle(bundle, threads=threads, capacity=capacity)
    runner.why_not_native = why_not
    if why_not and suited():
        runner.note = f"the decoder runs in {runner.runs_in}"
    return runner


def cuda_runner(
    bundle: Bundle,
    device: str,
    *,
    threads: int | None = None,
    capacity: int | None = None,
    bucket_rows: int = BUCKET_ROWS,
) -> DeviceRunner:
    """Load a bundle in onnxruntime with all its tensors in the device's memory.

    Tests call it with device `cpu`: the same bindings, over memory of the host.
    """
    from ttt_runtime.backends.gpu.ort_graph import OrtGraph, OrtMemory

    target = Device.parse(device)
    if bundle.config.engine not in OPEN_CACHE or is_gqa(bundle.graph(DECODER).spec):
        raise DeviceError(wrong_engine(bundle, target.name))
    check_device(device)
    memory = OrtMemory(target.name, target.index)
    settings = SessionSettings(device, threads)

    def load(name: str) -> OrtGraph:
        entry = bundle.graph(name)
        require_onnxruntime(entry.spec)
        session = GraphSession(bundle.file(entry.file), entry.spec, settings)
        return OrtGraph(session, memory, captures=target.graphs)

    decoder = load(DECODER)
    model = bundle.config.model
    if decoder.spec.input("embeds").shape[-1] != model.hidden_size:
        raise BundleError("the decoder's width is not the model's; export the bundle again")
    return DeviceRunner(
        decoder,
        load(TEXT_HEAD),
        load(SPEECH_HEAD),
        memory,
        EmbeddingTable.from_bundle(bundle),
        bundle.config.layout,
        open_capacity(model.max_position_embeddings, capacity),
        bucket_rows=bucket_rows,
    )
