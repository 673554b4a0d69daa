"""Compile the CPU kernels (`ttt_runtime.backends.native`) while the package is built or installed.

They are an extra, not a need: where there is no C compiler, or none for this kind of CPU, the build
says so and goes on, and onnxruntime runs the decoder (`ttt-doctor` tells which of the two does).
`TTT_KERNELS=require` makes a failure an error, for those who build wheels; `TTT_KERNELS=skip`
compiles nothing. `CC` names the compiler.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path("runtime/ttt_runtime/backends/native")
SOURCES = KERNELS / "src"
COMPILED = KERNELS / "compiled"
COMMON = ["-std=gnu11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread"]
# Variant (`ttt_runtime.backends.native.library.VARIANTS`) -> what the compiler is told of the CPU.
FLAGS = {
    "avx512vnni": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni", "-mfma"],
    "avxvnni": ["-mavx2", "-mfma", "-mavxvnni"],
    "avx2": ["-mavx2", "-mfma"],
}
MACHINES = ("x86_64", "amd64")


class KernelHook(BuildHookInterface[Any]):
    """Puts the kernels beside their Python modules, and names the wheel after the machine."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile all variants; see the module."""
        wish = os.environ.get("TTT_KERNELS", "auto")
        if wish not in ("auto", "require", "skip"):
            raise SystemExit(f"TTT_KERNELS is {wish!r}; expected auto, require or skip")
        problem = "TTT_KERNELS=skip" if wish == "skip" else self._compile_all()
        if problem is not None:
            self.clean([])  # what an earlier build left is of other sources
        if problem is None:
            build_data["artifacts"].append(f"{COMPILED}/*.so")
            build_data["pure_python"] = False
            tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"py3-none-{tag}"
        elif wish == "require":
            raise SystemExit(f"the CPU kernels cannot be compiled: {problem}")
        else:
            print(f"no CPU kernels, onnxruntime will run the decoder: {problem}", file=sys.stderr)

    def clean(self, versions: list[str]) -> None:
        """Remove what was compiled."""
        for file in (Path(self.root) / COMPILED).glob("*.so"):
            file.unlink()

    def _compile_all(self) -> str | None:
        """Return why there are no kernels; None if there are."""
        if platform.machine().lower() not in MACHINES or not sys.platform.startswith("linux"):
            return f"there are none for {platform.machine()} on {sys.platform}"
        compiler = _compiler()
        if compiler is None:
            return "no C compiler was found (cc, gcc, clang or what CC names)"
        with ThreadPoolExecutor() as pool:
            runs = [pool.submit(self._compile, compiler, *item) for item in FLAGS.items()]
        problems = [run.result() for run in runs]
        return None if None in problems else problems[0]

    def _compile(self, compiler: list[str], name: str, flags: list[str]) -> str | None:
        source = Path(self.root) / SOURCES / "decoder.c"
        target = Path(self.root) / COMPILED / f"decoder_{name}.so"
        target.parent.mkdir(exist_ok=True)
        part = target.with_suffix(".part")
        command = [*compiler, *COMMON, *flags, str(source), "-lm", "-o", str(part)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            return f"{shlex.join(compiler)} cannot be run: {error.strerror}"
        if done.returncode != 0:
            part.unlink(missing_ok=True)
            target.unlink(missing_ok=True)
            lines = done.stderr.strip().splitlines()
            return f"{shlex.join(compiler)} for {name}: {lines[0] if lines else 'failed'}"
        os.replace(part, target)  # a library that another process has loaded stays whole
        return None


def _compiler() -> list[str] | None:
    wish = os.environ.get("CC")
    if wish:
        return shlex.split(wish)
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
