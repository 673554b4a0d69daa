"""A whole conversation with the shipped bundle: blocks in, sound out, on the microphone's time."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from ttt_runtime.audio.echo import Untouched
from ttt_runtime.audio.front_end import FrontEnd
from ttt_runtime.audio.playback import Playback
from ttt_runtime.audio.voice_activity import SileroDetector
from ttt_runtime.audio.wav_writer import pcm16
from ttt_runtime.cli.assistant_run import shipped_or
from ttt_runtime.dialogue.assistant import Assistant, TextPart
from ttt_runtime.dialogue.live import LiveConversation
from ttt_runtime.dialogue.live_events import LiveEvent
from ttt_runtime.dialogue.live_turn import LiveTurn
from ttt_runtime.dialogue.turn_events import Phase
from ttt_runtime.dialogue.turn_settings import TurnSettings

BLOCK = 320


class Talk:
    """Feeds a conversation block by block; computing takes no time of the microphone's."""

    def __init__(self, assistant: Assistant, settings: TurnSettings | None = None) -> None:
        self.assistant = assistant
        self.playback = Playback(16000)
        self.events: list[LiveEvent] = []
        self.kept: list[LiveTurn] = []
        self.live = LiveConversation(
            assistant,
            FrontEnd(Untouched(), SileroDetector()),
            self.playback,
            settings or TurnSettings(),
            self.events.append,
            keep=self.kept.append,
        )
        self.sound: list[np.ndarray] = []

    def hear(self, audio: np.ndarray, until: Phase | None = None) -> Talk:
        pcm = np.frombuffer(pcm16(audio), np.int16)
        for begin in range(0, len(pcm) - BLOCK + 1, BLOCK):
            if until is not None and self.live.phase is until:
                break
            played = self.playback.take(BLOCK)
            self.sound.append(played)
            self.live.block(pcm[begin : begin + BLOCK], np.zeros(BLOCK, np.int16))
            if self.live.phase in (Phase.THINKING, Phase.HELD, Phase.PLAYING):
                assert self.live.answerer.wait_idle(60.0)
                self.live.pump()
        return self

    def of(self, kind: str) -> list[LiveEvent]:
        return [event for event in self.events if event.kind == kind]


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    return Assistant.from_bundle(shipped_or(None), threads=1)


@pytest.fixture(scope="module")
def question() -> np.ndarray:
    audio, _ = soundfile.read("samples/question.wav", dtype="float32")
    return audio


def silence(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1e-4, round(seconds * 16000)).astype(np.float32)


def test_a_question_is_answered_aloud_and_kept(assistant, question):
    talk = Talk(assistant).hear(np.concatenate([silence(0.5), question, silence(6.0)]))
    [turn] = talk.of("turn")
    assert turn.fields["why"] == "complete"
    assert 340 <= turn.fields["timer_ms"] <= 420
    [finished] = talk.of("finished")
    assert finished.fields["text"].startswith("the capital of")
    assert np.abs(np.concatenate(talk.sound)).max() > 0.1
    [kept] = talk.kept
    assert "capital" in kept.transcript
    assert kept.question is not None
    assert len(kept.question) >= len(question)
    assert talk.live.phase is Phase.LISTENING
    talk.live.close()


def test_12_an_interruption_is_acknowledged_and_nothing_is_cut(assistant, question):
    """vllm-project/vllm#32304: truncation was acknowledged, the model still knew what was unsaid.

    10 (pipecat#2791, #1591): conversation, cache and transcript end where the sound ended.
    """
    talk = Talk(assistant).hear(np.concatenate([silence(0.5), question, silence(1.2)]))
    assert talk.live.phase is Phase.PLAYING
    whole = len(talk.live.answerer.history)
    talk.hear(np.concatenate([question, silence(0.1)]), until=Phase.SPEAKING)
    assert talk.live.answerer.wait_idle(60.0)
    talk.live.pump()
    [cut] = talk.of("interrupted")
    history = talk.live.answerer.history
    assert 0 < cut.fields["played_s"] < 2.2
    assert len(history) < whole
    kept = assistant.engine.kept_ids
    assert kept == history[: len(kept)]
    assert not talk.playback.playing
    talk.live.close()


