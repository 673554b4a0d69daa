"""The Realtime protocol against a real server with the shipped bundle."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from tests.runtime.server.live_server import ANSWER, HEARD, RealtimeClient, question, server
from tests.runtime.toy_assistant import toy_assistant
from ttt_runtime.server import g711
from ttt_runtime.server.state import ServerState

ORDER = [
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "conversation.item.input_audio_transcription.delta",
    "conversation.item.input_audio_transcription.completed",
    "response.output_audio_transcript.delta",
    "response.output_audio.delta",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "conversation.item.done",
    "response.output_item.done",
    "response.done",
]


def first_of_runs(types: list[str]) -> list[str]:
    """Deltas of text and sound alternate: the first of each kind stands for all of them."""
    seen: list[str] = []
    for kind in types:
        if not (kind.endswith(".delta") and kind in seen):
            seen.append(kind)
    return seen


def test_a_turn_of_push_to_talk_tells_its_events_in_order(shipped: ServerState) -> None:
    with RealtimeClient(shipped) as client:
        assert client.next()["type"] == "session.created"
        assert client.next()["type"] == "conversation.created"
        client.manual()
        begin = len(client.events)
        client.ask(question())
        done = client.until("response.done")
        assert first_of_runs(client.types()[begin:]) == ORDER
        assert done["response"]["status"] == "completed"
        item = done["response"]["output"][0]
        assert item["content"] == [{"type": "output_audio", "transcript": ANSWER}]
        completed = next(e for e in client.events if e["type"].endswith("transcription.completed"))
        assert completed["transcript"] == HEARD
        assert completed["usage"]["type"] == "duration"
        ids = [event["event_id"] for event in client.events]
        assert len(set(ids)) == len(ids)
        assert 1.5 < len(client.audio()) / 48000 < 4
        usage = done["response"]["usage"]
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0


def test_text_alone_when_only_text_is_asked_for(shipped: ServerState) -> None:
    with RealtimeClient(shipped) as client:
        client.manual(output_modalities=["text"])
        client.ask(question())
        done = client.until("response.done")
        assert done["response"]["output"][0]["content"] == [{"type": "output_text", "text": ANSWER}]
        assert "response.output_text.delta" in client.types()
        assert "response.output_audio.delta" not in client.types()


@pytest.mark.parametrize("law", ["pcmu", "pcma"])
def test_telephone_sound_in_both_directions(shipped: ServerState, law: g711.Law) -> None:
    pcm = np.frombuffer(question(8000), "<i2").astype(np.float32) / 32768
    form = {"type": f"audio/{law}"}
    with RealtimeClient(shipped) as client:
        session = client.update(
            audio={"input": {"format": form, "turn_detection": None}, "output": {"format": form}}
        )
        assert session["audio"]["output"]["format"] == form
        client.ask(g711.encode(pcm, law))
        done = client.until("response.done")
        assert done["response"]["output"][0]["content"][0]["transcript"]
        sound = g711.decode(client.audio(), law)
        assert 0.03 < float(np.abs(sound).max()) <= 1.0
        assert 1.0 < len(sound) / 8000 < 4


def test_a_second_response_and_a_cancel_without_one_are_told_by_their_codes(
    shipped: ServerState,
) -> None:
    with RealtimeClient(shipped) as client:
        client.manual()
        client.send("response.cancel", event_id="mine")
        error = client.until("error")["error"]
        assert error["code"] == "response_cancel_not_active"
        assert error["message"].startswith("Cancellation failed")
        assert error["event_id"] == "mine"
        client.ask(question())
        client.send("response.create")
        error = client.until("error")["error"]
        assert error["code"] == "conversation_already_has_active_response"
        assert client.until("response.done")["response"]["status"] == "completed"


def test_a_cancelled_answer_keeps_what_was_sent_and_the_next_turn_works(
    shipped: ServerState,
) -> None:
    with RealtimeClient(shipped) as client:
        client.manual()
        client.ask(question())
        client.until("response.output_audio.delta")
        client.send("response.cancel")
        done = client.until("response.done")
        assert done["response"]["status"] in ("cancelled", "completed")
        client.ask(question())
        done = client.until("response.done")
        assert done["response"]["status"] == "completed"
        assert done["response"]["output"][0]["content"][0]["transcript"] == ANSWER


def test_truncate_cuts_the_transcript_and_clamps(shipped: ServerState) -> None:
    """OpenAI refuses an end beyond the sound with an error, which ends pipecat's session."""
    with RealtimeClient(shipped) as client:
        client.manual()
        client.ask(question())
        item = client.until("response.done")["response"]["output"][0]

        def truncated(end_ms: int) -> tuple[int, str]:
            client.send(
                "conversation.item.truncate", item_id=item["id"], content_index=0,
                audio_end_ms=end_ms,
            )  # fmt: skip
            told = client.until("conversation.item.truncated")["audio_end_ms"]
            client.send("conversation.item.retrieve", item_id=item["id"])
            kept = client.until("conversation.item.retrieved")["item"]
            return told, kept["content"][0]["transcript"]

        told, text = truncated(999_999)
        assert (told < 4000, text) == (True, ANSWER)
        told, text = truncated(500)
        assert told == 500
        assert ANSWER.startswith(text)
        assert 0 < len(text) < len(ANSWER)
        assert truncated(0) == (0, "")
        assert not [e for e in client.events if e["type"] == "error"]


