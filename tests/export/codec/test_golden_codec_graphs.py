"""The exported GLM-4-Voice graphs, run without torch, against what the released code computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

from tests.export.codec.upstream_stream import UpstreamStream
from ttt_export.codec.glm4voice import decoder_params
from ttt_export.codec.glm4voice_flow import write_flow_encoder, write_flow_velocity
from ttt_export.codec.glm4voice_tokenizer import tokenizer_params, write_tokenizer
from ttt_export.codec.glm4voice_vocoder import write_vocoder, write_vocoder_f0
from ttt_export.codec.ops import Precision
from ttt_ref.codec.glm4voice.weights import load_flow, load_hift, load_tokenizer
from ttt_runtime.audio.reader import read_question
from ttt_runtime.backends.ort.session import GraphSession, SessionSettings
from ttt_runtime.codec.glm4voice import timing
from ttt_runtime.codec.glm4voice.decoder import Flow, Glm4VoiceDecoder
from ttt_runtime.codec.glm4voice.noise import Noise
from ttt_runtime.codec.glm4voice.tokenizer import Glm4VoiceTokenizer
from ttt_runtime.codec.glm4voice.vocoder import Vocoder

FLOAT32 = Precision()


def near(actual: NDArray[np.generic], expected: NDArray[np.generic], tolerance: float) -> None:
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance


@pytest.fixture(scope="module")
def decoders(tmp_path_factory: pytest.TempPathFactory):
    """Export each decoder folder once."""
    kept: dict[Path, Glm4VoiceDecoder] = {}

    def get(folder: Path) -> Glm4VoiceDecoder:
        if folder not in kept:
            out = tmp_path_factory.mktemp("graphs")
            flow, hift = load_flow(folder), load_hift(folder)
            writers = [
                (write_flow_encoder, flow),
                (write_flow_velocity, flow),
                (write_vocoder_f0, hift),
                (write_vocoder, hift),
            ]
            sessions = []
            for number, (write, module) in enumerate(writers):
                path = out / f"{number}.onnx"
                spec = write(path, module, FLOAT32)
                sessions.append(GraphSession(path, spec, SessionSettings("cpu", 1)))
            params = decoder_params(flow, hift)
            kept[folder] = Glm4VoiceDecoder(
                Flow(sessions[0], sessions[1], params), Vocoder(sessions[2], sessions[3], params)
            )
        return kept[folder]

    return get


def stored_noise(folder: Path) -> Noise:
    block = load_file(folder / "noise.safetensors")["harmonic_noise_block"]
    return lambda first, count: block[:, (first + np.arange(count)) % block.shape[1]]


def case_noise(path: Path) -> Noise:
    with safe_open(path, "np") as file:
        kind = (file.metadata() or {}).get("noise", "none")
    if kind == "block":
        return stored_noise(path.parent)
    return lambda first, count: np.zeros((9, count), np.float32)


def test_golden_codec_tokenizer_graph(tokenizer_case: Path, tmp_path: Path) -> None:
    encoder = load_tokenizer(tokenizer_case.parent)
    spec = write_tokenizer(tmp_path / "t.onnx", encoder, FLOAT32)
    session = GraphSession(tmp_path / "t.onnx", spec, SessionSettings("cpu", 1))
    tokenizer = Glm4VoiceTokenizer(session, tokenizer_params(encoder))
    name = tokenizer_case.stem.removeprefix("case_")
    want = load_file(tokenizer_case)
    heard = read_question(tokenizer_case.with_name(f"speech_{name}.wav"), tokenizer).audio
    if "resampled_16k" in want:
        near(heard, want["resampled_16k"], 1e-5)
    assert np.array_equal(tokenizer.encode(heard), want["token_ids_valid"])
    stream = tokenizer.stream()
    parts = [stream.push(heard[a : a + 3000]) for a in range(0, len(heard), 3000)]
    assert np.array_equal(np.concatenate([*parts, stream.finish()]), want["token_ids_valid"])


def test_golden_codec_flow_graphs(flow_case: Path, decoders) -> None:
    want = load_file(flow_case)
    flow, torch_flow = decoders(flow_case.parent).flow, load_flow(flow_case.parent)
    speaker = torch_flow.speaker(torch.from_numpy(want["embedding"])).numpy()
    prompt = want.get("prompt_token", np.zeros((1, 0), np.int32))
    tokens = np.concatenate((prompt, want["token"]), 1)[0].astype(np.int64)
    frames = timing.released_frames(len(tokens))
    mu = flow.means(tokens, timing.released_index(len(tokens), frames))
    near(mu, want["mu"], 1e-4)
    known = mu[:, :, :0]
    if "prompt_feat" in want:
        known = want["prompt_feat"].transpose(0, 2, 1)
    cond = np.zeros_like(mu)
    cond[:, :, : known.shape[2]] = known
    for key, guidance in (("est_cond_step0", 0.0), ("est_uncond_step0", -1.0)):
        if key in want:
            feeds = {"x": want["z"], "t": np.zeros(1, np.float32), "mu": mu, "cond": cond}
            feeds["guidance"] = np.array([guidance], np.float32)
            feeds["speaker"] = speaker if guidance == 0.0 else np.zeros_like(speaker)
            near(flow.velocity.run(feeds)[0], want[key], 1e-4)
    mel = flow.solve(mu, known, want["z"], speaker)
    near(mel[:, :, known.shape[2] :], want["mel"], 5e-4)


def test_golden_codec_vocoder_graphs(hift_case: Path, decoders) -> None:
    want = load_file(hift_case)
    vocoder = decoders(hift_case.parent).vocoder
    near(vocoder.pitch(want["mel"]), want["f0"][0], 5e-3)
    near(vocoder.generate(want["mel"], want["source"][0, 0]), want["wav"][0], 1e-4)
    state = vocoder.source.start(want["phases"].astype(np.float64))
    source, _ = vocoder.source.run(want["f0"][0], state, case_noise(hift_case))
    cache = want.get("cache_source", np.zeros((1, 1, 0), np.float32))[0, 0]
    source[: len(cache)] = cache
    # Ours sums the phase in float64; the stored one was rounded to float32 after each sum.
    near(source, want["source"][0, 0], 5e-5)
    near(vocoder.generate(want["mel"], source), want["wav"][0], 1e-3)


def test_golden_codec_offline_chain_graphs(offline_chain: Path, golden_codec, decoders) -> None:
    want = load_file(offline_chain)
    decoder = decoders(golden_codec / "decoder")
    tokens = want["token"][0].astype(np.int64)
    mu = decoder.flow.means(tokens, timing.released_index(len(tokens), want["z"].shape[2]))
    mel = decoder.flow.solve(mu, mu[:, :, :0], want["z"])
    near(mel, want["mel"], 1e-3)
    vocoder = decoder.vocoder
    state = vocoder.source.start(want["phases"][0].astype(np.float64))
    noise = stored_noise(golden_codec / "decoder")
    source, _ = vocoder.source.run(vocoder.pitch(mel), state, noise)
    audio = vocoder.generate(mel, source)
    near(audio, want["wav"][0], 3e-2)
    assert np.sqrt(np.mean(np.square(audio - want["wav"][0]))) <= 1e-3


def test_golden_codec_streamed_chain_graphs(stream_chain: Path, golden_codec, decoders) -> None:
    want = load_file(stream_chain)
    decoder = decoders(golden_codec / "decoder")
    stream = UpstreamStream(
        decoder.flow,
        decoder.vocoder,
        lambda chunk: want["phases"][chunk].astype(np.float64),
        stored_noise(golden_codec / "decoder"),
        lambda chunk, frames: want[f"z_{chunk}"],
    )
    ends = np.cumsum(want["chunk_tokens"])
    audio = []
    for number, tokens in enumerate(np.split(want["token"][0], ends[:-1])):
        mel, sound = stream.chunk(tokens, last=number == len(ends) - 1)
        near(mel, want[f"mel_{number}"], 1e-3)
        audio.append(sound)
    whole = np.concatenate(audio)
    near(whole, want["wav"][0], 3e-2)
    assert np.sqrt(np.mean(np.square(whole - want["wav"][0]))) <= 1e-3
