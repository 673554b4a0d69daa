"""Turns that begin and end by themselves, with the shipped bundle and Silero's network."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.runtime.server.live_server import ANSWER, HEARD, RealtimeClient, question
from ttt_runtime.server.realtime.settings import Settings
from ttt_runtime.server.realtime.voice import turn_settings
from ttt_runtime.server.state import ServerState

SEMANTIC = {"type": "semantic_vad"}
SILENCE = bytes(48000)


def detecting(client: RealtimeClient, **detection: Any) -> None:
    client.update(audio={"input": {"turn_detection": {"type": "server_vad", **detection}}})


@pytest.mark.parametrize("detection", [{}, SEMANTIC])
def test_a_turn_is_heard_ended_and_answered(
    shipped: ServerState, detection: dict[str, Any]
) -> None:
    with RealtimeClient(shipped) as client:
        detecting(client, **detection)
        begin = len(client.events)
        client.append(bytes(9600) + question(tail_seconds=1.2))
        done = client.until("response.done")["response"]
        assert done["output"][0]["content"][0]["transcript"] == ANSWER
        types = client.types()[begin:]
        assert types[:3] == [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
        ]
        started, stopped, committed = client.events[begin : begin + 3]
        assert started["item_id"] == stopped["item_id"] == committed["item_id"]
        assert 0 <= started["audio_start_ms"] < stopped["audio_end_ms"] < 2500
        completed = next(e for e in client.events if e["type"].endswith("transcription.completed"))
        assert completed["transcript"] == HEARD
        assert "error" not in types


def test_speech_interrupts_the_answer_and_is_answered_itself(shipped: ServerState) -> None:
    with RealtimeClient(shipped) as client:
        detecting(client)
        client.append(question(tail_seconds=1.0))
        client.until("response.output_audio.delta")
        client.append(question(tail_seconds=1.0))
        done = client.until("response.done")["response"]
        assert done["status"] == "cancelled"
        assert done["status_details"]["reason"] == "turn_detected"
        assert done["output"][0]["status"] == "incomplete"
        done = client.until("response.done")["response"]
        assert done["status"] == "completed"
        # Begun at another sample the model hears "greece" at times.
        assert done["output"][0]["content"][0]["transcript"].startswith("the capital of")


def test_an_answer_goes_on_where_speech_may_not_interrupt(shipped: ServerState) -> None:
    with RealtimeClient(shipped) as client:
        detecting(client, interrupt_response=False)
        client.append(question(tail_seconds=1.0))
        client.until("response.output_audio.delta")
        client.append(question(tail_seconds=0.2))
        assert client.until("response.done")["response"]["status"] == "completed"


def test_a_pause_within_a_question_is_waited_for(shipped: ServerState) -> None:
    """An answer computed at the pause was released, and the second half answered as a question."""
    pcm = question()
    half = len(pcm) // 4 * 2
    with RealtimeClient(shipped) as client:
        detecting(client, silence_duration_ms=700)
        client.append(pcm[:half] + bytes(2 * 24000 * 4 // 10) + pcm[half:] + 2 * SILENCE)
        client.until("response.done")
        assert client.types().count("input_audio_buffer.speech_started") == 1
        assert client.types().count("response.created") == 1


def test_create_response_false_leaves_the_answer_to_the_client(shipped: ServerState) -> None:
    with RealtimeClient(shipped) as client:
        detecting(client, create_response=False)
        client.append(question(tail_seconds=1.0))
        completed = client.until("conversation.item.input_audio_transcription.completed")
        assert completed["transcript"] == HEARD
        assert "response.created" not in client.types()
        client.send("response.create")
        done = client.until("response.done")["response"]
        assert done["output"][0]["content"][0]["transcript"] == ANSWER


def test_a_session_that_only_transcribes_ends_turns_by_itself(shipped: ServerState) -> None:
    with RealtimeClient(shipped) as client:
        client.update(type="transcription")
        client.append(question(tail_seconds=1.0))
        completed = client.until("conversation.item.input_audio_transcription.completed")
        assert completed["transcript"] == HEARD
        assert "response.created" not in client.types()


def test_silence_and_noise_begin_no_turn(shipped: ServerState) -> None:
    with RealtimeClient(shipped) as client:
        detecting(client)
        client.append(4 * SILENCE)
        client.update()
        assert "input_audio_buffer.speech_started" not in client.types()


def test_a_commit_by_hand_ends_a_turn_that_is_spoken(shipped: ServerState) -> None:
    with RealtimeClient(shipped) as client:
        detecting(client)
        client.append(question())
        client.until("input_audio_buffer.speech_started")
        time.sleep(0.3)
        client.send("input_audio_buffer.commit")
        client.send("response.create")
        done = client.until("response.done")["response"]
        assert done["output"][0]["content"][0]["transcript"] == ANSWER


def test_turn_detection_can_be_switched_off_and_on_again(shipped: ServerState) -> None:
    with RealtimeClient(shipped) as client:
        client.manual()
        client.ask(question())
        client.until("response.done")
        detecting(client)
        client.append(question(tail_seconds=1.0))
        assert client.until("response.done")["response"]["status"] == "completed"


def test_the_apis_words_in_turn_takings_numbers() -> None:
    session = Settings.default("s", "m")
    assert session.turn_detection is not None
    numbers = turn_settings(session.turn_detection, answers=True, max_seconds=60)
    assert (numbers.fixed_s, numbers.quiet.probability, numbers.quiet.pre_roll_s) == (0.5, 0.5, 0.3)
    eager = session.updated(
        {"audio": {"input": {"turn_detection": {**SEMANTIC, "eagerness": "high"}}}}
    )
    assert eager.turn_detection is not None
    numbers = turn_settings(eager.turn_detection, answers=True, max_seconds=60)
    assert numbers.fixed_s is None
    assert numbers.complete_s < 0.35
    # Without answers nothing is written down while the user speaks: silence alone decides.
    assert turn_settings(eager.turn_detection, answers=False, max_seconds=60).fixed_s == 0.6


def test_nothing_of_a_turn_is_left_for_the_next(shipped: ServerState) -> None:
    """The resampler kept a turn's last samples, which became a token of the next turn."""

    def input_tokens(client: RealtimeClient) -> int:
        client.ask(question())
        return int(client.until("response.done")["response"]["usage"]["input_tokens"])

    with RealtimeClient(shipped) as client:
        client.manual()
        alone = input_tokens(client)
        assert input_tokens(client) == alone
        client.append(question()[:30_001])
        client.send("input_audio_buffer.clear")
        client.until("input_audio_buffer.cleared")
        assert input_tokens(client) == alone
        detecting(client)
        client.append(question(tail_seconds=1.0))
        client.until("response.done")
        client.manual()
        assert input_tokens(client) == alone
