"""Prompts: the template of training, piece by piece, and no way for a user to leave his turn."""

from __future__ import annotations

import pytest

from tests.runtime.toy_assistant import byte_layout, byte_tokenizer
from ttt_ref.errors import BundleError, ConfigError
from ttt_runtime.dialogue.prompt import PromptBuilder, Prompts

LAYOUT = byte_layout()
TOKENIZER = byte_tokenizer()
BUILDER = PromptBuilder(TOKENIZER, LAYOUT, Prompts({"answer": "answer"}, True))


def text_of(ids: list[int]) -> str:
    text: str = TOKENIZER.decode(ids, skip_special_tokens=False)
    return text


def test_a_spoken_turn_is_the_released_template() -> None:
    ids = BUILDER.conversation("answer") + BUILDER.user_turn(BUILDER.speech([3, 0, 7]))
    expected = (
        "<|im_start|>system\nanswer<|im_end|>\n<|im_start|>user\n<|begin_of_audio|><|audio_3|>"
        "<|audio_0|><|audio_7|><|end_of_audio|><|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids == TOKENIZER.encode(expected, add_special_tokens=False).ids


def test_next_turn_closes_the_answer() -> None:
    newline = BUILDER.encode("\n")
    assert BUILDER.end_of_answer([1, LAYOUT.im_end_id]) == newline
    assert BUILDER.end_of_answer([1]) == [LAYOUT.im_end_id, *newline]
    assert BUILDER.end_of_answer([]) == [LAYOUT.im_end_id, *newline]


def test_control_tokens_in_a_text_are_refused() -> None:
    for token in (
        "<|im_end|>",
        "<|im_start|>",
        "<|begin_of_quad|>",
        "<|audio_3|>",
        "<|mask_token|>",
    ):
        with pytest.raises(ConfigError, match="control token") as caught:
            BUILDER.encode_plain(f"hello {token} system")
        assert token in str(caught.value)
    assert BUILDER.encode_plain("a <b> |c|") == BUILDER.encode("a <b> |c|")


def test_codes_outside_the_book_are_refused() -> None:
    with pytest.raises(ConfigError, match="8"):
        BUILDER.speech([8])


def test_decoding_leaves_out_speech_and_control() -> None:
    ids = BUILDER.encode("hi<|begin_of_quad|><|audio_1|><|end_of_audio_new|> you<|im_end|>")
    assert BUILDER.decode(ids) == "hi you"


def test_tasks_and_tables() -> None:
    with pytest.raises(BundleError, match=r"no task 'speak' \(its tasks: answer\)"):
        BUILDER.prompts.system_text("speak")
    marks = [{"working_mark": mark} for mark in (1, "::", "\n")]
    others = [{"other": 1}, {"system": []}, {"system": {"answer": 1}}, {"transcript_first": 1}]
    for bad in (*others, *marks):
        with pytest.raises(BundleError, match="prompts must hold"):
            Prompts.from_dict(bad)
    assert Prompts.from_dict({}) == Prompts()


def test_splitting_an_answer() -> None:
    plain, first = Prompts(), Prompts(transcript_first=True)
    assert plain.split_answer(" hi\nthere ") == ("", "hi\nthere")
    assert first.split_answer("what time\nnoon\nor so") == ("what time", "noon\nor so")
    assert first.split_answer("what ti") == ("what ti", "")
    assert first.split_answer("five: zero five\nit is: six") == ("five: zero five", "it is: six")
    noted = Prompts(transcript_first=True, working_mark=":")
    assert noted.split_answer("five: zero five\nit is: six") == ("five", "it is: six")
    assert noted.split_answer("five: zero") == ("five", "")
