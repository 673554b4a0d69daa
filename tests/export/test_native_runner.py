"""Whole bundles on the kernels: what they compute, when they are chosen, and when not."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.export.gqa.test_rewrite import OPEN_GATES, answers, with_block_decoder
from tests.export.test_same_ids import CONFIGS, random_prompt
from ttt_export.export import export_checkpoint
from ttt_export.options import ExportOptions
from ttt_ref.errors import BundleError, ConfigError, DeviceError, TttError
from ttt_runtime.backends.load import cpu_runner, load_runner
from ttt_runtime.backends.native import library
from ttt_runtime.backends.native.graph import NotNativeError
from ttt_runtime.backends.native.runner import NativeRunner
from ttt_runtime.backends.ort import session
from ttt_runtime.backends.ort.runner import OrtRunner
from ttt_runtime.bundle.embeddings import EmbeddingTable
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.gqa_spec import BLOCK_DECODER
from ttt_runtime.decode.engine import SpeechEngine

needs_kernels = pytest.mark.skipif(library.missing() is not None, reason=str(library.missing()))
SHIPPED = Path(__file__).resolve().parents[2] / "runtime" / "ttt_runtime" / "bundles" / "tiny"
COMPILED = [name for name in library.suited() if library.library_file(name).is_file()]
PRECISIONS = ("int8", "int4", "two bodies")


@pytest.fixture(scope="module")
def bundles(golden_checkpoints, tmp_path_factory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("native")
    made = {}
    for precision, body in (("int8", None), ("int4", "int8"), ("fp32", None)):
        options = ExportOptions(precision=precision, block_body=body, **OPEN_GATES)
        result = export_checkpoint(golden_checkpoints[0], folder / precision, options=options)
        made[precision] = Bundle.open(result.path)
    made["two bodies"] = made["int4"]
    made["int4"] = with_block_decoder(made["int4"], None)
    return made


def turns(layout, rng):
    """Yield forwards of a conversation: (ids, first cache row)."""
    text = rng.integers(0, 40, 70).tolist()
    heard = (layout.code_offset + rng.integers(0, layout.num_codes, 21)).tolist()
    masks = [layout.mask_id] * 26
    start = 0
    for ids in (text, heard, text[:1], text[3:9] + heard[:5] + text[:2] + heard[3:4], text[:1]):
        yield ids, start
        start += len(ids)
    yield masks, start
    yield heard[:9] + masks[9:], start  # the open block again, some of it revealed
    yield heard[:13] + text[:1], start  # and its commit, shorter


@needs_kernels
@pytest.mark.parametrize("variant", COMPILED)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_rows_are_those_of_the_graphs(bundles, precision, variant):
    """Sums are added in another order, so an input of a product may round the other way, which
    changes its row; all other rows are equal to float32 rounding."""
    bundle = bundles[precision]
    layout = bundle.config.layout
    ours = NativeRunner(bundle, threads=2, capacity=256, poison=True, variant=variant)
    theirs = OrtRunner.from_bundle(bundle, threads=1, capacity=256)
    close, worst, size = [], 0.0, 0.0
    for ids, start in turns(layout, np.random.default_rng(5)):
        got, want = (np.array(r.forward(ids, start)) for r in (ours, theirs))
        assert got.shape == want.shape
        gap = np.abs(got - want).max(axis=1)
        close += (gap < 2e-5 * np.abs(want).max()).tolist()
        worst, size = max(worst, float(gap.max())), max(size, float(np.abs(want).max()))
        for head in ("text_best", "speech_best"):
            more = {"forbid_end": False} if head == "text_best" else {}
            one, other = (getattr(r, head)(want.copy(), **more) for r in (ours, theirs))
            np.testing.assert_allclose(one.logits, other.logits, rtol=0, atol=1e-4 * size)
            np.testing.assert_allclose(one.sum_exp, other.sum_exp, rtol=1e-3)
            np.testing.assert_array_equal(one.ids, other.ids)
    assert np.mean(close) > 0.8
    assert worst < 0.05 * size


@needs_kernels
def test_the_shipped_model_differs_as_its_own_rounding_does():
    """Through many layers a product's input that rounds the other way goes far: as far as when
    the embedding rows are changed by 2 in 10,000,000."""
    bundle = Bundle.open(SHIPPED)
    layout = bundle.config.layout
    codes = [layout.code_to_id(i * 131 % layout.num_codes) for i in range(60)]
    ids = [layout.im_start_id, 5, 6, layout.begin_of_audio_id, *codes, layout.end_of_audio_id]
    rows = []
    for make in (NativeRunner, OrtRunner.from_bundle):
        for factor in (1.0, 1.0 + 2e-7):
            runner = make(bundle, threads=1, capacity=128)
            runner._embeds = np.zeros((len(ids), bundle.config.model.hidden_size), np.float32)
            runner._embeddings = Changed(bundle, factor)
            rows.append(np.array(runner.forward(ids, 0)))
    ours, ours_changed, theirs, theirs_changed = rows
    own = max(np.abs(a - b).mean() for a, b in ((ours, ours_changed), (theirs, theirs_changed)))
    assert 0 < np.abs(ours - theirs).mean() < 1.5 * own


class Changed(EmbeddingTable):
    """A table whose rows are multiplied by a factor."""

    def __init__(self, bundle: Bundle, factor: float) -> None:
        self._inner = EmbeddingTable.from_bundle(bundle)
        self._factor = np.float32(factor)

    def gather(self, ids, out):
        self._inner.gather(ids, out)
        out *= self._factor


@needs_kernels
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_number_of_threads_changes_nothing(bundles, precision, monkeypatch):
    monkeypatch.setattr(session, "allowed_cpus", lambda: 5)  # more than CPUs are not made otherwise
    bundle = bundles[precision]
    runners = [NativeRunner(bundle, threads=n, capacity=256) for n in (1, 2, 3, 5)]
    for ids, start in turns(bundle.config.layout, np.random.default_rng(6)):
        first, *others = (np.array(r.forward(ids, start)) for r in runners)
        for other in others:
            np.testing.assert_array_equal(other, first)


@needs_kernels
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_cached_and_recomputed_ids_are_equal(bundles, precision):
    """`exact` keeps the cache, `reference` recomputes all: the same ids."""
    bundle = bundles[precision]
    exact, whole = (
        SpeechEngine.from_bundle(bundle, "cpu+native", e, threads=2, capacity=512)
        for e in ("exact", "reference")
    )
    assert answers(exact, exact.layout, 30) == answers(whole, exact.layout, 30)


@needs_kernels
def test_the_scratch_cache_leaves_the_sequence_alone(bundles):
    bundle = bundles["int8"]
    runner = NativeRunner(bundle, threads=1, capacity=64)
    runner.forward([3, 1, 4, 1, 5], 0)
    want = np.array(runner.forward([9], 5))
    runner.forward([bundle.config.layout.mask_id] * 12, 0, scratch=True)
    np.testing.assert_array_equal(np.array(runner.forward([9], 5)), want)


@needs_kernels
def test_the_cpu_means_the_kernels_where_they_can(bundles):
    assert isinstance(load_runner(bundles["int8"], "cpu", threads=1), NativeRunner)
    assert isinstance(load_runner(bundles["int8"], "cpu+native", threads=1), NativeRunner)
    other = load_runner(bundles["int8"], "cpu+onnxruntime", threads=1)
    assert isinstance(other, OrtRunner)
    assert other.runs_in == "onnxruntime"
    runner = load_runner(bundles["fp32"], "cpu", threads=1)
    assert isinstance(runner, OrtRunner)
    with pytest.raises(DeviceError, match=r"cpu\+native.*onnxruntime"):
        load_runner(bundles["fp32"], "cpu+native", threads=1)


@needs_kernels
def test_capacity_is_checked(bundles):
    assert NativeRunner(bundles["int8"], threads=1, capacity=40).capacity == 40
    with pytest.raises(ConfigError, match="capacity"):
        NativeRunner(bundles["int8"], threads=1, capacity=10**6)


def test_without_kernels_onnxruntime_runs_and_says_why(bundles, monkeypatch, tmp_path):
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    monkeypatch.setattr(library, "cpu_flags", lambda: frozenset(sum(library.VARIANTS.values(), ())))
    runner = cpu_runner(bundles["int8"], threads=1)
    assert isinstance(runner, OrtRunner)
    assert "C compiler" in runner.runs_in
    with pytest.raises(DeviceError, match="C compiler"):
        cpu_runner(bundles["int8"], way="native", threads=1)
    monkeypatch.setattr(library, "cpu_flags", lambda: frozenset(["sse2"]))
    assert "this CPU has none of" in cpu_runner(bundles["int8"], threads=1).runs_in


@pytest.fixture
def changed(bundles, tmp_path):
    """Return a function that changes the decoder's graph (int8) and opens the bundle again."""
    source = bundles["int8"]

    def change(edit) -> Bundle:
        shutil.copytree(source.path, tmp_path, dirs_exist_ok=True)
        graph = tmp_path / "decoder.onnx"
        model = onnx.load(str(graph), load_external_data=False)
        edit(model.graph)
        graph.write_bytes(model.SerializeToString())
        return Bundle(tmp_path, source.config)

    return change


