"""Fuzz the readers: `python -m tests.fuzz [TARGET ...] [--seconds N] [--keep FOLDER]`.

Each target runs in a process of its own under atheris (`pip install '.[fuzz]'`), from small seeds
and what earlier runs kept. Prints executions and findings; exit code 1 if there are findings, each
of which is left as a file to run again: `python -m tests.fuzz TARGET --again FILE`. The target
`kernels` mutates the shipped bundle and runs it on the compiled kernels; under a sanitizer with
TTT_KERNELS_FOLDER, as `make fuzz` does.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.targets import TARGETS, run_one, seeds

KERNELS = "kernels"
MOST_MB = 1500
SLOWEST_S = 20


def _serve(name: str, arguments: list[str]) -> None:
    """Run one target under atheris until its limits; called in the child."""
    import atheris

    with atheris.instrument_imports(include=["ttt_ref", "ttt_runtime", "ttt_export", "ttt_quant"]):
        for seed in seeds(name):
            run_one(name, seed)  # imports what is instrumented
    atheris.Setup([sys.argv[0], *arguments], lambda data: run_one(name, bytes(data)))
    atheris.Fuzz()


def _fuzz(name: str, seconds: int, keep: Path) -> tuple[int, list[Path]]:
    """Run a target; return executions and the inputs that are findings."""
    corpus, found = keep / name, keep / f"{name}-findings"
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(seed)
    command = [
        sys.executable, "-m", "tests.fuzz", name, "--serve", "--",
        f"-max_total_time={seconds}", f"-timeout={SLOWEST_S}", f"-rss_limit_mb={MOST_MB}",
        "-max_len=20000", "-print_final_stats=1", f"-artifact_prefix={found}/", str(corpus),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    match = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    if match is None and not any(found.iterdir()):
        print(done.stderr[-2000:], file=sys.stderr)
        raise SystemExit(f"{name}: atheris did not run; pip install '.[fuzz]'")
    if done.returncode:
        print(done.stderr[-3000:], file=sys.stderr)
    return int(match[1]) if match else 0, sorted(found.iterdir())


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join([*TARGETS, KERNELS]))
    parser.add_argument("--seconds", type=int, default=8, help="of each target")
    parser.add_argument("--keep", type=Path, help="folder of what is learnt and found")
    parser.add_argument("--again", type=Path, help="run one input once")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    ours, theirs = sys.argv[1:], []
    if "--" in ours:
        cut = ours.index("--")
        ours, theirs = ours[:cut], ours[cut + 1 :]
    asked = parser.parse_args(ours)
    names = asked.targets or list(TARGETS)
    if unknown := [name for name in names if name not in (*TARGETS, KERNELS)]:
        parser.error(f"no target {unknown[0]!r}; there are {', '.join([*TARGETS, KERNELS])}")
    if asked.serve:
        _serve(names[0], theirs)
        return
    if asked.again is not None:
        run_one(names[0], asked.again.read_bytes())
        return
    keep = asked.keep or Path(tempfile.mkdtemp(prefix="ttt-fuzz-"))
    bad = 0
    print(f"{'target':<12} {'executions':>11}  findings", flush=True)
    for name in names:
        if name == KERNELS:
            from tests.fuzz.kernels import fuzz_kernels

            runs, found = fuzz_kernels(asked.seconds, keep / f"{KERNELS}-findings")
        else:
            runs, found = _fuzz(name, asked.seconds, keep)
        bad += len(found)
        print(f"{name:<12} {runs:>11,}  {', '.join(map(str, found)) or 'none'}", flush=True)
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()
