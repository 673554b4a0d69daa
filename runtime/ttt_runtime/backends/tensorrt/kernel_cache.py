"""Kernels that TensorRT-RTX compiles on the device, kept between starts.

They lie in the user's cache folder, not in the bundle: a bundle comes from elsewhere and may be
read-only, and what is compiled here fits this GPU and driver only.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Final

from ttt_ref.outputs import write_whole
from ttt_runtime.backends.tensorrt.stamp import KEY_LETTERS, EngineIdentity
from ttt_runtime.machine.gpu import Gpu

SUFFIX: Final = ".kernels"


def kernel_cache_path(identity: EngineIdentity, gpu: Gpu) -> Path:
    """Return where the kernels of an engine on a GPU are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    name = f"{identity.graph}-{identity.key[:KEY_LETTERS]}-{gpu.architecture}{SUFFIX}"
    return Path(base).expanduser() / "ttt-edge" / "kernels" / name


class KernelCache:
    """Makes an engine's contexts with compiled kernels from a file, and writes new ones to it.

    Args:
        trt: the tensorrt_rtx module.
        engine: a loaded engine.
        path: the file; a missing or refused one only costs the compilation.
        strategy: who gives the contexts their scratch memory; None leaves it to the library.
        graphs: let the library replay whole runs as CUDA graphs.
    """

    def __init__(
        self,
        trt: Any,
        engine: Any,
        path: Path,
        *,
        strategy: Any = None,
        graphs: bool = False,
    ) -> None:
        self._engine = engine
        self._path = path
        self._config = engine.create_runtime_config()
        if strategy is not None:
            self._config.set_execution_context_allocation_strategy(strategy)
        if graphs:
            self._config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache = self._config.create_runtime_cache()
        self._before = b""
        with contextlib.suppress(OSError):
            self._before = path.read_bytes()
            self._cache.deserialize(self._before)
        self._config.set_runtime_cache(self._cache)

    def new_context(self) -> Any:
        """Return an execution context (None if the library makes none)."""
        return self._engine.create_execution_context(self._config)

    def save(self) -> None:
        """Write the kernels, whole or not at all; a folder that cannot be written is no error."""
        data = bytes(self._cache.serialize())
        if not data or data == self._before:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, data)
            self._before = data
