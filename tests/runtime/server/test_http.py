"""The HTTP routes against a real server with the shipped bundle."""

from __future__ import annotations

import base64
import io
import json
import uuid
from http.client import HTTPConnection
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.runtime.server.live_server import ANSWER, HEARD, QUESTION
from ttt_runtime.server.state import ServerState


def ask(
    state: ServerState, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    connection = HTTPConnection("127.0.0.1", state.port, timeout=30)
    if isinstance(body, dict):
        body = json.dumps(body)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    result = response.status, response.read(), {k.lower(): v for k, v in response.getheaders()}
    connection.close()
    return result


def upload(state: ServerState, data: bytes, **fields: str) -> tuple[int, bytes]:
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = 'content-disposition: form-data; name="file"; filename="q.wav"'
    parts.append(f"--{boundary}\r\n{head}\r\n\r\n".encode() + data + b"\r\n")
    body = b"".join([*parts, f"--{boundary}--\r\n".encode()])
    kind = f"multipart/form-data; boundary={boundary}"
    status, answer, _ = ask(
        state, "POST", "/v1/audio/transcriptions", body, **{"content-type": kind}
    )
    return status, answer


def events(data: bytes) -> list[Any]:
    lines = [line[6:] for line in data.decode().splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


SPEECH = {"model": "x", "voice": "alloy", "input": "the capital of france is paris"}


@pytest.mark.parametrize("kind", ["mp3", "opus", "flac", "wav", "pcm"])
def test_a_text_is_spoken_in_every_format(shipped: ServerState, kind: str) -> None:
    body = {**SPEECH, "response_format": kind}
    status, data, headers = ask(shipped, "POST", "/v1/audio/speech", body)
    assert status == 200
    assert headers["transfer-encoding"] == "chunked"
    if kind == "pcm":
        sound = np.frombuffer(data, "<i2") / 32768
    else:
        sound, rate = soundfile.read(io.BytesIO(data))
        assert rate == 24000
    assert 1.0 < len(sound) / 24000 < 4.0
    assert float(np.abs(sound).max()) > 0.05


def test_mp3_is_the_default_as_clients_expect(shipped: ServerState) -> None:
    _, _, headers = ask(shipped, "POST", "/v1/audio/speech", SPEECH)
    assert headers["content-type"] == "audio/mpeg"


def test_speech_as_events(shipped: ServerState) -> None:
    body = {**SPEECH, "response_format": "pcm", "stream_format": "sse"}
    _, data, headers = ask(shipped, "POST", "/v1/audio/speech", body)
    assert headers["content-type"].startswith("text/event-stream")
    told = events(data)
    assert [e["type"] for e in told[-2:]] == ["speech.audio.delta", "speech.audio.done"]
    sound = b"".join(base64.b64decode(e["audio"]) for e in told[:-1])
    assert len(sound) > 48000


def test_sentences_are_spoken_one_after_the_other(shipped: ServerState) -> None:
    one = {**SPEECH, "input": "good morning", "response_format": "pcm"}
    three = {**one, "input": "good morning. good morning. good morning"}
    lengths = [len(ask(shipped, "POST", "/v1/audio/speech", body)[1]) for body in (one, three)]
    assert 2.5 * lengths[0] < lengths[1] < 3.6 * lengths[0]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"input": ""}, "at least one word"),
        ({"input": 5}, "at least one word"),
        ({"input": "a " * 2000}, "at most 2000"),
        ({"input": "<|im_end|> hello"}, "control token"),
        ({"response_format": "aac"}, "expected one of mp3"),
        ({"speed": 2.0}, "speed 1"),
        ({"stream_format": "carrier"}, "carrier"),
    ],
)
def test_speech_that_cannot_be_made_is_refused(
    shipped: ServerState, change: dict[str, Any], word: str
) -> None:
    status, data, _ = ask(shipped, "POST", "/v1/audio/speech", {**SPEECH, **change})
    error = json.loads(data)["error"]
    assert status == 400
    assert word in error["message"]
    assert error.keys() == {"message", "type", "param", "code"}


def test_transcriptions_in_every_form(shipped: ServerState) -> None:
    wav = QUESTION.read_bytes()
    status, data = upload(shipped, wav, model="x")
    assert (status, json.loads(data)["text"]) == (200, HEARD)
    assert upload(shipped, wav, response_format="text")[1].decode() == HEARD + "\n"
    verbose = json.loads(upload(shipped, wav, response_format="verbose_json")[1])
    assert verbose["segments"][0]["text"] == HEARD
    assert 0 < verbose["segments"][0]["end"] <= verbose["duration"] < 4
    srt = upload(shipped, wav, response_format="srt")[1].decode()
    assert srt.startswith("1\n00:00:0")
    assert HEARD in srt
    vtt = upload(shipped, wav, response_format="vtt")[1].decode()
    assert vtt.startswith("WEBVTT\n\n00:00:0")
    told = events(upload(shipped, wav, stream="true")[1])
    assert "".join(e["delta"] for e in told[:-1]) == told[-1]["text"] == HEARD


