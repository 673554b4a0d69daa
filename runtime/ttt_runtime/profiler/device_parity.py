"""The same graphs on two devices: how far are the logits apart, and are the ids the same?

    python -m ttt_runtime.profiler.device_parity BUNDLE --device cuda

The other side is onnxruntime on the CPU, with the same bundle or (`--against`) another of the same
checkpoint. float32 must give equal ids. Half precision rounds differently on every device, and
where inputs of products are rounded to 8 bits one may go the other way, a step of 1/127. There the
logits must stay within a bound; ids are counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import typer
from numpy.typing import NDArray

from ttt_ref.command_line import run_app
from ttt_ref.config import GenerationConfig, TokenLayout
from ttt_runtime.backends.base import Runner
from ttt_runtime.backends.load import load_runner
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.graph_spec import DECODER
from ttt_runtime.decode.engine import SpeechEngine

# Largest difference of logits, relative to the largest logit where that is above 1.
BOUNDS: Final[Mapping[str, float]] = {
    "float32": 1e-3,
    "float16": 2e-2,
    "bfloat16": 1e-1,
    "int8": 1e-1,
}
PROMPTS: Final = 8
EXIT_DIFFERENT: Final = 1


@dataclass(frozen=True)
class Parity:
    """What was compared, and what came out.

    Attributes:
        compute: type that the graphs compute in (`compute_of`); picks the bound.
        bound: largest relative difference of logits that is allowed.
        worst: largest one seen.
        mean: mean relative difference.
        prompts: number of prompts generated from.
        same_ids: how many of them were answered by equal ids on both sides.
        positions: masked positions of an open block behind each prompt.
        same_codes: how many of them got the same speech token on both sides.
    """

    compute: str
    bound: float
    worst: float
    mean: float
    prompts: int
    same_ids: int
    positions: int
    same_codes: int

    @property
    def passed(self) -> bool:
        """True if the logits are within bounds and float32 gave equal ids."""
        equal = self.same_ids == self.prompts and self.same_codes == self.positions
        return (equal or self.compute != "float32") and self.worst <= self.bound

    def line(self) -> str:
        """Return the result for people."""
        verdict = "passed" if self.passed else "FAILED"
        return (
            f"{verdict}: logits differ by {self.worst:.2e} at most ({self.mean:.2e} on average), "
            f"{self.compute} allows {self.bound:.0e}; equal answers to {self.same_ids} of "
            f"{self.prompts} prompts, equal codes at {self.same_codes} of {self.positions} masks"
        )


def compare(
    ours: Runner,
    other: Runner,
    layout: TokenLayout,
    compute: str,
    *,
    prompts: int = PROMPTS,
    tokens: int = 48,
    seed: int = 0,
) -> Parity:
    """Compare two runners on random prompts.

    Args:
        ours: the runner under test.
        other: what it is held to.
        layout: which id means what.
        compute: type that the graphs under test compute in, see `compute_of`.
        prompts: how many prompts; the logits of each are compared and an answer is generated.
        tokens: length of the answers.
        seed: draws the prompts.
    """
    worst, total, same, positions, same_codes = 0.0, 0.0, 0, 0, 0
    engines = [SpeechEngine(runner, layout) for runner in (ours, other)]
    for number in range(prompts):
        draw = np.random.default_rng([seed, number])
        prompt = random_prompt(layout, draw)
        config = _config(number, tokens)
        masks = [layout.mask_id] * config.block_length
        opened = [*prompt, layout.begin_of_audio_id]
        codes: list[NDArray[np.intp]] = []
        for ids, start in ((prompt, 0), (opened + masks, len(opened))):
            for runner in (ours, other):  # the block on top of a cache that holds what is before it
                if start:
                    runner.forward(ids[:start], 0)
            got, want = (_logits(runner, ids[start:], start) for runner in (ours, other))
            difference = np.abs(got - want) / max(1.0, float(np.abs(want).max()))
            difference[np.isnan(difference)] = np.inf  # max() would pass over a NaN
            worst = max(worst, float(difference.max()))
            total += float(difference.mean()) / 2
            codes = [logits[:, layout.audio_start :].argmax(axis=1) for logits in (got, want)]
        positions += len(masks)
        same_codes += int((codes[0] == codes[1]).sum())
        for engine in engines:
            engine.reset()
        answers = [engine.generate_ids(prompt, config) for engine in engines]
        same += answers[0] == answers[1]
    bound = BOUNDS[compute]
    return Parity(compute, bound, worst, total / prompts, prompts, same, positions, same_codes)


def compute_of(bundle: Bundle) -> str:
    """Return the narrowest type that a bundle's products take their inputs in.

    On the CPU weights of 4 and 8 bits are multiplied with inputs rounded to 8 bits.
    """
    if bundle.config.engine == "cpu" and bundle.config.precision in ("int4", "int8"):
        return "int8"
    return bundle.graph(DECODER).spec.input("embeds").dtype


def random_prompt(layout: TokenLayout, draw: np.random.Generator) -> list[int]:
    """Return text and speech in the shape of a user's turn."""
    text = [int(i) for i in draw.integers(0, layout.audio_start, int(draw.integers(4, 12)))]
    codes = draw.integers(0, layout.num_codes, int(draw.integers(5, 40))) + layout.code_offset
    ids = [layout.im_start_id, *text, layout.begin_of_audio_id, *codes.tolist()]
    return [*ids, layout.end_of_audio_id, layout.im_end_id, layout.im_start_id]


