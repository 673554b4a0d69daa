"""A tiny GLM-4-Voice codec of random weights, in torch and as exported graphs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ttt_runtime.codec.glm4voice.decoder import Glm4VoiceDecoder
from ttt_runtime.codec.glm4voice.tokenizer import Glm4VoiceTokenizer


@dataclass(frozen=True)
class TinyGlm:
    """Released files, torch classes and the runtime's classes of one codec."""

    files: Path
    torch_tokenizer: object
    torch_decoder: object
    tokenizer: Glm4VoiceTokenizer
    decoder: Glm4VoiceDecoder


@pytest.fixture(scope="session")
def tiny_glm(tmp_path_factory: pytest.TempPathFactory) -> TinyGlm:
    from ttt_export.codec.glm4voice_benchmark import export_codec_only
    from ttt_ref.codec.glm4voice import codec, weights
    from ttt_ref.codec.glm4voice.flow import SolverOptions
    from ttt_ref.codec.glm4voice.random_weights import write_codec
    from ttt_runtime.backends.ort.session import SessionSettings
    from ttt_runtime.profiler.glm4voice.times import open_codec

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("glm4voice")
    write_codec(folder, "tiny")
    export_codec_only(folder / "tokenizer", folder / "decoder", "fp32", folder / "graphs")
    tokenizer, decoder = open_codec(folder / "graphs", SessionSettings("cpu", 1))
    flow, hift = weights.load_flow(folder / "decoder"), weights.load_hift(folder / "decoder")
    return TinyGlm(
        folder,
        codec.Glm4VoiceTokenizer(weights.load_tokenizer(folder / "tokenizer")),
        codec.Glm4VoiceDecoder(flow, hift, SolverOptions(steps=2)),
        tokenizer,
        decoder.with_options(steps=2),
    )