def test_truncate_really_cuts_the_cache_and_the_next_prompt() -> None:
    """Another server acknowledged truncate and cut nothing: the next answer knew it all."""
    with server(toy_assistant(37)) as state, RealtimeClient(state) as client:
        engine = state.service.assistant.engine
        client.manual()
        tone = (np.sin(np.arange(24000) / 5) * 20000).astype("<i2").tobytes()
        client.ask(tone)
        done = client.until("response.done")["response"]
        assert client.audio(), "the toy model must have spoken"
        before = engine.kept_ids
        client.send(
            "conversation.item.truncate",
            item_id=done["output"][0]["id"],
            content_index=0,
            audio_end_ms=40,
        )
        client.until("conversation.item.truncated")
        assert len(engine.kept_ids) < len(before)
        used = done["usage"]["input_tokens"] + done["usage"]["output_tokens"]
        client.ask(tone)
        again = client.until("response.done")["response"]
        # A cut history is shorter than the whole first turn and a second question.
        assert again["usage"]["input_tokens"] < used + done["usage"]["input_tokens"]
        assert not [e for e in client.events if e["type"] == "error"]


def test_items_can_be_added_read_and_deleted(shipped: ServerState) -> None:
    with RealtimeClient(shipped) as client:
        client.manual()
        audio = base64.b64encode(question()).decode()
        for number, content in enumerate(
            ([{"type": "input_text", "text": "how much is two plus three"}],
             [{"type": "input_audio", "audio": audio}])
        ):  # fmt: skip
            item = {"id": f"i{number}", "type": "message", "role": "user", "content": content}
            client.send("conversation.item.create", item=item)
            assert client.until("conversation.item.done")["item"]["id"] == f"i{number}"
        client.send("conversation.item.delete", item_id="i0")
        assert client.until("conversation.item.deleted")["item_id"] == "i0"
        client.send("response.create")
        done = client.until("response.done")["response"]
        assert done["output"][0]["content"][0]["transcript"] == ANSWER
        client.send("conversation.item.retrieve", item_id="i0")
        assert client.until("error")["error"]["code"] == "item_not_found"


def test_a_response_repeats_its_metadata_and_may_stay_outside_the_conversation(
    shipped: ServerState,
) -> None:
    with RealtimeClient(shipped) as client:
        client.manual()
        text = {"type": "input_text", "text": "how much is two plus three"}
        item = {"type": "message", "role": "user", "content": [text]}
        client.send(
            "response.create",
            response={
                "conversation": "none",
                "input": [item],
                "metadata": {"topic": "sum"},
                "output_modalities": ["text"],
            },
        )
        assert client.until("response.created")["response"]["metadata"] == {"topic": "sum"}
        done = client.until("response.done")["response"]
        assert "five" in done["output"][0]["content"][0]["text"]
        assert "conversation.item.added" not in client.types()


def test_nothing_to_answer_is_a_failed_response_and_no_error_event(shipped: ServerState) -> None:
    """An error event ends pipecat's session, and it asks for a response before anybody spoke."""
    with RealtimeClient(shipped) as client:
        client.manual()
        client.send("response.create")
        done = client.until("response.done")["response"]
        assert done["status"] == "failed"
        assert done["status_details"]["error"]["code"] == "nothing_to_answer"
        assert "error" not in client.types()


def test_silence_is_answered_and_not_written_down(shipped: ServerState) -> None:
    with RealtimeClient(shipped) as client:
        client.manual()
        client.ask(bytes(48000))
        done = client.until("response.done")["response"]
        assert done["output"][0]["content"][0]["transcript"] == "I heard nothing."
        completed = next(e for e in client.events if e["type"].endswith("transcription.completed"))
        assert completed["transcript"] == ""


