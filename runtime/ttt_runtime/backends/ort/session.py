"""onnxruntime sessions: the device that was asked for, a stated number of threads, or an error.

onnxruntime falls back to the CPU without a word when a provider cannot be loaded. Nothing here
does: a device that is missing is a DeviceError, before any graph runs.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from ttt_ref.arguments import whole
from ttt_ref.bounded import check_plain, shown
from ttt_ref.errors import BundleError, ConfigError, DeviceError
from ttt_ref.package import install_command
from ttt_runtime.backends.ort.integer_products import OPTION, needs_unsigned_weights
from ttt_runtime.backends.ort.node_profile import active_profile
from ttt_runtime.backends.ort.provider import (
    RECORD_NODES,
    check_provider_assignment,
    preload_cuda,
    provider_entry,
    quiet_log,
)
from ttt_runtime.bundle.basic_spec import is_basic, least_onnxruntime
from ttt_runtime.bundle.graph_spec import GraphSpec
from ttt_runtime.machine.cpus import allowed_cpus, usable_cpus
from ttt_runtime.machine.device import PROVIDERS, Device
from ttt_runtime.machine.versions import version_tuple

# A spec's attributes of these names are session options: what the graph's numbers rely on. Others
# are refused, since a bundle may come from anywhere.
SESSION_ATTRIBUTES: Final = frozenset(
    {
        "session.qdq_matmulnbits_accuracy_level",
        "session.set_denormal_as_zero",
        "session.disable_prepacking",
        "mlas.enable_gemm_fastmath_arm64_bfloat16",
        "optimization.enable_gelu_approximation",
    }
)

# onnxruntime's names of element types -> ours.
_TYPES: Final[Mapping[str, str]] = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


@dataclass(frozen=True)
class SessionSettings:
    """How sessions are made.

    `threads` None means all CPUs that this process may use (see `machine.cpus`). More threads than
    CPUs only wait for each other, so no more are made, whatever was asked for.
    """

    device: str = "cpu"
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse devices that do not exist and thread counts that cannot be."""
        Device.parse(self.device)
        if self.threads is not None:
            whole("threads", self.threads, 1, 1024)

    @property
    def thread_count(self) -> int:
        """The number of threads to use."""
        return usable_cpus() if self.threads is None else min(self.threads, allowed_cpus())


class _SharedPool:
    """onnxruntime's process-wide thread pool: wanted by `share_thread_pool`, made when first used.

    Decoder, heads and codec run one after the other; with a pool each, threads of idle pools
    compete with those of the running one. But once the shared pool exists, onnxruntime refuses
    any session of the process that does not use it, so only a program, never a library, may ask.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = False
        self._threads = 0

    def want(self, wanted: bool) -> None:
        self._wanted = wanted

    def serves(self, ort: Any, threads: int) -> bool:
        """Tell whether a session of so many threads is to use the shared pool."""
        with self._lock:
            if self._wanted and not self._threads:
                ort.set_global_thread_pool_sizes(threads, 1)
                self._threads = threads
            if self._threads not in (0, threads):
                raise ConfigError(
                    f"threads is {threads}, but this process shares a pool of {self._threads}"
                )
            return self._threads > 0


_SHARED_POOL = _SharedPool()


def share_thread_pool() -> None:
    """Let all sessions of this process share one thread pool. For command lines, at their start."""
    _SHARED_POOL.want(True)


def keep_own_pools() -> None:
    """Let sessions have a pool each after all, if no shared one was made yet.

    A shared pool's threads go on spinning for milliseconds after a run, and onnxruntime lets nobody
    forbid it. That is good for the next graph and bad for threads that are not onnxruntime's: the
    shipped model's turn takes twice as long when our kernels compete with them.
    """
    _SHARED_POOL.want(False)


def import_onnxruntime() -> Any:
    """Return the onnxruntime module; DeviceError if it is not installed."""
    try:
        import onnxruntime  # imported late: it costs 0.1 s, and `--help` needs none of it
    except ImportError:
        raise DeviceError(
            f"onnxruntime is not installed; run: {install_command('cpu')} (or [gpu])"
        ) from None
    return onnxruntime


def require_onnxruntime(spec: GraphSpec) -> None:
    """Refuse a graph of the model that is made of operators which this onnxruntime lacks.

    Raises:
        DeviceError: with the version found and the one needed.
    """
    found, least = str(import_onnxruntime().__version__), least_onnxruntime(spec)
    if version_tuple(found) < least:
        needed = ".".join(map(str, least))
        way_out = "update onnxruntime"
        if not is_basic(spec):
            way_out += ", or export the bundle with --form basic"
        raise DeviceError(
            f"onnxruntime {found} found, {needed} needed for the graph {spec.name}; {way_out}"
        )


def check_device(device: str) -> str:
    """Return the provider of a device; DeviceError when this machine does not have it."""
    name = Device.parse(device).name
    if name not in PROVIDERS:
        raise DeviceError(
            f"device {device!r} was asked for: onnxruntime runs this graph on "
            f"{' or '.join(PROVIDERS)}, {name} runs engines only; or choose --device cpu"
        )
    provider, extra = PROVIDERS[name]
    have = import_onnxruntime().get_available_providers()
    if provider not in have:
        # Late: the doctor tries engines, and imports this module for their names.
        from ttt_runtime.backends.probe import explain_missing

        reason = explain_missing(name) or (
            f"this onnxruntime has only {', '.join(have)}; run: {install_command(extra)}"
        )
        raise DeviceError(f"device {device!r} was asked for: {reason}; or choose --device cpu")
    return provider


def first_line(error: Exception) -> str:
    """Return what a library's error says first, on one line and not without end."""
    lines = str(error).strip().splitlines()
    return shown(lines[0], 300)[1:-1] if lines else type(error).__name__