def _config(number: int, tokens: int) -> GenerationConfig:
    """Greedy generation; the blocks of both presets, guidance every other time."""
    block, steps = ((26, 2), (32, 10))[number % 2]
    return GenerationConfig(
        max_gen_len=max(tokens, block),
        diffusion_steps=steps,
        diffusion_gen_length=block,
        block_length=block,
        cfg_scale=0.1 if number % 4 < 2 else 0.0,
    )


def _logits(runner: Runner, ids: list[int], start: int) -> NDArray[np.float64]:
    hidden = runner.forward(ids, start)
    text = np.array(runner.text_logits(hidden, forbid_end=False), dtype=np.float64)
    return np.concatenate((text, np.array(runner.speech_logits(hidden), dtype=np.float64)), axis=1)


def on_the_cpu(bundle: Bundle, threads: int | None = None) -> Runner:
    """Load the graphs of any bundle in onnxruntime on the CPU; those of engines are ONNX too."""
    config = replace(bundle.config, engine="cpu")
    return load_runner(Bundle(bundle.path, config), "cpu", threads=threads)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.command()
def command(
    bundle: Annotated[Path, typer.Argument(help="Bundle under test.")],
    device: Annotated[str, typer.Option(help="cuda, tensorrt or rtx (cuda:1+graphs).")] = "cuda",
    against: Annotated[
        Path | None,
        typer.Option(help="Another bundle of the same checkpoint for the CPU (bf16 needs one)."),
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts to answer.")] = PROMPTS,
    tokens: Annotated[int, typer.Option(min=1, help="Length of the answers.")] = 48,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Hold a bundle on a device to onnxruntime on the CPU. Exit code 1: they differ."""
    opened = Bundle.open(bundle, verify="sizes")
    ours = load_runner(opened, device, threads=threads)
    other = on_the_cpu(Bundle.open(against or bundle, verify="sizes"), threads)
    layout, compute = opened.config.layout, compute_of(opened)
    found = compare(ours, other, layout, compute, prompts=prompts, tokens=tokens)
    if as_json:
        print(json.dumps({"device": device, **asdict(found), "passed": found.passed}))
    else:
        print(found.line())
    if not found.passed:
        raise typer.Exit(EXIT_DIFFERENT)


if __name__ == "__main__":
    run_app(app)
