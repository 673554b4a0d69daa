"""The runner on device memory says what the reference says, id for id.

Here the memory is the host's: the bindings, the addresses and every step between them are those
of a GPU, only the kernels are not.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.export.test_same_ids import CONFIGS, random_prompt
from ttt_export.export import export_checkpoint
from ttt_export.options import ExportOptions
from ttt_ref.config import GenerationConfig
from ttt_ref.errors import DeviceError
from ttt_runtime.backends.gpu import ort_graph
from ttt_runtime.backends.gpu.rows import DeviceRows
from ttt_runtime.backends.gpu.runner import DeviceRunner
from ttt_runtime.backends.load import cuda_runner, load_runner
from ttt_runtime.backends.ort.runner import OrtRunner
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.gqa_spec import ATTENTION, GQA_FORM
from ttt_runtime.decode.engine import SpeechEngine

TOLERANCE = 1e-4


class NanMemory(ort_graph.OrtMemory):
    """Fresh memory is NaN in every float type: a cell read before it was written is loud."""

    def allocate(self, size: int) -> ort_graph.OrtBlock:
        block = super().allocate(size)
        block.host[...] = 0xFF
        block.upload()
        block.host[...] = 0
        return block


@lru_cache(maxsize=8)
def nan_runner(path: Path) -> DeviceRunner:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ort_graph, "OrtMemory", NanMemory)
        # Rows are bound one by one: a bound row that nobody wrote would be NaN in every result.
        return cuda_runner(Bundle.open(path), "cpu", threads=1, capacity=512, bucket_rows=1)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory, golden_checkpoints: list[Path]) -> Bundle:
    """An fp16 bundle for onnxruntime-gpu."""
    path = tmp_path_factory.mktemp("half") / "half"
    export_checkpoint(golden_checkpoints[0], path, "fp16", "cuda")
    return Bundle.open(path)


def all_logits(runner: Any, ids: list[int], start: int = 0) -> np.ndarray:
    hidden = runner.forward(ids, start)
    text = runner.text_logits(hidden, forbid_end=False)
    return np.concatenate((text, runner.speech_logits(hidden)), axis=1)


def test_golden_logits(logits_case, standard):
    runner = nan_runner(standard(logits_case.checkpoint).path)
    ids = logits_case["input_ids"]
    length = ids.shape[1]
    if "attention_mask" in logits_case:
        length = int(logits_case["attention_mask"][0].sum())
    got = all_logits(runner, ids[0, :length].tolist())
    for mode in logits_case.args["mode"]:
        want = logits_case[f"logits_{mode}"][0, :length]
        np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE)


def test_golden_generation(generation_case, standard):
    bundle = standard(generation_case.checkpoint)
    engine = SpeechEngine(nan_runner(bundle.path), bundle.config.layout)
    prompt = generation_case["prompt_ids"].tolist()
    new_ids = engine.generate_ids(prompt, GenerationConfig.from_dict(generation_case.args))
    assert prompt + new_ids == generation_case["output_ids"].tolist()


@pytest.mark.parametrize("exactness", ["reference", "exact", "fast"])
def test_the_same_ids_as_on_the_cpu_in_half_precision(half: Bundle, exactness: Any) -> None:
    """Sampled text and noisy blocks too: the same draws must meet the same numbers."""
    layout = half.config.layout
    engines = [
        SpeechEngine(runner, layout, exactness=exactness)
        for runner in (
            cuda_runner(half, "cpu", threads=1, capacity=512),
            OrtRunner.from_bundle(half, threads=1, capacity=512, bucket_rows=256),
        )
    ]
    for number, config in enumerate(CONFIGS):
        config = GenerationConfig.from_dict(
            {**config.to_dict(), "top_k": 10 if number % 2 else 0, "diffusion_temperature": 0.3}
        )
        prompt = random_prompt(layout, np.random.default_rng([3, number]))
        device, host = (engine.generate_ids(prompt, config, seed=number) for engine in engines)
        assert device == host, f"{config}"


def test_only_ids_and_scores_cross_in_greedy_steps(standard, tied, monkeypatch) -> None:
    """Hidden rows are fetched by guidance and by nobody else."""
    bundle = standard(tied)
    runner = cuda_runner(bundle, "cpu", threads=1, capacity=256)
    fetched: list[int] = []
    monkeypatch.setattr(DeviceRows, "__array__", lambda rows, *_: fetched.append(len(rows)))
    engine = SpeechEngine(runner, bundle.config.layout)
    prompt = random_prompt(bundle.config.layout, np.random.default_rng(1))
    greedy = GenerationConfig(
        max_gen_len=30, diffusion_steps=12, diffusion_gen_length=24, block_length=4, cfg_scale=0.0
    )
    assert len(engine.generate_ids(prompt, greedy)) > 0
    assert fetched == []


def test_a_prefill_longer_than_the_first_room_for_hidden_rows(standard, tied, monkeypatch) -> None:
    """Bindings to the old place must go with it, or a head would read rows of long ago."""
    monkeypatch.setattr("ttt_runtime.backends.gpu.runner.FIRST_ROWS", 8)
    bundle = standard(tied)
    device = cuda_runner(bundle, "cpu", threads=1, capacity=256)
    host = OrtRunner.from_bundle(bundle, threads=1, capacity=256, bucket_rows=256)
    ids = [i % bundle.config.layout.audio_start for i in range(60)]
    for rows, start in ((ids[:6], 0), (ids, 0), (ids[:1], 60), (ids[:7], 61)):
        np.testing.assert_array_equal(
            all_logits(device, rows, start), all_logits(host, rows, start)
        )


def test_devices_that_are_not_there_are_refused(standard, tied, monkeypatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    bundle = standard(tied)
    with pytest.raises(DeviceError, match=r"device 'cuda.*' was asked for") as caught:
        load_runner(bundle, "cuda:1+graphs")
    assert "\n" not in str(caught.value)
    with pytest.raises(DeviceError, match="unknown device 'cuda:x'"):
        load_runner(bundle, "cuda:x")


def test_the_cpus_own_form_is_refused(standard, tied) -> None:
    """Its decoder keeps the cache in a way that only onnxruntime's CPU kernels know."""
    bundle = standard(tied)
    entry = bundle.config.graphs["decoder"]
    gqa = replace(entry, spec=replace(entry.spec, attributes={ATTENTION: GQA_FORM}))
    graphs = {**bundle.config.graphs, "decoder": gqa}
    own = Bundle(bundle.path, replace(bundle.config, engine="cpu", graphs=graphs))
    with pytest.raises(DeviceError, match=r"made for cpu, device 'cuda' .*-e cuda") as caught:
        cuda_runner(own, "cuda")
    assert "\n" not in str(caught.value)


def test_a_narrow_cache_lies_on_the_device_too(tied, tmp_path) -> None:
    options = ExportOptions(precision="fp32", engine="cuda", cache="int8", max_kl=1e9)
    bundle = Bundle.open(
        export_checkpoint(tied, tmp_path / "b", options=replace(options, min_agreement=0.0)).path
    )
    assert bundle.graph("decoder").spec.input("past_k.0").dtype == "int8"
    device = cuda_runner(bundle, "cpu", threads=1, capacity=64, bucket_rows=64)
    host = OrtRunner.from_bundle(bundle, threads=1, capacity=64)
    ids = list(range(1, 30))
    for rows, start in ((ids, 0), (ids[:1], 29), (ids[:5], 30)):
        np.testing.assert_array_equal(
            all_logits(device, rows, start), all_logits(host, rows, start)
        )