class GraphSession:
    """One loaded graph, checked against its spec."""

    def __init__(self, path: Path, spec: GraphSpec, settings: SessionSettings) -> None:
        """Load a graph.

        Raises:
            DeviceError: the device is missing, or onnxruntime left it for another one.
            BundleError: the file is no graph, or has other inputs and outputs than the spec says.
        """
        ort = import_onnxruntime()
        provider = check_device(settings.device)
        check_plain(path, BundleError)
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what fails is said in our error
        if needs_unsigned_weights(path):
            options.add_session_config_entry(*OPTION)
        for key, value in spec.attributes.items():
            if key in SESSION_ATTRIBUTES:
                self._set_option(options, key, str(value), path.name)
            elif "." in key:
                raise BundleError(
                    f"graph {path.name} asks for the session option {key!r}, which is not one of "
                    f"{', '.join(sorted(SESSION_ATTRIBUTES))}"
                )
        if _SHARED_POOL.serves(ort, settings.thread_count):
            options.use_per_session_threads = False
        else:
            options.intra_op_num_threads = settings.thread_count
            options.inter_op_num_threads = 1
            # Threads spin between the nodes of a run, not after it: the next session needs the CPU.
            options.add_session_config_entry("session.force_spinning_stop", "1")
        recording = active_profile()
        if recording is not None:
            recording.prepare(options)
        device = Device.parse(settings.device)
        with_gpu = device.name != "cpu"
        if with_gpu:
            preload_cuda(ort)
            options.add_session_config_entry(RECORD_NODES, "1")
        try:
            with quiet_log(ort) if with_gpu else nullcontext():
                self.ort_session: Any = ort.InferenceSession(
                    str(path),
                    sess_options=options,
                    providers=[provider_entry(provider, device)],
                    enable_fallback=0,  # or a failing provider is replaced without a word
                )
        except Exception as error:  # onnxruntime has no base class for its errors
            raise BundleError(f"graph {path.name} cannot be loaded: {first_line(error)}") from None
        if recording is not None:
            recording.add(self.ort_session)
        active = self.ort_session.get_providers()
        if active[0] != provider:
            from ttt_runtime.backends.probe import explain_missing  # late, see check_device

            reason = explain_missing(device.name) or "check the driver"
            raise DeviceError(
                f"device {settings.device!r} could not be started, onnxruntime fell back to "
                f"{active[0]}: {reason}; or choose --device cpu"
            )
        if with_gpu:
            check_provider_assignment(self.ort_session, path.name, device)
        self.spec = spec
        self.device = settings.device
        self._file = path.name
        self._output_names = [t.name for t in spec.outputs]
        self._check(path.name)

    @staticmethod
    def _set_option(options: Any, key: str, value: str, file: str) -> None:
        try:
            options.add_session_config_entry(key, value)
        except Exception as error:  # onnxruntime has no base class for its errors
            raise BundleError(
                f"graph {file}: the session option {key} is {shown(value)}, which onnxruntime "
                f"refuses: {first_line(error)}"
            ) from None

    def _check(self, file: str) -> None:
        session = self.ort_session
        for kind, nodes, tensors in (
            ("input", session.get_inputs(), self.spec.inputs),
            ("output", session.get_outputs(), self.spec.outputs),
        ):
            have = {node.name: node for node in nodes}
            want = {tensor.name: tensor for tensor in tensors}
            if have.keys() != want.keys():
                wrong = ", ".join(sorted(have.keys() ^ want.keys())[:4])
                raise BundleError(
                    f"graph {file} and its spec differ in {kind} {wrong}; export the bundle again"
                )
            for name, tensor in want.items():
                dtype = _TYPES.get(have[name].type, have[name].type)
                shape = have[name].shape
                fixed = [
                    (got, spec)
                    for got, spec in zip(shape, tensor.shape, strict=False)
                    if isinstance(got, int) and isinstance(spec, int) and got != spec
                ]
                if dtype != tensor.dtype or len(shape) != len(tensor.shape) or fixed:
                    raise BundleError(
                        f"graph {file}: {kind} {name!r} is {dtype} {shape}, its spec says "
                        f"{tensor.dtype} {list(tensor.shape)}; export the bundle again"
                    )

    def run(
        self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> list[NDArray[Any]]:
        """Run with arrays in, arrays out (all outputs of the spec, or those named)."""
        names = list(outputs) if outputs is not None else self._output_names
        try:
            result: list[NDArray[Any]] = self.ort_session.run(names, dict(feeds))
        except Exception as error:  # onnxruntime has no base class for its errors
            raise BundleError(f"graph {self._file} failed: {first_line(error)}") from None
        self._check_sizes(feeds, dict(zip(names, result, strict=True)))
        return result

    def _check_sizes(
        self, feeds: Mapping[str, NDArray[Any]], results: Mapping[str, NDArray[Any]]
    ) -> None:
        """Hold what a graph gave to its spec; a dimension's name has one size in a run."""
        sizes: dict[str, int] = {}
        for tensor in (*self.spec.inputs, *self.spec.outputs):
            array = feeds.get(tensor.name, results.get(tensor.name))
            if array is None:
                continue
            wanted = [
                sizes.setdefault(d, n) if isinstance(d, str) else d
                for d, n in zip(tensor.shape, array.shape, strict=False)
            ]
            if list(array.shape) != wanted:
                raise BundleError(
                    f"graph {self._file} gave {tensor.name} {list(array.shape)}, its spec says "
                    f"{list(tensor.shape)}; export the bundle again"
                )