def attribute(node, name):
    return next(a for a in node.attribute if a.name == name)


def causal(graph):
    node = next(n for n in graph.node if n.op_type == "GroupQueryAttention")
    attribute(node, "causal").i = 1


def precise(graph):
    node = next(n for n in graph.node if n.op_type == "MatMulNBits")
    attribute(node, "accuracy_level").i = 1


def another_epsilon(graph):
    node = [n for n in graph.node if n.op_type == "RMSNormalization"][1]
    attribute(node, "epsilon").f *= 2


def rewired(graph):
    adds = [n for n in graph.node if n.op_type == "Add"]
    adds[1].input[0] = adds[0].input[0]


def one_more(graph):
    graph.node.append(onnx.helper.make_node("Identity", ["hidden"], ["more"]))


def computed_weight(graph):
    node = next(n for n in graph.node if n.op_type == "MatMulNBits")
    graph.node.insert(0, onnx.helper.make_node("Identity", [node.input[2]], ["doubled"]))
    node.input[2] = "doubled"


@needs_kernels
@pytest.mark.parametrize(
    "edit", [causal, precise, another_epsilon, rewired, one_more, computed_weight]
)
def test_a_graph_that_says_something_else_is_left_to_onnxruntime(changed, edit):
    bundle = changed(edit)
    with pytest.raises(NotNativeError):
        NativeRunner(bundle, threads=1)
    with pytest.raises(DeviceError, match="native"):
        cpu_runner(bundle, way="native", threads=1)


