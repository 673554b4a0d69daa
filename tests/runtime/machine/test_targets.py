"""The table of targets: what is chosen, what is refused, and which row a machine is."""

from __future__ import annotations

from pathlib import Path

import pytest

from ttt_ref.errors import ConfigError
from ttt_runtime.machine.gpu import Gpu, GpuReport
from ttt_runtime.machine.recognise import recognise
from ttt_runtime.machine.targets import TARGETS, Choice, choose, find_target, table

NO_GPU = GpuReport(problem="none")
DOCS = Path(__file__).parents[3] / "docs" / "boards.md"


def test_a_target_alone_is_enough() -> None:
    assert choose(find_target("jetson-orin-jp6")) == Choice("int4", "tensorrt", "basic")
    assert choose(find_target("jetson-orin-jp7")) == Choice("int4", "tensorrt", "standard")
    assert choose(find_target("desktop-cuda")) == Choice("fp16", "cuda", "standard")
    assert choose(find_target("raspberry-pi-5"), "int8") == Choice("int8", "cpu", "standard")


@pytest.mark.parametrize(
    ("target", "asked", "nearest"),
    [
        ("jetson-orin-jp6", ("int4", "cuda", None), "-p int4 -e tensorrt --form basic"),
        ("jetson-orin-jp6", ("int4", "tensorrt", "standard"), "-p int4 -e tensorrt --form basic"),
        ("jetson-orin-jp7", ("fp8", "tensorrt", None), "-p fp16 -e tensorrt --form standard"),
        ("raspberry-pi-5", ("fp16", "rtx", None), "-p fp16 -e cpu --form standard"),
        ("cpu", ("bf16", None, None), "-p fp16 -e cpu --form standard"),
        ("desktop-cuda", ("fp8", "cuda", None), "-p fp16 -e cuda --form standard"),
    ],
)
def test_the_impossible_is_refused_with_the_nearest_possible(
    target: str, asked: tuple[str | None, str | None, str | None], nearest: str
) -> None:
    with pytest.raises(ConfigError, match=f"target {target} .* cannot run ") as caught:
        choose(find_target(target), *asked)
    assert str(caught.value).endswith(nearest)
    assert "\n" not in str(caught.value)


def test_unknown_names_are_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="unknown target 'jetson'; expected one of cpu, "):
        find_target("jetson")
    with pytest.raises(ConfigError, match="unknown precision 'int3'"):
        choose(find_target("cpu"), "int3")


def jetson(root: Path, board: str, release: str) -> Path:
    """A file system with what Jetson Linux writes of itself."""
    (root / "proc/device-tree").mkdir(parents=True)
    (root / "proc/device-tree/model").write_text(f"NVIDIA Jetson {board}\0")
    (root / "etc").mkdir()
    major, _, minor = release.partition(".")
    (root / "etc/nv_tegra_release").write_text(f"# R{major} (release), REVISION: {minor}, GCID: 1")
    return root


@pytest.mark.parametrize(
    ("board", "release", "tensorrt", "name"),
    [
        ("Orin Nano Developer Kit", "36.4.3", "10.3.0", "jetson-orin-jp6"),
        ("AGX Orin Developer Kit", "39.1.0", "10.16.0", "jetson-orin-jp7"),
        ("AGX Orin Developer Kit", "39.1.0", None, "jetson-orin-jp7"),
        ("AGX Thor Developer Kit", "38.2.0", "10.13.3", "jetson-thor-jp71"),
        ("AGX Thor Developer Kit", "39.1.0", "10.16.0", "jetson-thor"),
    ],
)
def test_a_jetson_is_known_by_board_release_and_tensorrt(
    tmp_path: Path, board: str, release: str, tensorrt: str | None, name: str
) -> None:
    root = jetson(tmp_path, board, release)
    found = recognise(NO_GPU, tensorrt=tensorrt, root=root, machine="aarch64")
    assert found is not None
    assert found.name == name


def test_other_machines_are_known_too(tmp_path: Path) -> None:
    gpu = GpuReport(gpus=(Gpu(0, "RTX 4070", (8, 9)),))
    names = [
        (NO_GPU, frozenset({"cpu"}), "x86_64", "cpu"),
        (gpu, frozenset({"cpu", "cuda", "rtx"}), "x86_64", "desktop-cuda"),
        (gpu, frozenset({"cpu", "rtx"}), "x86_64", "desktop-rtx"),
        (NO_GPU, frozenset({"cpu"}), "aarch64", "cpu-arm64"),
    ]
    for gpus, engines, machine, name in names:
        found = recognise(gpus, engines, root=tmp_path, machine=machine)
        assert found is not None
        assert found.name == name
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_text("Raspberry Pi 5 Model B Rev 1.0\0")
    assert recognise(NO_GPU, root=tmp_path, machine="aarch64") is TARGETS["raspberry-pi-5"]
    assert recognise(NO_GPU, root=tmp_path, machine="riscv64") is None


def test_the_documentation_shows_this_table() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert "\n".join(table()) in text, "run: python -m ttt_runtime.machine.targets"
