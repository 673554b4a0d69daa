"""The GLM-4-Voice codec without torch: equals torch, streams at constant cost, never starves."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.runtime.codec.conftest import TinyGlm
from ttt_ref.codec.glm4voice import logmel as torch_logmel
from ttt_ref.codec.glm4voice import noise as torch_noise
from ttt_ref.codec.glm4voice import resample as torch_resample
from ttt_ref.codec.glm4voice import seams, solver
from ttt_ref.codec.glm4voice import timing as torch_timing
from ttt_runtime.codec.glm4voice import logmel, noise, resample, timing
from ttt_runtime.codec.glm4voice import solver as runtime_solver
from ttt_runtime.codec.glm4voice.decoder import Glm4VoiceDecoder
from ttt_runtime.codec.glm4voice.vocoder import VocoderStream
from ttt_runtime.profiler.glm4voice.playback_simulation import chunks, constant_rtf, simulate
from ttt_runtime.profiler.glm4voice.times import measure, solver_table, speechlike

TRACE = Path(__file__).parent / "token_trace.json"


def codes(count: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, 64, count)


def push_all(stream, values, size: int) -> list[NDArray]:
    parts = [stream.push(values[a : a + size]) for a in range(0, len(values), size)]
    return [*parts, stream.finish()]


def test_features_equal_the_reference() -> None:
    audio = speechlike(3.0)
    mine = logmel.log10_mel(audio[:47_840], 128)
    theirs = torch_logmel.log10_mel(torch.from_numpy(audio[:47_840]).double(), 128).numpy()
    assert np.abs(mine - theirs).max() < 1e-9
    single = torch_logmel.whisper_log_mel(torch.from_numpy(audio[:47_840])).numpy()
    assert np.abs(logmel.limit_range(mine, float(mine.max())) - single).max() < 1e-4


def test_noise_times_and_resampling_equal_the_reference() -> None:
    for first, count in ((0, 10), (1000, 50), (5000, 3000), (7, 0)):
        mine = noise.IndexedNoise(9, 42, 1)(first, count)
        assert np.array_equal(mine, torch_noise.indexed_noise(9, 42, 1)(first, count).numpy())
    kept = noise.IndexedNoise(3, 7, 0)
    assert np.array_equal(kept(900, 300), np.concatenate((kept(900, 100), kept(1000, 200)), 1))
    assert np.array_equal(noise.start_phases(8, 1), torch_noise.start_phases(8, 1).numpy())
    for tokens in (*range(1, 70), 250, 511, 1000):
        frames = timing.released_frames(tokens)
        assert frames == torch_timing.frames_of(tokens)
        index = timing.released_index(tokens, frames)
        assert np.array_equal(index, torch_timing.released_index(tokens, frames).numpy())
    exact = timing.exact_index(300, 900)
    assert np.array_equal(exact, torch_timing.exact_index(300, 900).numpy())
    assert np.allclose(runtime_solver.schedule(7), solver.schedule(7).numpy(), atol=2e-7)
    for rate in (8_000, 11_025, 24_000, 44_100, 48_000, 96_000):
        audio = speechlike(0.2)
        mine = resample.resample(audio, rate)
        theirs = torch_resample.resample(torch.from_numpy(audio), rate).numpy()
        assert mine.shape == theirs.shape
        assert np.abs(mine - theirs).max() < 1e-5


@pytest.mark.parametrize("name", solver.SOLVERS)
def test_solvers_equal_the_reference(name: str) -> None:
    start = np.random.default_rng(0).standard_normal((1, 4, 9)).astype(np.float32)
    mine = runtime_solver.solve(lambda x, t: np.sin(x) - t, start, 4, name)
    theirs = solver.solve(lambda x, t: torch.sin(x) - t, torch.from_numpy(start), 4, name)
    assert np.abs(mine - theirs.numpy()).max() < 1e-5


@pytest.mark.parametrize("order", [("euler", 1), ("midpoint", 2), ("heun", 2), ("ab2", 2)])
def test_solvers_reach_their_order(order: tuple[str, int]) -> None:
    """x' = -x + t from 1: halving the step divides the error by about 2 to the order."""
    name, power = order
    exact = 2 * np.exp(-1.0)

    def error(steps: int) -> float:
        x = np.ones((1, 1, 1), np.float32)
        return abs(float(runtime_solver.solve(lambda x, t: t - x, x, steps, name)[0, 0, 0]) - exact)

    assert error(16) < error(8) / 2 ** (power - 0.4)