@needs_kernels
def test_any_change_of_a_node_is_told_in_one_line(changed, bundles):
    """Inputs, outputs and attributes that are gone or absurd, one node after the other."""
    bundle = changed(lambda graph: None)
    path, source = bundle.path / "decoder.onnx", bundles["int8"].path / "decoder.onnx"
    whole = onnx.load(str(source), load_external_data=False)
    draw = np.random.default_rng(0)
    refused = 0
    for number in range(24):  # the context's nodes and the first layer's
        for edit in range(4):
            model = onnx.ModelProto()
            model.CopyFrom(whole)
            node = model.graph.node[number]
            if edit == 0:
                del node.input[int(draw.integers(len(node.input)))]
            elif edit == 1:
                del node.output[int(draw.integers(len(node.output)))]
            elif edit == 2 and node.attribute:
                one = node.attribute[int(draw.integers(len(node.attribute)))]
                one.type, one.f = onnx.AttributeProto.FLOAT, float("nan")
            else:
                node.attribute.append(onnx.helper.make_attribute("softcap", 2.0))
            path.write_bytes(model.SerializeToString())
            with pytest.raises((NotNativeError, BundleError)) as error:
                NativeRunner(bundle, threads=1, capacity=16)
            refused += "\n" not in str(error.value)
    assert refused == 24 * 4


