"""Conversations that are longer than the cache."""

import pytest

from tests.runtime.toy import ToyModel, ToyRunner
from tests.runtime.toy_assistant import byte_layout, byte_tokenizer, toy_assistant
from ttt_ref.errors import ConfigError
from ttt_runtime.dialogue.assistant import Assistant, Reply
from ttt_runtime.dialogue.history import drop_oldest, room_for_history

HEADER = [900, 901]
SYSTEM = [1, 2, 3]


def exchange(number: int) -> list[int]:
    return [*HEADER, *[number] * 8]


def conversation(exchanges: int) -> list[int]:
    return SYSTEM + [i for n in range(exchanges) for i in exchange(n)]


def test_what_fits_is_left_alone() -> None:
    assert drop_oldest(conversation(4), HEADER, 43) == (conversation(4), 0)
    assert drop_oldest(SYSTEM, HEADER, 0) == (SYSTEM, 0)


def test_the_oldest_exchanges_go_and_the_system_turn_stays() -> None:
    """Three quarters of the room are filled, so that the next turns find their cache again."""
    kept, dropped = drop_oldest(conversation(4), HEADER, 42)
    assert dropped == 2
    assert kept == SYSTEM + exchange(2) + exchange(3)
    assert drop_oldest(conversation(4), HEADER, 5) == (SYSTEM, 4)


def test_a_quarter_of_the_cache_is_kept_for_the_answer() -> None:
    assert room_for_history(1000, 4000, 50) == 700
    assert room_for_history(1000, 100, 50) == 850
    assert room_for_history(100, 4000, 500) == 0


def talk(assistant: Assistant, turns: int) -> list[Reply]:
    replies: list[Reply] = []
    history: tuple[int, ...] = ()
    for number in range(turns):
        typed = byte_tokenizer().encode(f"question {number}").ids
        *_, reply = assistant.respond("answer", typed, history=history, seed=number)
        assert isinstance(reply, Reply)
        history = reply.history
        replies.append(reply)
    return replies


def small_assistant() -> Assistant:
    runner = ToyRunner(ToyModel(byte_layout(), 3, taste=8.0), capacity=400)
    return toy_assistant(runner=runner)


def test_a_conversation_longer_than_the_cache_goes_on() -> None:
    """It ended with an error, and there was no helper to go on with."""
    assistant = small_assistant()
    replies = talk(assistant, 12)
    told = [reply for reply in replies if "turns are forgotten" in " ".join(reply.notes)]
    assert told
    assert all(len(reply.history) <= 400 for reply in replies)
    assert len(told) < 8  # not at every turn


def test_the_policy_can_be_to_refuse() -> None:
    assistant = small_assistant()
    assistant.history_policy = "refuse"
    with pytest.raises(ConfigError, match="shorten the conversation"):
        talk(assistant, 30)
