"""The first hour on a board as one document: limits, parity and times of every way that runs.

``ttt-doctor --report FILE`` writes it. Each way in which a bundle may run is held to onnxruntime on
the CPU, logits and answers, and timed graph by graph; what does not load says why. The shipped one
is always among them, so that any two reports have rows in common.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from statistics import median
from time import perf_counter
from typing import Any, Final

import numpy as np

from ttt_ref.errors import TttError
from ttt_runtime.backends.base import Runner
from ttt_runtime.backends.load import load_runner
from ttt_runtime.backends.ort.session import SessionSettings
from ttt_runtime.backends.probe import check_engine
from ttt_runtime.backends.tensorrt.api import FLAVOURS
from ttt_runtime.bundle.folder import OPEN_CACHE, Bundle
from ttt_runtime.bundle.graph_spec import DECODER, SPEECH_HEAD, TEXT_HEAD
from ttt_runtime.codec.factory import load_codec
from ttt_runtime.profiler.device_parity import compare, compute_of
from ttt_runtime.profiler.device_times import document, measure
from ttt_runtime.profiler.limits import measure_limits

REFERENCE: Final = "cpu+onnxruntime"
PLAIN: Final = ("fp32", "fp16")  # precisions whose bundles for the CPU run in CUDA too
PROMPTS: Final = 10
REPEATS: Final = 20
QUESTION_SECONDS: Final = 3.0
BLOCK_CODES: Final = 26
CODEC_REPEATS: Final = 5

Say = Callable[[str], None]


def ways_of(bundle: Bundle) -> list[str]:
    """Return the devices that may run a bundle, in the order in which they are tried."""
    engine = bundle.config.engine
    ways = [] if engine == "cpu" else [engine, f"{engine}+graphs"]
    if engine in OPEN_CACHE:
        ways += ["cpu+native", REFERENCE]
    if engine == "cpu" and bundle.config.precision in PLAIN and check_engine("cuda").loads:
        ways += ["cuda", "cuda+graphs"]
    return ways


def board_report(
    bundles: Sequence[Bundle],
    say: Say = lambda line: None,
    *,
    prompts: int = PROMPTS,
    repeats: int = REPEATS,
) -> dict[str, Any]:
    """Measure this machine and run bundles in every way that they can be run here.

    A way that fails at one point is reported there (`error`) and the report goes on.

    Args:
        bundles: opened bundles; the limits are measured for the weights of the last.
        say: called with one line before each stage.
        prompts: answers that are compared.
        repeats: runs of each time.
    """
    say("limits of memory and products")
    limits = measure_limits(SessionSettings(), weight_bytes(bundles[-1]))
    rows = [row for bundle in bundles for row in bundle_rows(bundle, say, prompts, repeats)]
    return {"limits": asdict(limits), "ways": rows}


def bundle_rows(bundle: Bundle, say: Say, prompts: int, repeats: int) -> list[dict[str, Any]]:
    """Run one bundle in every way; returns one row for each, with `error` where it failed."""
    reference: Runner | None
    try:
        reference = on_the_cpu(bundle)
    except TttError as error:
        reference, why = None, str(error)
    rows = []
    for way in ways_of(bundle):
        row: dict[str, Any] = {"device": way, "bundle": bundle.config.name}
        with told_in(row):
            runner = load_runner(bundle, way)
            row["runs_in"] = runner.runs_in
            if reference is None:
                row["parity"] = {"error": why}
            elif way != REFERENCE:
                say(f"parity of {way}")
                layout, compute = bundle.config.layout, compute_of(bundle)
                parity = compare(runner, reference, layout, compute, prompts=prompts)
                row["parity"] = {**asdict(parity), "passed": parity.passed}
            say(f"times of {way}")
            times = measure(runner, bundle.config.layout, repeats=repeats)
            row.update(document(bundle, way, times))
            if bundle.config.codec is not None:
                say(f"codec of {way}")
                row["codec"] = codec_times(bundle, way)
        rows.append(row)
    return rows


def codec_times(bundle: Bundle, way: str) -> dict[str, float]:
    """Return milliseconds of encoding a question and of decoding a block, the median of a few."""
    tokenizer, decoder = load_codec(bundle, way)
    seconds = np.arange(int(QUESTION_SECONDS * tokenizer.sample_rate_hz)) / tokenizer.sample_rate_hz
    tone = (0.1 * np.sin(2 * np.pi * 220 * seconds)).astype(np.float32)
    codes = np.arange(BLOCK_CODES, dtype=np.int64) * 7 % tokenizer.num_codes
    found: dict[str, float] = {"question_s": QUESTION_SECONDS, "codes": BLOCK_CODES}
    for name, work in (
        ("encode_ms", lambda: tokenizer.encode(tone)),
        ("decode_ms", lambda: decoder.decode(codes)),
    ):
        work()
        times = []
        for _ in range(CODEC_REPEATS):
            begin = perf_counter()
            work()
            times.append((perf_counter() - begin) * 1e3)
        found[name] = round(median(times), 3)
    return found


@contextmanager
def told_in(row: dict[str, Any]) -> Iterator[None]:
    """Put an error of the block into a row of the report instead of stopping it."""
    try:
        yield
    except TttError as error:
        row["error"] = str(error)


def on_the_cpu(bundle: Bundle) -> Runner:
    """Load the graphs of any bundle in onnxruntime on the CPU; those of engines are ONNX too."""
    config = replace(bundle.config, engine="cpu")
    way = "cpu" if bundle.config.engine in FLAVOURS else REFERENCE
    return load_runner(Bundle(bundle.path, config), way)


def weight_bytes(bundle: Bundle) -> int:
    """Return the bytes of weights that a text step reads: decoder and heads."""
    names = {bundle.config.graphs[n].file for n in (DECODER, TEXT_HEAD, SPEECH_HEAD)}
    data = names | {f"{name}.data" for name in names}
    return sum(record.bytes for name, record in bundle.config.files.items() if name in data)