@needs_kernels
def test_tables_of_angles_must_be_of_one_length(changed):
    """The kernels read both by position: a shorter one would be read beyond its end."""

    def shorten(graph):
        table = next(i for i in graph.initializer if i.name == "rotary.sin")
        table.dims[0] = 5
        del table.external_data[2:]  # the length is then what the shape says

    with pytest.raises((NotNativeError, BundleError), match="rotary"):
        NativeRunner(changed(shorten), threads=1)


@needs_kernels
def test_damage_is_no_reason_to_go_on(changed, bundles):
    bundle = changed(lambda graph: None)
    data = bundle.path / "decoder.onnx.data"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(BundleError, match="export the bundle again"):
        cpu_runner(bundle, threads=1)


@needs_kernels
@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("sources_hash", lambda: "0123456789abcdef", "compiled from sources"),
        ("MIRRORED", library.MIRRORED[1:], "take a Stored of"),
        ("MIRRORED", library.MIRRORED[:-1], "more structures"),
    ],
)
def test_a_library_of_other_sources_is_refused(bundles, monkeypatch, name, value, says):
    """A library that outlived its sources read structures as they no longer were."""
    monkeypatch.setattr(library, name, value)
    library.load.cache_clear()
    try:
        told = cpu_runner(bundles["int8"], threads=1).runs_in
        assert says in told
        assert "backends.native.compiler" in told
        assert "\n" not in told
    finally:
        monkeypatch.undo()
        library.load.cache_clear()


@needs_kernels
def test_the_second_body_is_its_own(bundles):
    """Many rows run in int8, a single one in 4 bit, as in onnxruntime."""
    both = bundles["two bodies"]
    assert BLOCK_DECODER in both.config.graphs
    one = NativeRunner(bundles["int4"], threads=1, capacity=64)
    two = NativeRunner(both, threads=1, capacity=64)
    ids = [3, 1, 4, 1, 5]
    assert not np.array_equal(np.array(one.forward(ids, 0)), np.array(two.forward(ids, 0)))
    np.testing.assert_array_equal(np.array(one.forward([7], 0)), np.array(two.forward([7], 0)))


FORKS = """
import os, sys
from ttt_ref.errors import TttError
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.backends.native.runner import NativeRunner

runner = NativeRunner(Bundle.open(sys.argv[1]), threads=2, capacity=64)
runner.forward([3, 1], 0)
child = os.fork()
if child == 0:
    status = 1
    try:
        runner.forward([4], 2)
    except TttError as error:
        status = 0 if "forked" in str(error) else 2
    del runner  # must not wait for threads that this process has not
    os._exit(status)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert runner.forward([4], 2).shape[0] == 1
"""


@needs_kernels
def test_a_forked_process_is_told_to_load_its_own(bundles):
    """In a program of its own: pytest's threads and onnxruntime's do not survive a fork either."""
    command = [sys.executable, "-c", FORKS, str(bundles["int8"].path)]
    subprocess.run(command, check=True, timeout=60)


@needs_kernels
def test_threads_on_one_runner_never_end_the_process(bundles):
    """Forwards of other lengths on one runner ended in SIGSEGV or a double free within 0.3 s."""
    runner = NativeRunner(bundles["int8"], threads=2, capacity=256)
    want = [np.array(runner.forward(list(range(1, 3 + n)), 0)) for n in range(8)]

    def ask(caller: int) -> None:
        for turn in range(60):
            rows = 2 + (caller * 5 + turn) % 8
            assert runner.forward(list(range(1, 1 + rows)), 0).shape == want[rows - 2].shape

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    np.testing.assert_array_equal(np.array(runner.forward([1, 2, 3], 0)), want[1])


