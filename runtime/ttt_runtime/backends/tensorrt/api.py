"""One way to both Python APIs: `tensorrt` and `tensorrt_rtx` have the same classes.

They are imported here and nowhere else, and only when an engine is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ttt_ref.errors import DeviceError
from ttt_ref.package import install_command
from ttt_runtime.bundle.basic_spec import BASIC_TENSORRT, least_tensorrt
from ttt_runtime.bundle.graph_spec import GraphSpec
from ttt_runtime.machine.versions import Version, version_tuple


@dataclass(frozen=True)
class Flavour:
    """What differs between the two.

    Attributes:
        engine: name of the engine as bundles and command lines say it.
        module: Python module.
        title: the product's name in messages.
        minimum: oldest version that takes any of our graphs (of TensorRT: those of basic
            operators, see `require_parser`); TensorRT-RTX before 1.6 cannot build 4-bit weights
            without a GPU.
        program: the command-line tool that does the same.
        install: what to do when it is missing.
        needs_gpu: building needs the GPU that the engine is for.
        timing_cache: measured kernel times can be kept between builds.
        kernel_cache: kernels are compiled on the device and can be kept between starts.
    """

    engine: str
    module: str
    title: str
    minimum: Version
    program: str
    install: str
    needs_gpu: bool
    timing_cache: bool
    kernel_cache: bool


FLAVOURS: Final[Mapping[str, Flavour]] = {
    "tensorrt": Flavour(
        engine="tensorrt",
        module="tensorrt",
        title="TensorRT",
        minimum=BASIC_TENSORRT,
        program="trtexec",
        install=f"{install_command('tensorrt')} --extra-index-url https://pypi.nvidia.com, "
        "or on a Jetson: apt install python3-libnvinfer",
        needs_gpu=True,
        timing_cache=True,
        kernel_cache=False,
    ),
    "rtx": Flavour(
        engine="rtx",
        module="tensorrt_rtx",
        title="TensorRT-RTX",
        minimum=(1, 6),
        program="tensorrt_rtx",
        install=install_command("rtx"),
        needs_gpu=False,
        timing_cache=False,
        kernel_cache=True,
    ),
}


@dataclass
class Backend:
    """A loaded module and its flavour. `messages` collects its warnings and errors."""

    flavour: Flavour
    trt: Any
    version: str
    messages: list[tuple[str, str]] = field(default_factory=list)

    def new_logger(self) -> Any:
        """Return a logger that keeps warnings and errors in `messages` and prints nothing."""
        trt, messages = self.trt, self.messages
        shown = {
            trt.ILogger.INTERNAL_ERROR: "error",
            trt.ILogger.ERROR: "error",
            trt.ILogger.WARNING: "warning",
        }

        class Collector(trt.ILogger):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in shown:
                    messages.append((shown[severity], message))

        return Collector()

    def first_error(self) -> str:
        """Return the first error since the last `clear`, on one line, cut to a readable length."""
        for kind, message in self.messages:
            if kind == "error":
                return " ".join(message.split())[:300]
        return "no reason given"

    def clear(self) -> None:
        """Forget the messages so far."""
        self.messages.clear()


def find_flavour(engine: str) -> Flavour:
    """Return the flavour of an engine name; DeviceError for other engines."""
    try:
        return FLAVOURS[engine]
    except KeyError:
        raise DeviceError(
            f"{engine!r} is no TensorRT engine; expected {' or '.join(FLAVOURS)}"
        ) from None


def load_backend(
    engine: str, import_module: Callable[[str], Any] = importlib.import_module
) -> Backend:
    """Import the Python API of an engine.

    Raises:
        DeviceError: it is not installed, cannot be loaded or is too old; the line says what to do.
    """
    flavour = find_flavour(engine)
    try:
        module = import_module(flavour.module)
    except ModuleNotFoundError:
        raise DeviceError(f"{flavour.title} is not installed; run: {flavour.install}") from None
    except (ImportError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DeviceError(
            f"{flavour.title} is installed but cannot be loaded ({reason:.200}); "
            f"install it again: {flavour.install}"
        ) from None
    version = str(getattr(module, "__version__", "0"))
    if version_tuple(version) < flavour.minimum:
        least = ".".join(map(str, flavour.minimum))
        raise DeviceError(
            f"{flavour.title} {version} is too old for these graphs, which need {least} or later; "
            f"update it: {flavour.install}"
        )
    return Backend(flavour, module, version)


def require_parser(backend: Backend, spec: GraphSpec) -> None:
    """Refuse a graph that this version's parser does not know.

    TensorScatter, RMSNormalization and RotaryEmbedding, of which standard graphs are made, came to
    TensorRT's parser with 10.15; TensorRT-RTX has had them in every version that we take.

    Raises:
        DeviceError: with the version found and the one needed.
    """
    least = least_tensorrt(spec)
    if backend.flavour.engine != "tensorrt" or version_tuple(backend.version) >= least:
        return
    needed = ".".join(map(str, least))
    raise DeviceError(
        f"TensorRT {backend.version} found, {needed} needed for the graph {spec.name}; export with "
        "--form basic for this version"
    )
