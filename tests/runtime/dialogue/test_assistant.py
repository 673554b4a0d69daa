"""Sound to sound on toy parts: what is heard, written, spoken, and measured."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.bundles import write_toy
from tests.runtime.toy_assistant import (
    FRAME_SAMPLES,
    ScriptedRunner,
    ToneDecoder,
    byte_layout,
    byte_tokenizer,
    toy_assistant,
)
from ttt_ref.config import GenerationConfig
from ttt_ref.errors import BundleError, ConfigError
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.manifest import CodecEntry
from ttt_runtime.codec.factory import load_codec
from ttt_runtime.dialogue.assistant import (
    HEARD_NOTHING,
    Assistant,
    AudioPart,
    Part,
    Reply,
    TextPart,
    pick_preset,
)

LAYOUT = byte_layout()
TONE = (0.6 * np.sin(np.arange(16000) / 5)).astype(np.float32)
SILENCE = np.zeros(16000, np.float32)


def collect(parts: object) -> tuple[str, np.ndarray, Reply]:
    everything: list[Part] = list(parts)  # type: ignore[call-overload]
    reply = everything[-1]
    assert isinstance(reply, Reply)
    assert sum(isinstance(p, Reply) for p in everything) == 1
    text = "".join(p.text for p in everything if isinstance(p, TextPart))
    audio = [p.audio for p in everything if isinstance(p, AudioPart)]
    return text, np.concatenate([np.zeros(0, np.float32), *audio]), reply


def scripted(text: str, blocks: list[list[int]], **options: object) -> Assistant:
    """An assistant whose model writes `text` (with tags) and fills spans with `blocks`."""
    ids = byte_tokenizer().encode(text, add_special_tokens=False).ids
    return toy_assistant(runner=ScriptedRunner(ids, blocks), **options)  # type: ignore[arg-type]


NEW, LAST = LAYOUT.end_of_audio_new_id, LAYOUT.end_of_audio_span_last_id


def test_transcript_answer_and_speech_are_told_apart() -> None:
    config = GenerationConfig(
        max_gen_len=90, diffusion_steps=2, diffusion_gen_length=8, block_length=4
    )
    assistant = scripted(
        "what is it\nseven<|begin_of_audio|> men<|begin_of_quad|><|im_end|>",
        [[1, 2, 3, NEW], [NEW, NEW], [4, 5, 6, 7], [7, 7], [1, LAST, 2, 2], [2, 2]],
        transcript_first=True,
        config=GenerationConfig.from_dict({**config.to_dict(), "diffusion_steps": 4}),
    )
    text, audio, reply = collect(assistant.answer(TONE))
    assert text == "what is it\nseven men"
    assert (reply.heard, reply.text, reply.reason) == ("what is it", "seven men", "end")
    assert len(audio) % FRAME_SAMPLES == 0
    assert reply.audio_seconds == pytest.approx(len(audio) / 16000)
    # The sound is that of all codes of the answer, one span after the other.
    codes = [LAYOUT.id_to_code(i) for i in reply.history if LAYOUT.is_code(i)][25:]
    np.testing.assert_allclose(audio, ToneDecoder().decode(np.array(codes)), atol=1e-6)
    assert len(codes) >= 5


def test_the_models_own_note_is_neither_shown_nor_heard_nor_said() -> None:
    said = "one and one: two 1 2\ntwo: it<|im_end|>"
    assistant = scripted(said, [], transcript_first=True, working_mark=":")
    text, _, reply = collect(assistant.answer(TONE))
    assert text == "one and one\ntwo: it"
    assert (reply.heard, reply.text) == ("one and one", "two: it")
    # It stays in the conversation, and other tasks know no note.
    whole = byte_tokenizer().encode(said, add_special_tokens=False).ids
    assert list(reply.history[reply.prompt_tokens :][: len(whole)]) == whole
    text, _, reply = collect(scripted("a: b<|im_end|>", [], working_mark=":").transcribe(TONE))
    assert (text, reply.heard) == ("a: b", "a: b")


def test_random_model_end_to_end() -> None:
    spoke = 0
    for seed in range(24):
        text, audio, reply = collect(toy_assistant(seed).answer(TONE))
        assert reply.text == text.strip()
        assert reply.audio_seconds == pytest.approx(len(audio) / 16000)
        assert reply.history[-1:] == tuple(byte_tokenizer().encode("\n").ids)
        figures = reply.timeline.figures(reply.audio_seconds)
        assert figures["encode_count"] == 1
        assert figures["prefill_count"] == 1
        assert figures["total_ms"] > 0  # type: ignore[operator]
        if len(audio):
            spoke += 1
            assert 0 < figures["ttfa_ms"] <= figures["total_ms"]  # type: ignore[operator]
            assert figures["rtf"] == pytest.approx(
                figures["total_ms"] / 1000 / reply.audio_seconds,
                abs=1e-3,  # type: ignore[operator]
            )
    assert spoke >= 3


def test_the_next_turn_hears_the_one_before() -> None:
    assistant = toy_assistant(4)
    _, _, first = collect(assistant.answer(TONE))
    _, _, second = collect(assistant.answer(TONE, history=first.history))
    assert second.history[: len(first.history)] == first.history
    assert len(assistant.engine.kept_ids) > len(first.history)


def test_silence_is_answered_without_asking_the_model() -> None:
    text, audio, reply = collect(toy_assistant(tasks=("answer",)).answer(SILENCE))
    assert (text, reply.text, reply.heard, reply.reason) == (HEARD_NOTHING,) * 2 + ("", "silence")
    assert len(audio) == 0
    text, _, reply = collect(toy_assistant().transcribe(SILENCE))
    assert (text, reply.heard, reply.text) == ("", "", "")


def test_silence_is_answered_aloud_by_a_model_that_speaks() -> None:
    assistant = scripted("oh<|begin_of_quad|><|im_end|>", [[1, 2, LAST, 1]])
    text, audio, reply = collect(assistant.answer(SILENCE))
    assert text == HEARD_NOTHING  # what the model wrote while speaking it is not shown
    assert reply.audio_seconds == pytest.approx(2 * FRAME_SAMPLES / 16000)
    np.testing.assert_allclose(audio, ToneDecoder().decode(np.array([1, 2])), atol=1e-6)


def test_without_sound_no_code_is_decoded() -> None:
    for seed in range(4):
        _, audio, reply = collect(toy_assistant(seed).answer(TONE, speak=False))
        assert len(audio) == 0
        assert reply.timeline.phase_ms("decode") == []


def test_cancelling_ends_the_sound_at_once() -> None:
    cancel = threading.Event()
    cancel.set()
    text, audio, reply = collect(toy_assistant().answer(TONE, cancel=cancel))
    assert (text, len(audio), reply.reason) == ("", 0, "cancelled")


def test_speaking_nothing_or_control_tokens_is_refused() -> None:
    for text in ("", "  \n"):
        with pytest.raises(ConfigError, match="no text to speak"):
            toy_assistant().speak(text)
    with pytest.raises(ConfigError, match="control token"):
        toy_assistant().speak("<|im_end|>")


def test_a_model_without_the_task_says_so() -> None:
    assistant = toy_assistant(tasks=("answer",))
    with pytest.raises(BundleError, match="no task 'transcribe'"):
        list(assistant.transcribe(SILENCE))


def test_characters_of_several_bytes_come_whole() -> None:
    assistant = scripted("né 你好<|im_end|>", [])
    parts = [p.text for p in assistant.answer(TONE) if isinstance(p, TextPart)]
    assert "".join(parts) == "né 你好"
    assert all("\ufffd" not in p for p in parts)


def test_presets(tmp_path: Path) -> None:
    presets = {"calm": GenerationConfig(max_gen_len=9), "paper": GenerationConfig(max_gen_len=8)}
    bundle = Bundle.open(write_toy(tmp_path / "a", presets=presets))
    assert pick_preset(bundle, None).max_gen_len == 9
    assert pick_preset(bundle, "paper").max_gen_len == 8  # the bundle's own before the released
    assert pick_preset(bundle, "script") == GenerationConfig.preset("script")
    with pytest.raises(ConfigError, match="knows calm, paper, script"):
        pick_preset(bundle, "loud")
    bare = Bundle.open(write_toy(tmp_path / "b", presets={}))
    assert pick_preset(bare, None) == GenerationConfig.preset("script")


def test_bundles_without_a_codec_or_with_an_unknown_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has no codec"):
        load_codec(Bundle.open(write_toy(tmp_path / "a")))
    other = write_toy(tmp_path / "b", codec=CodecEntry("mp3"))
    with pytest.raises(BundleError, match="codec of type 'mp3'"):
        load_codec(Bundle.open(other))


def test_a_turn_of_ids_is_answered_as_the_sound_that_they_were_made_of() -> None:
    assistant = toy_assistant()
    assert assistant.tokenizer is not None
    text, audio, reply = collect(assistant.answer(TONE))
    content = assistant.prompts.speech(assistant.tokenizer.encode(TONE).tolist())
    again_text, again_audio, again = collect(assistant.respond("answer", content))
    assert (again_text, again.history) == (text, reply.history)
    np.testing.assert_array_equal(again_audio, audio)
    nothing = collect(assistant.respond("answer", []))[2]
    assert (nothing.text, nothing.reason) == (HEARD_NOTHING, "silence")


def test_a_model_of_single_turns_gets_no_history() -> None:
    """The shipped model, which has learnt lone questions, answered every second turn with noise."""
    assistant = toy_assistant(single_turn=True)
    first = collect(assistant.answer(TONE))[2]
    second = collect(assistant.answer(TONE, history=first.history))[2]
    assert second.history == first.history


def test_a_given_transcript_is_not_written_again_and_belongs_to_what_was_heard() -> None:
    said = "\nseven<|im_end|>"
    assistant = scripted(said, [], transcript_first=True)
    ids = assistant.prompts.encode_plain("what is it")
    parts = list(assistant.respond("answer", assistant.prompts.speech([]), transcript=ids))
    text, _, reply = collect(parts)
    assert text == "\nseven"
    assert (reply.heard, reply.text) == ("what is it", "seven")
