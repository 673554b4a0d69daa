import pytest

from tests.runtime.dialogue.turn_simulation import Answerer, Simulation
from ttt_ref.errors import ConfigError
from ttt_runtime.dialogue.turn_events import (
    Abandon,
    BeginTurn,
    Compute,
    Interrupt,
    Phase,
    Release,
)
from ttt_runtime.dialogue.turn_settings import Onset, TurnSettings, reads_complete

FRAME = 0.033  # a frame, and a little for rounding


def test_a_turn_from_silence_to_silence():
    sim = Simulation().run(6.0, [(1.0, 2.0)])
    assert sim.names() == ["BeginTurn", "Compute", "Release"]
    phases = [a.phase for _, a in sim.log if type(a).__name__ == "Enter"]
    assert phases == [
        Phase.SPEAKING,
        Phase.THINKING,
        Phase.HELD,
        Phase.PLAYING,
        Phase.LISTENING,
    ]


def test_the_answer_is_computed_long_before_it_is_released():
    sim = Simulation().run(4.0, [(1.0, 2.0)])
    [(computed, _)] = sim.of(Compute)
    [(released, release)] = sim.of(Release)
    assert computed - 2.0 == pytest.approx(0.12, abs=FRAME)
    assert released - 2.0 == pytest.approx(0.35, abs=FRAME)
    assert release.why == "complete"
    assert release.speech_end_s == pytest.approx(2.0, abs=FRAME)


@pytest.mark.parametrize("transcript", ["", "set a timer for ?", "  "])
def test_a_transcript_that_breaks_off_is_waited_for(transcript):
    sim = Simulation(answerer=Answerer(transcript=transcript)).run(4.0, [(1.0, 2.0)])
    [(released, release)] = sim.of(Release)
    assert released - 2.0 == pytest.approx(0.9, abs=FRAME)
    assert release.why == "incomplete"


def test_a_model_that_writes_no_transcript_waits_the_longer_time():
    sim = Simulation(answerer=Answerer(transcript_after_s=1e9)).run(4.0, [(1.0, 2.0)])
    assert [a.why for _, a in sim.of(Release)] == ["incomplete"]


def test_the_fixed_mode_asks_no_transcript():
    settings = TurnSettings(fixed_s=0.5)
    sim = Simulation(settings, Answerer(transcript="set a timer for ?")).run(4.0, [(1.0, 2.0)])
    [(released, release)] = sim.of(Release)
    assert (release.why, round(released - 2.0, 1)) == ("fixed", 0.5)


def test_a_slow_answer_is_released_before_it_has_sound_and_plays_when_it_has():
    sim = Simulation(answerer=Answerer(sound_after_s=1.0)).run(6.0, [(1.0, 2.0)])
    [(released, _)] = sim.of(Release)
    playing = next(t for t, a in sim.log if getattr(a, "phase", None) is Phase.PLAYING)
    assert released < playing
    assert sim.phase is Phase.LISTENING


def test_a_late_transcript_releases_at_once():
    sim = Simulation(answerer=Answerer(transcript_after_s=0.4, sound_after_s=0.45))
    sim.run(4.0, [(1.0, 2.0)])
    [(computed, _)] = sim.of(Compute)
    [(released, _)] = sim.of(Release)
    assert released - computed == pytest.approx(0.4, abs=FRAME)


def test_an_interruption_begins_a_turn_with_its_pre_roll():
    sim = Simulation(answerer=Answerer(answer_s=5.0)).run(6.0, [(1.0, 2.0), (4.0, 5.0)])
    [(when, interrupt)] = sim.of(Interrupt)
    assert when - 4.0 == pytest.approx(0.05 + 4 * 0.032, abs=FRAME)
    _, (_, second) = sim.of(BeginTurn)
    assert second.from_s == pytest.approx(4.05 - 0.3, abs=FRAME)
    assert interrupt.ticket == 1


def test_speech_between_release_and_first_sound_reopens_the_turn():
    """Nothing was heard of the answer yet, so nothing is interrupted: the turn simply goes on."""
    sim = Simulation(answerer=Answerer(sound_after_s=5.0)).run(4.0, [(1.0, 2.0), (3.2, 3.9)])
    assert sim.names()[:4] == ["BeginTurn", "Compute", "Release", "Reopen"]
    assert not sim.of(Interrupt)


def test_an_answer_without_sound_ends_its_turn():
    sim = Simulation(answerer=Answerer(sound_after_s=None)).run(3.0, [(1.0, 2.0)])
    assert sim.phase is Phase.THINKING
    sim._do(sim.machine.finished(sim.machine.ticket))
    assert sim.phase is Phase.LISTENING


def test_an_answer_that_finished_before_its_release_ends_its_turn_at_release():
    sim = Simulation(answerer=Answerer(sound_after_s=None))
    sim.run(2.25, [(1.0, 2.0)])
    sim._do(sim.machine.finished(1))
    assert sim.phase is Phase.THINKING
    sim.run(4.0)
    assert sim.phase is Phase.LISTENING
    assert len(sim.of(Release)) == 1


