"""Golden data of the GLM-4-Voice codec: found by what the folder holds, so any such folder works.

The folder is $TTT_GOLDEN_CODEC, by default the subset under tests/golden/glm4voice.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

GOLDEN = Path(
    os.environ.get("TTT_GOLDEN_CODEC") or Path(__file__).parents[2] / "golden" / "glm4voice"
)

# Test argument -> pattern of the case files that it runs over.
CASES = {
    "tokenizer_case": "tokenizer/case_*.safetensors",
    "flow_case": "decoder*/flow_*.safetensors",
    "hift_case": "decoder*/hift_*.safetensors",
    "offline_chain": "chain/offline*.safetensors",
    "stream_chain": "chain/stream_block*.safetensors",
    "prompt_mel_case": "prompt_mel/*.safetensors",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for argument, pattern in CASES.items():
        if argument in metafunc.fixturenames:
            paths = sorted(GOLDEN.glob(pattern))
            ids = [f"{path.parent.name}-{path.stem}" for path in paths]
            metafunc.parametrize(argument, paths, ids=ids)


@pytest.fixture(scope="session")
def golden_codec() -> Path:
    assert GOLDEN.is_dir(), f"{GOLDEN} is no folder; set TTT_GOLDEN_CODEC"
    return GOLDEN


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def tiny_codec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `tokenizer` and `decoder` of random weights in the released files' form."""
    from ttt_ref.codec.glm4voice.random_weights import write_codec

    folder = tmp_path_factory.mktemp("codec")
    write_codec(folder, "tiny")
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_codec: Path):
    from ttt_ref.codec.glm4voice.codec import Glm4VoiceTokenizer
    from ttt_ref.codec.glm4voice.weights import load_tokenizer

    return Glm4VoiceTokenizer(load_tokenizer(tiny_codec / "tokenizer"))


@pytest.fixture(scope="session")
def tiny_decoder(tiny_codec: Path):
    from ttt_ref.codec.glm4voice.codec import Glm4VoiceDecoder
    from ttt_ref.codec.glm4voice.flow import SolverOptions
    from ttt_ref.codec.glm4voice.weights import load_flow, load_hift

    folder = tiny_codec / "decoder"
    # Two steps: what is tested of streams does not depend on how well the flow is solved.
    return Glm4VoiceDecoder(load_flow(folder), load_hift(folder), SolverOptions(steps=2))
