"""The kinds of machine that bundles are exported for, as one table.

``ttt-export --target NAME`` takes engine, form and precision from here and refuses what a machine
cannot run; ``ttt-doctor`` names the row of the machine that it runs on (see `recognise`).
``python -m ttt_runtime.machine.targets`` prints the table for the documentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ttt_ref.errors import ConfigError

STANDARD: Final = "standard"
BASIC: Final = "basic"
# From the least lossy to the smallest: the nearest precision is the one fewest steps away.
_PRECISIONS: Final = ("fp32", "bf16", "fp16", "fp8", "int8", "int4")
_OPSETS: Final = {STANDARD: "24", BASIC: "20 (weights in blocks: 21)"}

_CPU: Final = ("int4", "int8", "fp16", "fp32")
_GPU: Final = ("fp16", "int4", "int8", "bf16", "fp32")
_ENGINE: Final = ("int4", "fp16", "int8", "bf16", "fp32")
_FP8: Final = (*_ENGINE, "fp8")
_X86_KERNELS: Final = ("avx512vnni", "avxvnni", "avx2")
_ARM_KERNELS: Final = ("neon_i8mm", "neon_dotprod", "neon")


@dataclass(frozen=True)
class Way:
    """One engine of a target: its precisions and forms, of each the recommended one first."""

    engine: str
    precisions: tuple[str, ...]
    forms: tuple[str, ...] = (STANDARD,)


@dataclass(frozen=True)
class Target:
    """A kind of machine.

    Attributes:
        name: as command lines take it.
        title: what it is.
        machine: processor architecture, as `platform.machine()` says it.
        python: versions of Python that the runtime is used with there.
        onnxruntime: versions that can be had there.
        ways: engines, the recommended one first.
        kernels: variants of our CPU kernels that the processors can run, fastest first.
        memory_gib: sizes that are sold.
        cuda, tensorrt, architecture: of the GPU; None without one.
        proof: what was run of it: `run`, `emulated`, `built` or `estimate`.
    """

    name: str
    title: str
    machine: str
    python: str
    onnxruntime: str
    ways: tuple[Way, ...]
    kernels: tuple[str, ...]
    memory_gib: tuple[int, ...]
    cuda: str | None = None
    tensorrt: str | None = None
    architecture: str | None = None
    proof: str = "estimate"

    def way(self, engine: str) -> Way | None:
        """Return how an engine is used here, None if it is not."""
        return next((way for way in self.ways if way.engine == engine), None)


TARGETS: Final[Mapping[str, Target]] = {
    target.name: target
    for target in (
        Target(
            "cpu",
            "PC or server, Linux on x86-64",
            "x86_64",
            "3.10 to 3.14",
            "1.31 (Python 3.10: 1.23)",
            (Way("cpu", _CPU, (STANDARD, BASIC)),),
            _X86_KERNELS,
            (4, 8, 16, 32, 64),
            proof="run",
        ),
        Target(
            "desktop-cuda",
            "PC with an NVIDIA GPU, onnxruntime",
            "x86_64",
            "3.11 to 3.14",
            "1.31 (gpu)",
            (Way("cuda", _GPU, (STANDARD, BASIC)), Way("cpu", _CPU, (STANDARD, BASIC))),
            _X86_KERNELS,
            (8, 12, 16, 24, 32),
            cuda="13",
            architecture="sm_75 and later",
            proof="built",
        ),
        Target(
            "desktop-rtx",
            "PC with an RTX GPU, TensorRT-RTX",
            "x86_64",
            "3.10 to 3.14",
            "1.31",
            (Way("rtx", _FP8, (STANDARD, BASIC)), Way("cpu", _CPU, (STANDARD, BASIC))),
            _X86_KERNELS,
            (8, 12, 16, 24, 32),
            cuda="13",
            tensorrt="RTX 1.6 and later",
            architecture="sm_86 and later (fp8: sm_89)",
            proof="built",
        ),
        Target(
            "jetson-orin-jp6",
            "Jetson Orin, JetPack 6.1 and 6.2",
            "aarch64",
            "3.10",
            "1.20 to 1.23",
            (Way("tensorrt", _ENGINE, (BASIC,)), Way("cpu", _CPU, (BASIC, STANDARD))),
            _ARM_KERNELS,
            (4, 8, 16, 32, 64),
            cuda="12.6",
            tensorrt="10.3",
            architecture="sm_87",
        ),
        Target(
            "jetson-orin-jp7",
            "Jetson Orin, JetPack 7.2",
            "aarch64",
            "3.12",
            "1.31",
            (Way("tensorrt", _ENGINE, (STANDARD, BASIC)), Way("cpu", _CPU, (STANDARD, BASIC))),
            _ARM_KERNELS,
            (4, 8, 16, 32, 64),
            cuda="13",
            tensorrt="10.16",
            architecture="sm_87",
        ),
        Target(
            "jetson-thor-jp71",
            "Jetson Thor, JetPack 7.0 and 7.1",
            "aarch64",
            "3.12",
            "1.31",
            (Way("tensorrt", _FP8, (BASIC,)), Way("cpu", _CPU, (STANDARD, BASIC))),
            _ARM_KERNELS,
            (64, 128),
            cuda="13",
            tensorrt="10.13",
            architecture="sm_110",
        ),
        Target(
            "jetson-thor",
            "Jetson Thor, JetPack 7.2",
            "aarch64",
            "3.12",
            "1.31",
            (Way("tensorrt", _FP8, (STANDARD, BASIC)), Way("cpu", _CPU, (STANDARD, BASIC))),
            _ARM_KERNELS,
            (64, 128),
            cuda="13",
            tensorrt="10.16",
            architecture="sm_110",
        ),
        Target(
            "raspberry-pi-5",
            "Raspberry Pi 5, 64-bit Raspberry Pi OS 12 or 13",
            "aarch64",
            "3.11, 3.13",
            "1.31",
            (Way("cpu", _CPU, (STANDARD, BASIC)),),
            ("neon_dotprod", "neon"),
            (4, 8, 16),
            proof="emulated",
        ),
        Target(
            "cpu-arm64",
            "other Arm boards and servers, 64-bit Linux",
            "aarch64",
            "3.10 to 3.14",
            "1.31 (Python 3.10: 1.23)",
            (Way("cpu", _CPU, (STANDARD, BASIC)),),
            _ARM_KERNELS,
            (4, 8, 16, 32, 64),
            proof="emulated",
        ),
    )
}


@dataclass(frozen=True)
class Choice:
    """What to export: a precision, an engine and a form."""

    precision: str
    engine: str
    form: str

    def options(self) -> str:
        """Return it as options of `ttt-export`."""
        return f"-p {self.precision} -e {self.engine} --form {self.form}"


def find_target(name: str) -> Target:
    """Return a target; ConfigError for a name that is not in the table."""
    try:
        return TARGETS[name]
    except KeyError:
        raise ConfigError(
            f"unknown target {name!r}; expected one of {', '.join(TARGETS)} (ttt-doctor names "
            "that of the machine it runs on)"
        ) from None


def choose(
    target: Target,
    precision: str | None = None,
    engine: str | None = None,
    form: str | None = None,
) -> Choice:
    """Fill in what was left open, by what the target recommends.

    Raises:
        ConfigError: the target cannot run what was asked for; the line names the nearest that it
            can.
    """
    nearest = _nearest(target, precision, engine, form)
    for seen, possible in (
        (engine, nearest.engine),
        (precision, nearest.precision),
        (form, nearest.form),
    ):
        if seen not in (None, possible):
            requested = " ".join(
                f"{option} {value}"
                for option, value in (("-p", precision), ("-e", engine), ("--form", form))
                if value is not None
            )
            raise ConfigError(
                f"target {target.name} ({target.title}) cannot run {requested}; the nearest that "
                f"it can is {nearest.options()}"
            )
    return nearest


def _nearest(target: Target, precision: str | None, engine: str | None, form: str | None) -> Choice:
    way = target.ways[0] if engine is None else target.way(engine)
    if way is None:  # an engine that is not there: the first that has the precision, then the form
        rated = [(precision in way.precisions, form in way.forms) for way in target.ways]
        way = target.ways[rated.index(max(rated))]
    chosen = way.precisions[0] if precision is None else precision
    if chosen not in way.precisions:
        if chosen not in _PRECISIONS:
            raise ConfigError(
                f"unknown precision {chosen!r}; expected one of {', '.join(_PRECISIONS)}"
            )
        place = _PRECISIONS.index(chosen)
        chosen = min(way.precisions, key=lambda name: abs(_PRECISIONS.index(name) - place))
    return Choice(chosen, way.engine, form if form in way.forms else way.forms[0])


def table() -> list[str]:
    """Return the table in Markdown, one line a target."""
    lines = [
        "| target | machine | Python | CUDA | TensorRT | onnxruntime | `-e`: `-p`, form | "
        "ONNX opset | GPU | CPU kernels | state |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for target in TARGETS.values():
        ways = "; ".join(
            f"{way.engine}: {', '.join(way.precisions)}, {' or '.join(way.forms)}"
            for way in target.ways
        )
        cells = (
            f"`{target.name}`",
            target.title,
            target.python,
            target.cuda or "-",
            target.tensorrt or "-",
            target.onnxruntime,
            ways,
            _OPSETS[target.ways[0].forms[0]],
            target.architecture or "-",
            ", ".join(target.kernels),
            target.proof,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
