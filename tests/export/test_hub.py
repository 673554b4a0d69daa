"""Checkpoints by hub name: revision, broken downloads, and life without the network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.export.fake_hub import FakeHub

ROOT = Path(__file__).parents[2]
# huggingface_hub reads its settings once, at import: every setting needs a process of its own.
FIND = """
import json, sys
from huggingface_hub import constants
constants.DOWNLOAD_CHUNK_SIZE = 4096  # what is kept of a broken download counts in whole chunks
from ttt_export.source import find_checkpoint
from ttt_ref.errors import CheckpointError
said = []
for arguments in json.loads(sys.argv[1]):
    try:
        said.append(str(find_checkpoint(**arguments)))
    except CheckpointError as error:
        said.append(f"error: {error}")
print(json.dumps(said))
"""


@pytest.fixture
def hub(tied: Path) -> Iterator[FakeHub]:
    made = FakeHub(tied, "some-org/some-model", "v1", break_off="model.safetensors")
    yield made
    made.close()


def find(cache: Path, endpoint: str, *calls: dict[str, object], **environment: str) -> list[str]:
    roots = [str(ROOT / name) for name in ("export", "quant", "runtime", ".")]
    done = subprocess.run(
        [sys.executable, "-c", FIND, json.dumps(calls)],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(roots),
            "HF_HOME": str(cache),
            "HF_ENDPOINT": endpoint,
            "HF_HUB_DISABLE_XET": "1",
            **environment,
        },
    )
    assert done.returncode == 0, done.stderr
    said: list[str] = json.loads(done.stdout.strip().splitlines()[-1])
    return said


def test_hub_names(hub: FakeHub, tied: Path, tmp_path: Path) -> None:
    wanted = {"model": hub.name, "revision": "v1"}
    first, wrong = find(
        tmp_path, hub.endpoint, wanted, {"model": hub.name, "revision": "no-such-branch"}
    )
    folder = Path(first)
    assert folder.name == hub.commit
    assert (folder / "model.safetensors").read_bytes() == (tied / "model.safetensors").read_bytes()
    assert (folder / "config.json").is_file()
    # The file that broke off was fetched from where it stopped, not anew.
    half = (tied / "model.safetensors").stat().st_size // 2
    (resumed,) = [int(asked.removeprefix("bytes=").split("-")[0]) for asked in hub.ranges]
    assert half - 4096 <= resumed <= half
    assert wrong.startswith(f"error: hub checkpoint {hub.name} cannot be had")
    assert "\n" not in wrong

    before = len(hub.requests)
    local, missing = find(
        tmp_path,
        hub.endpoint,
        {**wanted, "local_files_only": True},
        {"model": "some-org/other-model", "local_files_only": True},
    )
    assert local == first
    assert "offline: only downloaded files are used" in missing
    assert len(hub.requests) == before, "the network was asked although it must not be"

    offline = find(tmp_path, "http://127.0.0.1:9", wanted, HF_HUB_OFFLINE="1")
    assert offline == [first]
