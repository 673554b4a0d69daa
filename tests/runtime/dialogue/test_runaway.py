"""Text that runs away, and the ends that an answer has beside its own."""

import threading

import pytest

from tests.runtime.toy_assistant import ScriptedRunner, byte_layout, byte_tokenizer, toy_assistant
from ttt_ref.config import GenerationConfig
from ttt_runtime.cli.assistant_run import SHIPPED
from ttt_runtime.decode.engine import SpeechEngine
from ttt_runtime.dialogue.assistant import Assistant, AudioPart, Reply
from ttt_runtime.dialogue.runaway import RunawayGuard, words_not_spoken

LAYOUT = byte_layout()
LONG = GenerationConfig(max_gen_len=600, diffusion_steps=2, diffusion_gen_length=8, block_length=4)


def ids(text: str) -> list[int]:
    return byte_tokenizer().encode(text, add_special_tokens=False).ids


def stopped_at(guard: RunawayGuard, text: str) -> int | None:
    return next((n for n, i in enumerate(ids(text), start=1) if guard.push(i)), None)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("music " * 100, 48),  # 8 times 6 ids
        ("a" * 100, 32),
        ("so " * 100, 32),
        ("the capital of france is paris. " * 5, None),
        ("tick tock " * 7, None),
        ("12345678901234567890123456789012345678901234567890", None),
        ("well then " + "b" * 100, 42),
    ],
)
def test_a_cycle_is_stopped_once_it_is_long(text: str, where: int | None) -> None:
    assert stopped_at(RunawayGuard("answer", ids("?"), LAYOUT), text) == where


def test_what_is_spoken_may_repeat_itself_as_asked() -> None:
    asked = ids("ha" * 40)
    assert stopped_at(RunawayGuard("speak", asked, LAYOUT), "ha" * 40) is None
    assert stopped_at(RunawayGuard("speak", asked, LAYOUT), "ha" * 60) == 81
    assert stopped_at(RunawayGuard("speak", asked, LAYOUT), "ho" * 40) == 32


def test_length_follows_the_task() -> None:
    words = "".join(chr(ord("a") + i * 7 % 26) + chr(ord("a") + i % 23) for i in range(400))
    assert stopped_at(RunawayGuard("speak", ids("one two"), LAYOUT), words) == 2 * 7 + 33
    speech = [LAYOUT.begin_of_audio_id, *[LAYOUT.code_to_id(1)] * 50, LAYOUT.end_of_audio_id]
    limit = stopped_at(RunawayGuard("transcribe", speech, LAYOUT), words)
    assert limit is not None and 80 < limit < 90  # noqa: PT018 (one number between two)
    assert stopped_at(RunawayGuard("answer", speech, LAYOUT), words) is None


def looping(**options: object) -> Assistant:
    runner = ScriptedRunner(ids("so ") * 200, [])
    return toy_assistant(runner=runner, config=LONG, **options)  # type: ignore[arg-type]


def last(parts: object) -> Reply:
    *_, reply = parts  # type: ignore[misc]
    assert isinstance(reply, Reply)
    return reply


def test_the_turn_ends_and_says_so() -> None:
    """646 text steps of one word, 41 s beside other work, and exit code 0 without a word."""
    assistant = looping()
    reply = last(assistant.respond("answer", ids("hello"), speak=False))
    assert reply.reason == "runaway"
    assert len(ids(reply.text)) <= 33
    assert reply.notes == ("the answer was stopped: its text repeated itself or had no end",)


def test_reference_and_measurements_are_not_stopped() -> None:
    assistant = looping()
    assistant.stops_runaway = False
    reply = last(assistant.respond("answer", ids("hello"), speak=False))
    assert reply.reason == "length"
    assert reply.notes == ("the answer was cut at 600 tokens (max_gen_len of the preset)",)
    assistant = looping()
    runner = assistant.engine.runner
    assistant.engine = SpeechEngine(runner, LAYOUT, exactness="reference")
    assert last(assistant.respond("answer", ids("hello"), speak=False)).reason == "length"


def test_a_full_cache_and_a_cancelled_answer_are_told() -> None:
    assistant = looping()
    assistant.stops_runaway = False
    assistant.engine.runner.capacity = 60  # type: ignore[misc]
    reply = last(assistant.respond("answer", ids("hello"), speak=False))
    assert reply.notes == ("the answer was cut: the cache of 60 tokens is full",)
    cancel = threading.Event()
    cancel.set()
    reply = last(assistant.respond("answer", ids("hello"), cancel=cancel))
    assert reply.notes == ("the answer was cancelled",)


@pytest.fixture(scope="module")
def shipped() -> Assistant:
    return Assistant.from_bundle(SHIPPED, threads=1)


def test_300_times_a(shipped: Assistant) -> None:
    """Gave 699 steps of "music music ..." without sound."""
    reply = last(shipped.speak(" ".join(["a"] * 300)))
    assert reply.reason == "runaway"
    assert len(reply.text) < 700
    assert any("stopped" in note for note in reply.notes)


def test_text_outside_the_world(shipped: Assistant) -> None:
    """Something else was spoken, with exit code 0 and without a word about it."""
    reply = last(shipped.speak("hello zebra, what is paris"))
    assert any("did not say the words" in note and "zebra" in note for note in reply.notes)
    parts = list(shipped.speak("the capital of france is paris"))
    assert last(parts).notes == ()
    assert any(isinstance(part, AudioPart) for part in parts)


def test_words_are_compared_without_case_and_marks() -> None:
    assert words_not_spoken("Hello, World! Hello?", "hello") == ["World!"]
    assert words_not_spoken("- a - b", "a b") == []
