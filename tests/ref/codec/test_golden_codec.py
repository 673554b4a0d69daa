"""Parity of the reference codec with the released code, stage by stage, on stored cases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ttt_ref.codec.glm4voice import logmel, timing
from ttt_ref.codec.glm4voice.codec import Glm4VoiceTokenizer
from ttt_ref.codec.glm4voice.noise import Noise, no_noise
from ttt_ref.codec.glm4voice.resample import resample
from ttt_ref.codec.glm4voice.solver import schedule
from ttt_ref.codec.glm4voice.stream_upstream import (
    OVERLAP_FRAMES,
    UpstreamStream,
    released_flow_noise,
)
from ttt_ref.codec.glm4voice.weights import load_flow, load_hift, load_tokenizer


def near(actual: torch.Tensor, expected: torch.Tensor, tolerance: float, what: str) -> None:
    assert actual.shape == expected.shape, what
    worst = float((actual - expected).abs().max())
    assert worst <= tolerance, f"{what}: {worst:.2e} > {tolerance:.0e}"


def near_spectrum(
    got: torch.Tensor,
    want: torch.Tensor,
    amplitude: Callable[[torch.Tensor], torch.Tensor],
    what: str,
) -> None:
    """Compare log-mel cells: within 1e-5, or equal to the rounding of a float32 transform.

    Every CPU's library rounds the transform in its own way, by up to 2^-24 of the loudest
    amplitude. Near the floor the logarithm makes up to 1e-4 of that; the stored values differ by as
    much from the transform in float64.
    """
    inexact = (got - want).abs() > 1e-5
    linear = (amplitude(got) - amplitude(want)).abs()
    worst = float(linear[inexact].max()) if inexact.any() else 0.0
    allowed = float(amplitude(want).max()) * 2**-24
    assert worst <= allowed, f"{what}: amplitudes differ by {worst:.2e} > {allowed:.0e}"


def read_wav(path: Path) -> tuple[torch.Tensor, int]:
    """Return the first channel [T] and the rate."""
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(audio[:, 0].copy()), rate


def stored_noise(decoder: Path) -> Noise:
    block = load_file(decoder / "noise.safetensors")["harmonic_noise_block"]
    return lambda first, count: block[:, (first + torch.arange(count)) % block.shape[1]]


def case_noise(path: Path) -> Noise:
    with safe_open(path, "pt") as file:
        kind = (file.metadata() or {}).get("noise", "none")
    return stored_noise(path.parent) if kind == "block" else no_noise(9)


@pytest.fixture(scope="module")
def load():
    """Load each codec part once a folder."""
    kept: dict[tuple[object, Path], object] = {}

    def get(loader, folder: Path):
        if (loader, folder) not in kept:
            kept[loader, folder] = loader(folder)
        return kept[loader, folder]

    return get


def test_golden_codec_tokenizer_ids(tokenizer_case: Path, load) -> None:
    want = load_file(tokenizer_case)
    tokenizer = Glm4VoiceTokenizer(load(load_tokenizer, tokenizer_case.parent))
    name = tokenizer_case.stem.removeprefix("case_")
    audio, rate = read_wav(tokenizer_case.with_name(f"speech_{name}.wav"))
    audio = resample(audio, rate)
    if "resampled_16k" in want:
        near(audio, want["resampled_16k"], 1e-5, "resampled")
    assert torch.equal(tokenizer.encode(audio), want["token_ids_valid"])
    stream = tokenizer.stream()
    parts = [stream.push(part) for part in audio.split(7919)]
    assert torch.equal(torch.cat([*parts, stream.finish()]), want["token_ids_valid"])


def test_golden_codec_tokenizer_stages(tokenizer_case: Path, load) -> None:
    want = load_file(tokenizer_case)
    if "attention_mask" not in want:
        pytest.skip("this case stores ids only")
    encoder = load(load_tokenizer, tokenizer_case.parent)
    name = tokenizer_case.stem.removeprefix("case_")
    audio, _ = read_wav(tokenizer_case.with_name(f"speech_{name}.wav"))
    mask = want["attention_mask"].bool()
    width = mask.shape[1] * logmel.HOP
    rows = [
        torch.nn.functional.pad(part, (0, width - len(part)))
        for part in audio.split(logmel.HOP * 3000)
    ]
    features = torch.stack([logmel.whisper_log_mel(row) for row in rows])
    for key, part in {
        "input_features": features,
        "features_first112": features[:, :, :112],
        "features_last32": features[:, :, -32:],
        "features_mean": features.mean(2),
    }.items():
        if key == "features_mean" and key in want:
            near(part, want[key], 1e-5, key)
        elif key in want:
            near_spectrum(part, want[key], lambda cell: 10 ** (2 * cell - 2), key)
    got = encoder(features, mask)
    kept = mask[:, ::8]
    assert torch.equal(got.ids[kept], want["token_ids"][kept])
    near(got.pooled, want["hidden_prevq"], 1e-4, "hidden_prevq")
    near(got.margin[kept], want["vq_margin"][kept], 5e-3, "vq_margin")
    if "layer0_input" in want:
        near(got.hidden[0], want["layer0_input"], 1e-4, "layer0_input")
    for number, state in enumerate(got.hidden[1:]):
        if f"layer{number}_output" in want:
            near(state, want[f"layer{number}_output"], 1e-4, f"layer {number}")
    if "hidden_50hz" in want:
        near(got.hidden[-1], want["hidden_50hz"], 1e-4, "hidden_50hz")
    if "last_hidden_state" in want:
        near(encoder.code_states(got.ids), want["last_hidden_state"], 1e-5, "last_hidden_state")


def test_golden_codec_flow(flow_case: Path, load) -> None:
    want = load_file(flow_case)
    flow = load(load_flow, flow_case.parent)
    tokens, prompt = want["token"].long(), want.get("prompt_token")
    whole = tokens if prompt is None else torch.cat((prompt.long(), tokens), 1)
    count = whole.shape[1]
    near(flow.encode(whole), want["encoder_out"], 1e-4, "encoder_out")
    mu = flow.frame_means(whole, timing.released_index(count, timing.frames_of(count)))
    near(mu, want["mu"], 1e-4, "mu")
    speaker = flow.speaker(want["embedding"])
    near(speaker, want["spks"], 1e-5, "spks")
    near(schedule(10)[:-1], want["t_values"], 1e-6, "t_values")
    prompt_mel = want["prompt_feat"].transpose(1, 2) if "prompt_feat" in want else None
    cond = torch.zeros_like(mu)
    if prompt_mel is not None:
        cond[:, :, : prompt_mel.shape[2]] = prompt_mel
    none = torch.zeros_like(mu)
    z, t = want["z"], torch.zeros(1)
    first = flow.decoder.estimator(z, mu, t, speaker, cond)
    near(first, want["est_cond_step0"], 1e-4, "est_cond_step0")
    if "est_uncond_step0" in want:
        alone = flow.decoder.estimator(z, none, t, none[:, :, 0], none)
        near(alone, want["est_uncond_step0"], 1e-4, "est_uncond_step0")
        guided = flow.velocity(z, torch.tensor(0.0), mu, speaker, cond)
        near(z + schedule(10)[1] * guided, want["x_after_step0"], 1e-4, "x_after_step0")
    mel = flow(tokens, z, None if prompt is None else prompt.long(), prompt_mel, want["embedding"])
    near(mel, want["mel"], 5e-4, "mel")


def test_golden_codec_vocoder(hift_case: Path, load) -> None:
    want = load_file(hift_case)
    hift, noise = load(load_hift, hift_case.parent), case_noise(hift_case)
    near(hift.f0_predictor(want["mel"]), want["f0"], 5e-3, "f0")
    cache = want.get("cache_source")
    audio, source = hift(want["mel"], want["phases"], noise, cache, want["f0"])
    near(source, want["source"], 1e-5, "source")
    near(audio, want["wav"], 1e-4, "wav with the stored f0")
    audio, _ = hift(want["mel"], want["phases"], noise, cache)
    near(audio, want["wav"], 5e-3, "wav with own f0")
    if "conv_post_out" in want:
        spectrum = hift.spectrum(want["mel"], want["source"])
        near(spectrum, want["conv_post_out"], 1e-4, "conv_post_out")


def test_golden_codec_offline_chain(offline_chain: Path, golden_codec: Path, load) -> None:
    want = load_file(offline_chain)
    decoder = golden_codec / "decoder"
    flow, hift = load(load_flow, decoder), load(load_hift, decoder)
    near(released_flow_noise(0, want["z"].shape[2]), want["z"], 1e-6, "z")
    mel = flow(want["token"].long(), want["z"])
    near(mel, want["mel"], 1e-3, "mel")
    near(hift.f0_predictor(want["mel"]), want["f0"], 5e-3, "f0")
    audio, _ = hift(mel, want["phases"][0], stored_noise(decoder))
    near(audio, want["wav"], 3e-2, "wav")
    assert float((audio - want["wav"]).square().mean().sqrt()) <= 1e-3


def test_golden_codec_streamed_chain(stream_chain: Path, golden_codec: Path, load) -> None:
    want = load_file(stream_chain)
    decoder = golden_codec / "decoder"
    stream = UpstreamStream(
        load(load_flow, decoder),
        load(load_hift, decoder),
        lambda chunk: want["phases"][chunk],
        stored_noise(decoder),
        lambda chunk, frames: want[f"z_{chunk}"],
    )
    sizes = want["chunk_tokens"].tolist()
    audio = []
    for number, tokens in enumerate(want["token"].long().split(sizes, 1)):
        chunk = stream.chunk(tokens, last=number == len(sizes) - 1)
        near(chunk.mel, want[f"mel_{number}"], 1e-3, f"mel_{number}")
        assert len(chunk.audio) == want["chunk_samples"][number]
        audio.append(chunk.audio)
    whole = torch.cat(audio)[None]
    near(whole, want["wav"], 3e-2, "wav")
    assert float((whole - want["wav"]).square().mean().sqrt()) <= 1e-3


def test_golden_codec_prompt_mel(prompt_mel_case: Path) -> None:
    audio, _ = read_wav(next(prompt_mel_case.parent.glob("*.wav")))
    want = load_file(prompt_mel_case)["mel"]
    near_spectrum(logmel.prompt_log_mel(audio)[None], want, torch.exp, "mel")


def test_golden_codec_tables(golden_codec: Path) -> None:
    tables = json.loads((golden_codec / "tables.json").read_text())
    for samples, tokens in tables["n_samples_16k_to_n_tokens"]:
        segments = [480_000] * (samples // 480_000) + [samples % 480_000]
        assert sum(-(-part // 1280) for part in segments) == tokens
    frames = tables["n_tokens_to_mel_frames_1_to_64"]
    assert [timing.frames_of(n + 1) for n in range(64)] == frames
    assert [timing.frames_before(n + 1) for n in range(64)] == frames
    for tokens, count, frame, used, exact in tables["nearest_index_differs_from_integer_floor"][
        "rows"
    ]:
        assert timing.frames_of(tokens) == count
        assert int(timing.released_index(tokens, count)[frame]) == used
        assert frame * tokens // count == exact
    for tokens in (10, 26):
        index = timing.released_index(tokens, timing.frames_of(tokens))
        assert index.tolist() == tables[f"nearest_index_{tokens}_tokens"]
    near(schedule(10), torch.tensor(tables["t_span"]), 1e-6, "t_span")
    fades = np.array(tables["mel_fade_in"] + tables["mel_fade_out"])
    assert np.allclose(fades, np.hamming(2 * OVERLAP_FRAMES), atol=1e-12)