@pytest.mark.parametrize("seconds", [0.02, 3.7, 9.0])
def test_tokens_equal_the_reference(tiny_glm: TinyGlm, seconds: float) -> None:
    audio = speechlike(seconds)
    want = tiny_glm.torch_tokenizer.encode(torch.from_numpy(audio)).numpy()
    assert np.array_equal(tiny_glm.tokenizer.encode(audio), want)
    for piece in (320, 50_000):
        got = np.concatenate(push_all(tiny_glm.tokenizer.stream(), audio, piece))
        assert np.array_equal(got, want)


def test_tokens_are_equal_over_segments_and_after_loud_moments(tiny_glm: TinyGlm) -> None:
    audio = np.concatenate((speechlike(18.0) * 1e-3, speechlike(14.5)))
    want = tiny_glm.torch_tokenizer.encode(torch.from_numpy(audio)).numpy()
    got = np.concatenate(push_all(tiny_glm.tokenizer.stream(), audio, 8_000))
    assert np.array_equal(got, want)
    assert np.array_equal(tiny_glm.tokenizer.encode(audio), want)


def test_the_rest_after_the_last_sample_is_one_block(tiny_glm: TinyGlm, monkeypatch) -> None:
    audio = speechlike(21.0)
    audio[:8_000] *= 10
    stream = tiny_glm.tokenizer.stream()
    for a in range(0, len(audio), 1_600):
        stream.push(audio[a : a + 1_600])
    calls = []
    session = stream.session
    real = session.run
    monkeypatch.setattr(session, "run", lambda *args: calls.append(1) or real(*args))
    assert len(stream.closed_ids) == 250
    stream.finish()
    assert len(calls) == 1


def test_audio_equals_the_reference(tiny_glm: TinyGlm) -> None:
    tokens = codes(40)
    want = tiny_glm.torch_decoder.decode_mel(torch.from_numpy(tokens)).numpy()
    assert np.abs(tiny_glm.decoder.decode_mel(tokens) - want).max() < 5e-4
    want = tiny_glm.torch_decoder.decode(torch.from_numpy(tokens)).numpy()
    got = tiny_glm.decoder.decode(tokens)
    assert got.dtype == np.float32
    assert np.abs(got - want).max() < 1e-3


def test_streamed_audio_equals_the_streamed_reference(tiny_glm: TinyGlm) -> None:
    tokens = codes(97)
    stream = tiny_glm.torch_decoder.stream()
    want = torch.cat([stream.push(torch.from_numpy(tokens)), stream.finish()]).numpy()
    for piece in (1, 30):
        got = np.concatenate(push_all(tiny_glm.decoder.stream(), tokens, piece))
        assert got.shape == want.shape
        assert np.abs(got - want).max() < 2e-3


@pytest.mark.parametrize("sizes", [(5, 20, 1, 33), (1,) * 25])
def test_streamed_vocoder_equals_whole(tiny_glm: TinyGlm, sizes: tuple[int, ...]) -> None:
    mel = np.random.default_rng(1).standard_normal((1, 80, 120)).astype(np.float32)
    whole = tiny_glm.decoder.vocoder_stream().push(mel, mel[:, :, :0])
    stream, out, at = tiny_glm.decoder.vocoder_stream(), [], 0
    for size in (*sizes, 120):
        out.append(stream.push(mel[:, :, at : at + size], mel[:, :, at + size :]))
        at += size
    assert np.abs(np.concatenate(out) - whole).max() < 1e-4