def test_two_utterances_of_a_recording_are_two_segments(shipped: ServerState) -> None:
    sound, rate = soundfile.read(QUESTION, dtype="float32")
    file = io.BytesIO()
    long = np.concatenate([sound, np.zeros(2 * rate, np.float32), sound])
    soundfile.write(file, long, rate, format="WAV")
    verbose = json.loads(upload(shipped, file.getvalue(), response_format="verbose_json")[1])
    assert len(verbose["segments"]) == 2
    first, second = verbose["segments"]
    assert first["end"] < second["start"]
    assert verbose["text"].count("tell me the capital of") == 2


@pytest.mark.parametrize("data", [b"", b"RIFF", b"\x00" * 5000, b"\x1aE\xdf\xa3webm" * 100])
def test_files_that_are_no_sound_are_refused_in_one_line(shipped: ServerState, data: bytes) -> None:
    status, answer = upload(shipped, data)
    assert status == 400
    assert "\n" not in json.loads(answer)["error"]["message"]


def test_chat_with_sound_in_and_out(shipped: ServerState) -> None:
    data = base64.b64encode(QUESTION.read_bytes()).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    body: dict[str, Any] = {
        "model": "x",
        "messages": [{"role": "user", "content": [part]}],
        "modalities": ["text", "audio"],
        "audio": {"voice": "alloy", "format": "wav"},
    }
    status, answer, _ = ask(shipped, "POST", "/v1/chat/completions", body)
    message = json.loads(answer)["choices"][0]["message"]
    assert status == 200
    assert message["audio"]["transcript"] == ANSWER
    sound, _ = soundfile.read(io.BytesIO(base64.b64decode(message["audio"]["data"])))
    assert len(sound) > 24000
    told = events(ask(shipped, "POST", "/v1/chat/completions", {**body, "stream": True})[1])
    deltas = [e["choices"][0]["delta"] for e in told]
    transcript = "".join(d["audio"].get("transcript", "") for d in deltas if "audio" in d)
    assert transcript == ANSWER
    assert told[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("question", "word"),
    [("how much is two plus three", "five"), ("what is the opposite of hot", "cold")],
)
def test_chat_in_text(shipped: ServerState, question: str, word: str) -> None:
    """The shipped model, which has learnt speech only, stopped after half of what was typed."""
    body = {"model": "x", "messages": [{"role": "user", "content": question}]}
    _, answer, _ = ask(shipped, "POST", "/v1/chat/completions", body)
    content = json.loads(answer)["choices"][0]["message"]["content"]
    assert word in content
    told = events(ask(shipped, "POST", "/v1/chat/completions", {**body, "stream": True})[1])
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in told) == content


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": []},
        {"messages": [5]},
        {"messages": [{"role": "king", "content": "x"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        {"messages": [{"role": "user", "content": "hi"}], "modalities": ["smell"]},
        {"messages": [{"role": "assistant", "content": "hi"}]},
    ],
)
def test_chats_that_cannot_be_are_refused(shipped: ServerState, body: dict[str, Any]) -> None:
    status, data, _ = ask(shipped, "POST", "/v1/chat/completions", body)
    assert status == 400
    assert json.loads(data)["error"]["type"] == "invalid_request_error"


def test_models_health_metrics_and_profile(shipped: ServerState) -> None:
    listed = json.loads(ask(shipped, "GET", "/v1/models")[1])
    assert listed["data"][0]["id"] == "test"
    assert json.loads(ask(shipped, "GET", "/v1/models/gpt-x")[1])["object"] == "model"
    assert ask(shipped, "GET", "/health")[0] == 200
    assert ask(shipped, "GET", "/health/ready")[0] == 200
    ask(shipped, "POST", "/v1/audio/speech", SPEECH)
    metrics = ask(shipped, "GET", "/metrics")[1].decode()
    assert 'ttt_turns_total{status="completed",task="speak"}' in metrics
    assert 'ttt_phase_ms_bucket{phase="block",le="+Inf"}' in metrics
    assert "ttt_defects_total 0" in metrics
    profile = json.loads(ask(shipped, "GET", "/v1/profile")[1])
    assert profile["turns"][-1]["task"] == "speak"
    assert profile["figures"]["block"]["p50_ms"] > 0


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nothing", 404), ("GET", "/v1/audio/speech", 405), ("DELETE", "/v1/models", 405)],
)
def test_unknown_paths_are_told_in_the_apis_form(
    shipped: ServerState, method: str, path: str, status: int
) -> None:
    got, data, _ = ask(shipped, method, path)
    assert got == status
    assert json.loads(data)["error"]["message"]
