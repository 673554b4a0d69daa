"""Compile the CPU kernels (`ttt_runtime.backends.native`) while the package is built or installed.

They are an extra, not a need: where there is no C compiler, or none for this kind of CPU, the build
says so and goes on, and onnxruntime runs the decoder (`ttt-doctor` tells which of the two does).
`TTT_KERNELS=require` makes a failure an error, for those who build wheels; `TTT_KERNELS=skip`
compiles nothing. `CC` names the compiler. Warnings are no errors here, since compilers to come will
have new ones; `make sanitize` is where they are.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path("runtime/ttt_runtime/backends/native")


class KernelHook(BuildHookInterface[Any]):
    """Puts the kernels beside their Python modules, and names the wheel after the machine."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile all variants; see the module."""
        wish = os.environ.get("TTT_KERNELS", "auto")
        if wish not in ("auto", "require", "skip"):
            raise SystemExit(f"TTT_KERNELS is {wish!r}; expected auto, require or skip")
        problem = "TTT_KERNELS=skip" if wish == "skip" else self._compile()
        if problem is not None:
            self.clean([])  # what an earlier build left is of other sources
        if problem is None:
            build_data["artifacts"].append(f"{KERNELS}/compiled/*.so")
            build_data["pure_python"] = False
            tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{tag}"
        elif wish == "require":
            raise SystemExit(f"the CPU kernels cannot be compiled: {problem}")
        else:
            print(f"no CPU kernels, onnxruntime will run the decoder: {problem}", file=sys.stderr)

    def clean(self, versions: list[str]) -> None:
        """Remove what was compiled."""
        for file in (Path(self.root) / KERNELS / "compiled").glob("*.so"):
            file.unlink()

    def _compile(self) -> str | None:
        """Return why there are no kernels; None if there is one at least."""
        compiler = _load(Path(self.root) / KERNELS / "compiler.py")
        reason: str | None = compiler.why_not()
        if reason is not None:
            return reason
        problems: list[str] = compiler.compile_all()
        variants = compiler.FLAGS[compiler.target_machine()]
        return problems[0] if len(problems) == len(variants) else None


def _load(file: Path) -> Any:
    """Import a file of the package before the package can be imported."""
    spec = importlib.util.spec_from_file_location("ttt_kernel_compiler", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