def test_the_phase_is_exact_after_minutes(tiny_glm: TinyGlm) -> None:
    """Five minutes of a steady tone, in chunks: where each harmonic stands is known exactly."""
    source = tiny_glm.decoder.vocoder.source
    harmonics = tiny_glm.decoder.params.harmonics + 1
    hz, chunk, chunks_done = np.float32(201.3), 861, 31
    state = source.start(np.zeros(harmonics))
    silence = np.zeros((harmonics, chunk * timing.HOP), np.float32)
    for _ in range(chunks_done):
        _, state = source.run(np.full(chunk, hz), state, lambda first, count: silence)
    samples = chunk * timing.HOP * chunks_done
    assert state.sample == samples > 300 * timing.RATE_HZ
    for number, cycles in enumerate(state.cycles, 1):
        step = Fraction(float(hz * np.float32(number) / np.float32(timing.RATE_HZ)))
        error = abs(float((step * samples) % 1) - cycles)
        assert min(error, 1 - error) < 1e-7, number


def test_long_replies_are_decoded_in_bounded_chunks(tiny_glm: TinyGlm) -> None:
    decoder = tiny_glm.decoder.with_options(whole_tokens=50)
    out = decoder.decode(codes(120))
    assert len(out) == timing.frames_before(120) * timing.HOP


@pytest.mark.parametrize("chunk", [10, 13, 26, 52])
def test_chunk_borders_are_like_any_other_place(tiny_glm: TinyGlm, chunk: int) -> None:
    tokens = codes(max(100, 4 * chunk))
    decoder = tiny_glm.decoder.with_options(plan_tokens=(chunk,))
    parts = push_all(decoder.stream(), tokens, chunk)
    borders = np.cumsum([len(p) for p in parts]).tolist()
    hold = decoder.params.hold_frames
    places = [(timing.frames_before(n + 1) - hold) * timing.HOP for n in range(len(tokens))]
    whole = torch.from_numpy(decoder.decode(tokens))
    figures = seams.measure(torch.from_numpy(np.concatenate(parts)), whole, borders, places)
    assert len(figures.border_click) >= 3
    for kind in ("click", "jump_db", "distance_db"):
        border, other = (getattr(figures, f"{where}_{kind}") for where in ("border", "other"))
        assert border.median() <= other.quantile(0.9), kind
        assert border.max() <= 1.25 * other.max(), kind


def arrays_of(thing: object) -> int:
    """Numbers kept in the arrays of an object and of the stream's own parts."""
    parts = vars(thing).values()
    own = sum(part.size for part in parts if isinstance(part, np.ndarray))
    return own + sum(arrays_of(part) for part in parts if isinstance(part, VocoderStream))


def test_a_chunk_of_a_minute_costs_no_more_than_an_early_one(tiny_glm: TinyGlm) -> None:
    """The work is counted: what each graph is given, and what the stream keeps."""
    decoder = tiny_glm.decoder.with_options(steps=1)
    given: list[tuple[str, tuple[int, ...]]] = []

    def watched(name: str, graph):
        class Watched:
            def run(self, feeds):
                given.extend((f"{name}.{key}", value.shape) for key, value in feeds.items())
                return graph.run(feeds)

        return Watched()

    flow, vocoder = decoder.flow, decoder.vocoder
    flow.encoder = watched("encoder", flow.encoder)
    flow.velocity = watched("velocity", flow.velocity)
    vocoder.f0 = watched("f0", vocoder.f0)
    vocoder.generator = watched("generator", vocoder.generator)
    stream, tokens, work, kept = decoder.stream(), codes(750), [], []
    for a in range(0, 750, 25):
        given.clear()
        stream.push(tokens[a : a + 25])
        work.append({name: int(np.prod(shape)) for name, shape in given})
        assert len(work[-1]) * (1 + (a == 0)) == len(given)  # 12 and 13 first, then one chunk each
        kept.append(arrays_of(stream))
    # A window begins with a whole encoder block, so every other chunk has a longer one; and 25
    # tokens are 172.3 frames, so some have one frame more.
    early = {name: max(work[1][name], work[2][name]) for name in work[2]}
    assert set(early) >= {"encoder.tokens", "velocity.x", "f0.mel", "generator.source"}
    one_frame = 173 / 172
    for later, numbers in zip(work[3:], kept[3:], strict=True):
        assert [name for name in early if later[name] > one_frame * early[name]] == []
        assert numbers <= one_frame * kept[2]