def test_11_truncation_at_0_or_beyond_the_end(assistant, question):
    """lk/agents#6249, pipecat#931: an error where the time is 0 or longer than the answer."""
    talk = Talk(assistant).hear(np.concatenate([silence(0.5), question, silence(0.8)]))
    answerer = talk.live.answerer
    before = len(answerer.history)
    ticket = talk.live.machine.ticket
    answerer.interrupt(ticket, 1e4)
    assert answerer.wait_idle(60.0)
    assert len(answerer.history) == before
    talk.live.close()
    talk = Talk(assistant).hear(np.concatenate([silence(0.5), question, silence(0.8)]))
    talk.live.answerer.interrupt(talk.live.machine.ticket, 0.0)
    assert talk.live.answerer.wait_idle(60.0)
    assert len(talk.live.answerer.history) < before
    talk.live.close()


def test_a_pause_drops_the_held_answer_and_the_turn_keeps_all_its_audio(assistant, question):
    middle = len(question) * 55 // 100
    parts = [silence(0.5), question[:middle], silence(0.27), question[middle:], silence(6.0)]
    talk = Talk(assistant).hear(np.concatenate(parts))
    assert talk.of("dropped")
    assert len(talk.of("finished")) == 1
    [kept] = talk.kept
    assert kept.question is not None
    assert len(kept.question) >= len(question) + 0.27 * 16000
    talk.live.close()


def test_19_a_slow_model_never_stops_the_microphone(assistant, question):
    """QuentinFuxa/WhisperLiveKit#220, modelscope/FunASR#3533: the model blocks everything."""
    import threading

    talk = Talk(assistant)
    assert talk.live.answerer.wait_idle(60.0)
    gate = threading.Event()
    talk.live.answerer._jobs.put(gate.wait)
    pcm = np.frombuffer(pcm16(np.concatenate([question, silence(1.5)])), np.int16)
    for begin in range(0, len(pcm) - BLOCK + 1, BLOCK):
        talk.live.block(pcm[begin : begin + BLOCK], np.zeros(BLOCK, np.int16))
    assert talk.live.phase is Phase.THINKING  # all was heard, and the turn is over
    gate.set()
    assert talk.live.answerer.wait_idle(60.0)
    talk.live.pump()
    assert talk.live.phase is Phase.PLAYING
    talk.live.close()


def test_push_to_talk_answers_when_the_key_is_let_go(assistant, question):
    talk = Talk(assistant, TurnSettings(mode="push_to_talk"))
    talk.hear(silence(0.5))
    talk.live.key_down()
    talk.hear(np.concatenate([question, silence(0.1)]))
    talk.live.key_up()
    talk.hear(silence(5.0))
    assert [event.fields["why"] for event in talk.of("turn")] == ["key"]
    assert talk.live.phase is Phase.ASLEEP
    talk.live.close()


def test_a_lost_device_ends_the_turn_and_its_return_begins_anew(assistant, question):
    talk = Talk(assistant).hear(np.concatenate([silence(0.5), question, silence(1.0)]))
    talk.live.device_lost()
    assert talk.live.phase is Phase.DEAF
    assert talk.playback.playing is None
    talk.live.device_back()
    talk.hear(np.concatenate([silence(0.5), question, silence(5.0)]))
    assert len(talk.of("finished")) == 1
    talk.live.close()


def test_transcripts_tell_how_sure_they_are(assistant, question):
    """The model guesses how half a question goes on; what it is sure of ends the turn sooner."""
    assistant.engine.tells_probability = True
    codes = assistant.tokenizer.encode(question).tolist()
    told = [part for part in assistant.answer_codes(codes) if isinstance(part, TextPart)]
    assert all(part.probability is not None and 0 < part.probability <= 1 for part in told)
    assert min(part.probability for part in told) < 0.999
    assistant.engine.tells_probability = False
    again = [part for part in assistant.answer_codes(codes) if isinstance(part, TextPart)]
    assert [part.text for part in again] == [part.text for part in told]
    assert {part.probability for part in again} == {None}
    assistant.engine.tells_probability = True


def test_a_soft_voice_is_encoded_at_the_level_that_the_codec_learnt(assistant, question):
    talk = Talk(assistant)
    for _ in range(2):
        talk.hear(np.concatenate([silence(1.0), question * 0.08, silence(6.0)]))
    first, second = talk.kept
    raw, kept = (np.abs(x).max() for x in (question * 0.08, second.question))
    assert kept > 2 * raw
    assert "capital" in first.transcript
    assert "capital" in second.transcript