@needs_kernels
@pytest.mark.parametrize("device", ["cpu+native", "cpu+onnxruntime"])
def test_threads_on_one_engine_get_right_ids_or_one_line(bundles, device):
    """The same through the engine: onnxruntime gave other ids without an error."""
    engine = SpeechEngine.from_bundle(bundles["int8"], device, threads=2, capacity=256)
    draw = np.random.default_rng(3)
    prompts = [random_prompt(engine.layout, draw) for _ in range(4)]
    want = [engine.generate_ids(prompt, CONFIGS[0]) for prompt in prompts]

    def ask(caller: int) -> list[str]:
        lines = []
        for turn in range(12):
            number = (caller + turn) % 4
            try:
                if engine.generate_ids(prompts[number], CONFIGS[0]) != want[number]:
                    lines.append("other ids")
            except TttError as error:
                lines.append(str(error))
        return lines

    with ThreadPoolExecutor(8) as pool:
        lines = [line for found in pool.map(ask, range(8)) for line in found]
    assert all("in the middle of an answer" in line for line in lines)
    assert engine.generate_ids(prompts[0], CONFIGS[0]) == want[0]


@needs_kernels
def test_threads_that_share_an_engine_wait_for_each_other(bundles):
    kernels = NativeRunner(bundles["int8"], threads=2, capacity=64)
    hidden = np.array(kernels.forward(list(range(20)), 0))
    want = kernels.speech_best(hidden).ids

    def ask() -> bool:
        head = kernels._speech_head
        return all(np.array_equal(head.best(hidden).ids, want) for _ in range(200))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: ask(), range(4)))


@needs_kernels
def test_ids_and_positions_are_checked_before_anything_is_read(bundles):
    bundle = bundles["int8"]
    runner = NativeRunner(bundle, threads=1, capacity=32)
    for ids, positions in (([-1], None), ([bundle.config.model.vocab_size], None), ([3], [32])):
        with pytest.raises(TttError, match="does not exist"):
            runner.forward(ids, 0, positions=positions)


def test_the_config_alone_decides_nothing(bundles):
    """The form of the decoder is read from its spec, so a bundle cannot be half native."""
    spec = bundles["fp32"].graph("decoder").spec
    entry = replace(bundles["int8"].graph("decoder"), spec=spec)
    graphs = {**bundles["int8"].config.graphs, "decoder": entry}
    mixed = Bundle(Path(bundles["int8"].path), replace(bundles["int8"].config, graphs=graphs))
    with pytest.raises((BundleError, DeviceError)):
        cpu_runner(mixed, way="native", threads=1)


@needs_kernels
@pytest.mark.slow
def test_ten_thousand_turns_on_the_kernels_keep_memory_flat_and_ids_right(bundles):
    """Turns of all configurations, a third of them cancelled somewhere; a fresh engine checks."""
    bundle = bundles["int8"]
    engine, fresh = (
        SpeechEngine.from_bundle(bundle, "cpu+native", threads=2, capacity=512) for _ in range(2)
    )
    draw = np.random.default_rng(0)
    resident, cancelled = [], 0
    for turn in range(10_000):
        prompt = random_prompt(engine.layout, draw)
        config = CONFIGS[turn % len(CONFIGS)]
        stop, after = threading.Event(), int(draw.integers(1, 30))
        ids, forwards = [], []

        def count(*_, stop=stop, after=after, forwards=forwards):
            forwards.append(None)
            if len(forwards) == after:
                stop.set()

        for event in engine.generate(prompt, config, cancel=stop, observer=count):
            ids.extend(event.ids)
        cancelled += stop.is_set()
        if turn % 100 == 0:
            fresh.reset()
            whole = fresh.generate_ids(prompt, config)
            assert ids == whole[: len(ids)]
            assert stop.is_set() or ids == whole
        if turn % 500 == 0:
            gc.collect()
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]))
    assert 1000 < cancelled < 9900
    assert resident[-1] < 1.01 * resident[2], resident