def arrivals() -> list[tuple[float, int]]:
    return [tuple(entry) for entry in json.loads(TRACE.read_text())["arrivals"]]


def test_the_simulator_counts_what_a_stream_gives(tiny_glm: TinyGlm) -> None:
    params = tiny_glm.decoder.params
    for count in (5, 13, 39, 50, 91):
        tokens = codes(count)
        stream = tiny_glm.decoder.with_options(steps=1).stream()
        lengths = [len(p) for p in push_all(stream, tokens, 1) if len(p)]
        given = [frames * timing.HOP for _, _, frames in chunks(params, count) if frames]
        assert lengths == given


def test_playback_never_starves_on_the_recorded_trace(tiny_glm: TinyGlm) -> None:
    stated = json.loads(TRACE.read_text())["real_time_factor"]
    play = simulate(arrivals(), tiny_glm.decoder.params, constant_rtf(stated))
    assert play.underruns == 0
    assert play.least_ahead_s > 0
    assert play.first_sound_s < 1.5
    tokens = sum(count for _, count in arrivals())
    assert play.audio_s == pytest.approx(timing.frames_before(tokens) * 256 / 22_050)


def test_the_simulator_hears_a_slow_decoder(tiny_glm: TinyGlm) -> None:
    params = tiny_glm.decoder.params
    slow = simulate(arrivals(), params, constant_rtf(2.0))
    assert slow.underruns > 0
    assert slow.silence_s > 1
    patient = simulate(arrivals(), params, constant_rtf(0.4), buffer_s=5.0)
    assert patient.underruns == 0


def test_measuring_works(tiny_glm: TinyGlm) -> None:
    figures = measure(tiny_glm.tokenizer, tiny_glm.decoder, 1, 1.0, 8.0)
    assert all(value > 0 for value in figures.values())
    assert {"rtf_tokenizer", "rtf_stream", "stream_last_over_third"} <= figures.keys()


def test_the_solver_table_is_sorted_and_ten_euler_steps_are_its_zero(tiny_glm: TinyGlm) -> None:
    rows = solver_table(tiny_glm.decoder, tokens=3)
    evaluations = [row["evaluations"] for row in rows]
    assert evaluations == sorted(evaluations)
    assert min(row["mel_rms_db"] for row in rows) > 0
    ten = tiny_glm.decoder.with_options(steps=10, solver="euler")
    assert isinstance(ten, Glm4VoiceDecoder)
    assert ten.params.steps == 10


def test_a_fork_of_the_tokenizer_is_finished_while_the_stream_goes_on(tiny_glm: TinyGlm) -> None:
    """The copy shares the cache, and a loud moment makes it encode closed blocks again."""
    audio = np.concatenate((speechlike(10.0) * 1e-3, speechlike(4.0), speechlike(18.5) * 1e-2))
    stream, got = tiny_glm.tokenizer.stream(), []
    for begin in range(0, len(audio), 8_000):
        got.append(stream.push(audio[begin : begin + 8_000]))
        stop = min(begin + 8_000, len(audio))
        if begin % 24_000 == 0 or stop in (168_000, 176_000):
            forked = np.concatenate([*got, stream.fork().finish()])
            assert np.array_equal(forked, tiny_glm.tokenizer.encode(audio[:stop])), stop
    got.append(stream.finish())
    assert np.array_equal(np.concatenate(got), tiny_glm.tokenizer.encode(audio))