def test_a_session_that_only_transcribes(shipped: ServerState) -> None:
    with RealtimeClient(shipped) as client:
        client.manual(type="transcription")
        client.append(question())
        client.send("input_audio_buffer.commit")
        completed = client.until("conversation.item.input_audio_transcription.completed")
        assert completed["transcript"] == HEARD
        assert "response.created" not in client.types()


def test_a_commit_without_a_response_is_transcribed_all_the_same(shipped: ServerState) -> None:
    with RealtimeClient(shipped) as client:
        client.manual()
        client.append(question())
        client.send("input_audio_buffer.commit")
        completed = client.until("conversation.item.input_audio_transcription.completed")
        assert completed["transcript"] == HEARD


def test_cleared_sound_is_not_heard(shipped: ServerState) -> None:
    with RealtimeClient(shipped) as client:
        client.manual()
        client.append(question())
        client.send("input_audio_buffer.clear")
        client.until("input_audio_buffer.cleared")
        client.send("input_audio_buffer.commit")
        assert client.until("error")["error"]["code"] == "input_audio_buffer_commit_empty"


def test_the_session_is_merged_and_unknown_keys_pass(shipped: ServerState) -> None:
    with RealtimeClient(shipped) as client:
        session = client.update(
            tracing="auto",
            extensions={"x": [1]},
            audio={"output": {"voice": "marin", "speed": 1.2}, "input": {"format": "g711_ulaw"}},
        )
        assert session["tracing"] == "auto"
        assert session["extensions"] == {"x": [1]}
        assert session["audio"]["output"]["voice"] == "marin"
        assert session["audio"]["output"]["format"] == {"type": "audio/pcm", "rate": 24000}
        detection = session["audio"]["input"]["turn_detection"]
        assert detection["interrupt_response"] is True
        assert detection["silence_duration_ms"] == 500
        session = client.update(
            audio={"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "high"}}}
        )
        assert "silence_duration_ms" not in session["audio"]["input"]["turn_detection"]


@pytest.mark.parametrize(
    ("session", "word"),
    [
        ({"audio": {"input": {"format": {"type": "audio/opus"}}}}, "audio/opus"),
        ({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 1}}}}, "rate"),
        ({"audio": 5}, "session.audio"),
        ({"output_modalities": ["smell"]}, "smell"),
        ({"audio": {"input": {"turn_detection": {"type": "psychic"}}}}, "psychic"),
        ({"audio": {"input": {"turn_detection": {"threshold": "x"}}}}, "threshold"),
        ({"type": "tea"}, "tea"),
        ({"x": "y" * 70_000}, "at most"),
    ],
)
def test_settings_that_cannot_be_change_nothing(
    shipped: ServerState, session: dict[str, object], word: str
) -> None:
    with RealtimeClient(shipped) as client:
        before = client.update()
        client.send("session.update", session=session)
        assert word in client.until("error")["error"]["message"]
        assert client.update() == before


def test_timing_is_told_to_those_who_ask(shipped: ServerState) -> None:
    with RealtimeClient(shipped) as client:
        client.manual(include=["ttt.timing"])
        client.ask(question())
        timing = client.until("ttt.timing")
        names = [phase["phase"] for phase in timing["phases"]]
        assert names[0] == "prefill"
        assert {"block", "decode"} <= set(names)
        assert timing["turn_end_to_first_audio_ms"] > 0


def test_errors_never_close_the_socket(shipped: ServerState) -> None:
    with RealtimeClient(shipped) as client:
        for text in (
            "",
            "no json",
            "[1]",
            '"x"',
            "{}",
            '{"type": 5}',
            '{"type": "tea"}',
            '{"type": "input_audio_buffer.append"}',
            '{"type": "input_audio_buffer.append", "audio": "%%%"}',
            '{"type": "conversation.item.create"}',
            '{"type": "conversation.item.create", "item": {"role": "user", "content": 7}}',
            '{"type": "conversation.item.truncate", "item_id": "x", "audio_end_ms": 1}',
            '{"type": "session.update", "session": 1e999}',
            "[" * 100_000,
            '{"type": ' + "9" * 5000 + "}",
        ):
            client.socket.send(text)
            error = client.until("error")["error"]
            assert error["type"] == "invalid_request_error", text[:60]
            assert "Traceback" not in json.dumps(error)
        client.socket.send(b"\x00\xff" * 10)
        client.until("error")
        client.manual()
        client.ask(question())
        assert client.until("response.done")["response"]["status"] == "completed"
