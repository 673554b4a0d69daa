"""Compile the kernels: what installing, the sanitizers and cross builds have in common.

    python -m ttt_runtime.backends.native.compiler [--strict] [--into FOLDER] [--sanitize KIND]

Only the standard library is used, and nothing of this package: `hatch_build.py` reads this file
before anything is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = HERE / "src"
# Not beside the modules: Python would take the libraries for extension modules.
COMPILED = HERE / "compiled"

COMMON = ("-std=gnu11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread")
WARNINGS = ("-Wall", "-Wextra")
# Machine -> variant (see `library.VARIANTS`) -> the compiler's flags for that CPU.
FLAGS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "avx512vnni": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni", "-mfma"),
        "avxvnni": ("-mavx2", "-mfma", "-mavxvnni"),
        "avx2": ("-mavx2", "-mfma"),
    },
    "aarch64": {
        "neon_i8mm": ("-march=armv8.2-a+dotprod+i8mm",),
        "neon_dotprod": ("-march=armv8.2-a+dotprod",),
        "neon": ("-march=armv8-a",),
    },
}
# What `make sanitize` and `make sanitize-thread` add. The frame pointer makes traces readable.
SANITIZERS = {
    "address": ("-g", "-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"),
    "thread": ("-g", "-O1", "-fno-omit-frame-pointer", "-fsanitize=thread"),
}


class CompileError(Exception):
    """The kernels could not be compiled; one line."""


def sources_hash(folder: Path = SOURCES) -> str:
    """Return what tells the C sources of one state from those of another."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.[ch]")):
        digest.update(f"{file.name}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def target_machine() -> str:
    """Return the machine that is compiled for; `_PYTHON_HOST_PLATFORM` names another one."""
    return sysconfig.get_platform().partition("-")[2].replace("amd64", "x86_64")


def find_compiler() -> list[str] | None:
    """Return the C compiler as a command: what CC names, or the first that there is."""
    wish = os.environ.get("CC")
    if wish:
        return shlex.split(wish)
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def why_not() -> str | None:
    """Tell why nothing can be compiled here; None if something can."""
    if target_machine() not in FLAGS or not sysconfig.get_platform().startswith("linux"):
        return f"there are none for {sysconfig.get_platform()}"
    if find_compiler() is None:
        return "no C compiler was found (cc, gcc, clang or what CC names)"
    return None


def compile_variant(variant: str, into: Path, more: Sequence[str] = ()) -> None:
    """Compile one variant; what lay there before stays whole for those who have it loaded.

    Raises:
        CompileError: with the compiler's first line.
    """
    compiler = find_compiler()
    assert compiler is not None
    target = into / f"decoder_{variant}.so"
    into.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(f".{os.getpid()}.part")
    known = f'-DTTT_SOURCES="{sources_hash()}"'
    flags = [*COMMON, *WARNINGS, *FLAGS[target_machine()][variant], known, *more]
    command = [*compiler, *flags, str(SOURCES / "decoder.c"), "-lm", "-o", str(part)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CompileError(f"{shlex.join(compiler)} cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        part.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        lines = done.stderr.strip().splitlines()
        raise CompileError(f"{shlex.join(compiler)} for {variant}: {lines[0] if lines else 'no'}")
    os.replace(part, target)


def compile_all(
    into: Path = COMPILED, more: Sequence[str] = (), only: Iterable[str] | None = None
) -> list[str]:
    """Compile all variants (or those named) side by side; return why some could not be."""
    reason = why_not()
    if reason is not None:
        return [reason]

    def one(variant: str) -> str | None:
        try:
            compile_variant(variant, into, more)
        except CompileError as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:
        return [problem for problem in pool.map(one, only or FLAGS[target_machine()]) if problem]


def main(arguments: Iterable[str] | None = None) -> int:
    """Compile from the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Compile the CPU kernels.")
    parser.add_argument("--into", type=Path, default=COMPILED, help="folder for the libraries")
    parser.add_argument("--strict", action="store_true", help="a warning is an error")
    parser.add_argument("--sanitize", choices=sorted(SANITIZERS), help="for tests")
    parser.add_argument("--only", nargs="*", help="these variants (default: all)")
    options = parser.parse_args(None if arguments is None else list(arguments))
    more = [*(["-Werror"] if options.strict else []), *SANITIZERS.get(options.sanitize, ())]
    problems = compile_all(options.into, more, options.only)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