def test_what_comes_for_an_older_ticket_is_ignored():
    sim = Simulation().run(3.0, [(1.0, 2.0)])
    assert sim.phase is Phase.PLAYING
    for event in (sim.machine.sound, sim.machine.finished, sim.machine.failed):
        assert event(0) == []
    assert sim.machine.heard(0, "x") == []


def test_a_failed_answer_returns_to_listening():
    sim = Simulation(answerer=Answerer(sound_after_s=None)).run(2.25, [(1.0, 2.0)])
    actions = sim.machine.failed(1)
    assert actions[0] == Abandon(1, "failed")
    assert sim.phase is Phase.LISTENING


def test_an_answer_that_never_comes_is_given_up():
    sim = Simulation(answerer=Answerer(sound_after_s=None)).run(40.0, [(1.0, 2.0)])
    assert [a.why for _, a in sim.of(Abandon)] == ["no_answer"]
    assert sim.phase is Phase.LISTENING


def test_push_to_talk_answers_at_the_keys_release():
    sim = Simulation(TurnSettings(mode="push_to_talk"))
    sim.at(1.0, sim.machine.key_down).at(2.1, sim.machine.key_up)
    sim.run(6.0, [(1.2, 2.0)])
    [(released, release)] = sim.of(Release)
    assert released - 2.1 == pytest.approx(0, abs=FRAME)
    assert release.why == "key"
    assert sim.phase is Phase.ASLEEP


def test_with_the_key_held_a_pause_is_computed_and_never_released():
    sim = Simulation(TurnSettings(mode="push_to_talk"))
    sim.at(1.0, sim.machine.key_down).at(5.0, sim.machine.key_up)
    sim.run(4.9, [(1.2, 2.0)])
    assert sim.names() == ["BeginTurn", "Compute"]
    assert sim.phase is Phase.HELD
    sim.run(5.1)
    assert sim.names() == ["BeginTurn", "Compute", "Release"]
    assert sim.phase is Phase.PLAYING


def test_a_slip_on_the_key_is_no_turn():
    sim = Simulation(TurnSettings(mode="push_to_talk"))
    sim.at(1.0, sim.machine.key_down).at(1.1, sim.machine.key_up).run(2.0)
    assert [a.why for _, a in sim.of(Abandon)] == ["slip"]
    assert sim.phase is Phase.ASLEEP


def test_the_key_interrupts_without_waiting_for_speech():
    sim = Simulation(TurnSettings(mode="push_to_talk"), Answerer(answer_s=9.0))
    sim.at(1.0, sim.machine.key_down).at(2.1, sim.machine.key_up)
    sim.at(4.0, sim.machine.key_down).at(5.0, sim.machine.key_up)
    sim.run(4.1, [(1.2, 2.0)])
    assert sim.names()[-2:] == ["Interrupt", "BeginTurn"]


def test_a_key_that_sticks_is_let_go_after_the_longest_time():
    sim = Simulation(TurnSettings(mode="push_to_talk", longest_held_key_s=3.0))
    sim.at(1.0, sim.machine.key_down).run(5.0, [(1.0, 9.0)])
    assert [a.why for _, a in sim.of(Release)] == ["longest"]


def test_the_key_means_nothing_hands_free():
    sim = Simulation().run(1.0)
    assert sim.machine.key_down(1.0) == []
    assert sim.machine.key_up(1.5) == []


def test_after_the_wake_word_its_own_sound_belongs_to_no_turn():
    sim = Simulation(TurnSettings(mode="wake_word"))
    sim.at(1.0, sim.machine.wake).run(3.0, [(0.5, 1.0), (1.1, 2.0)])
    [(_, begin)] = sim.of(BeginTurn)
    assert begin.from_s >= 1.0


def test_asleep_nobody_is_heard():
    sim = Simulation(TurnSettings(mode="wake_word")).run(4.0, [(1.0, 2.0)])
    assert sim.log == []


def test_in_wake_word_mode_a_second_question_needs_no_second_word():
    sim = Simulation(TurnSettings(mode="wake_word"), Answerer(answer_s=1.0))
    sim.at(1.0, sim.machine.wake).run(6.0, [(1.5, 2.0), (4.0, 4.8)])
    assert len(sim.of(Release)) == 2


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="second cannot be shorter"):
        TurnSettings(complete_s=1.0, incomplete_s=0.5)
    with pytest.raises(ConfigError, match="unknown mode"):
        TurnSettings(mode="shout")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at most"):
        TurnSettings(off_probability=0.7)
    with pytest.raises(ConfigError, match="or more"):
        TurnSettings(resume_frames=0)
    with pytest.raises(ConfigError, match="no_speech_s"):
        TurnSettings(no_speech_s=-1.0)
    with pytest.raises(ConfigError, match="pre-roll"):
        Onset(0.5, 0, 0.3)


def test_transcripts_that_read_complete():
    assert reads_complete("good morning")
    assert not reads_complete("good ?")
    assert not reads_complete("")
