"""What users of other voice assistants complain of, each as a test on simulated time.

The public report stands in each docstring; `hf/s2s` is huggingface/speech-to-speech, `lk` livekit.
"""

import pytest

from tests.runtime.dialogue.turn_simulation import Answerer, Simulation
from ttt_runtime.dialogue.turn_events import (
    Abandon,
    BeginTurn,
    Compute,
    Duck,
    Interrupt,
    Phase,
    Release,
    Reopen,
    Unduck,
)
from ttt_runtime.dialogue.turn_settings import Onset, TurnSettings

FRAME = 0.033


def test_02_loud_echo_interrupts():
    """vellum-ai/vellum-assistant#38348: the louder the speaker, the more it interrupts itself.

    Echo that the detector takes for speech is no louder than the echo that is expected.
    """
    answer = Answerer(answer_s=20.0)
    sim = Simulation(answerer=answer, echo_probability=0.9, echo_level_db=-20.0)
    sim.run(20.0, [(1.0, 2.0)])
    assert not sim.of(Interrupt, Reopen, Duck)
    sim.run(24.0, [(21.0, 22.0)], level_db=-12.0)  # and somebody louder is heard all the same
    assert len(sim.of(Interrupt)) == 1


def test_04_it_takes_400_ms_until_it_stops():
    """hf/s2s#433: the answer goes on over the user. Softer at once, silent when it is speech."""
    sim = Simulation(answerer=Answerer(answer_s=9.0)).run(5.0, [(1.0, 2.0), (4.0, 5.0)])
    [(ducked, _)] = sim.of(Duck)
    [(stopped, _)] = sim.of(Interrupt)
    lag = sim.settings.voice_lag_s
    assert ducked - 4.0 - lag <= 2 * FRAME
    assert stopped - 4.0 - lag <= 0.128 + FRAME


def test_05_an_early_end_splits_a_question():
    """hf/s2s#255, #307: a pause to think makes two half questions, both answered.

    Before the release the answer was silent and is dropped; just after it the turn is reopened.
    """
    sim = Simulation().run(6.0, [(1.0, 2.0), (2.3, 3.0)])
    assert sim.names() == ["BeginTurn", "Compute", "Drop", "Compute", "Release"]
    sim = Simulation().run(8.0, [(1.0, 2.0), (2.5, 3.5)])
    assert sim.names() == [
        *["BeginTurn", "Compute", "Release", "Duck", "Reopen"],
        *["Compute", "Release"],
    ]
    assert len(sim.of(BeginTurn)) == 1  # all its audio is one turn's


@pytest.mark.parametrize("pause_s", [0.1, 0.2, 0.25, 0.3, 0.34])
def test_05_nothing_is_said_aloud_in_a_pause_of_less_than_350_ms(pause_s):
    """hf/s2s#255: of a pause that short nobody hears anything."""
    sim = Simulation()
    sounding = []
    for step in range(1, 200):
        sim.run(step * 0.032, [(1.0, 2.0), (2.0 + pause_s, 4.0)])
        if sim.plays is not None and sim.now < 2.0 + pause_s:
            sounding.append(sim.now)
    assert not sounding


def test_06_one_threshold_for_thinking_and_speaking():
    """lk/agents#3427: what is right while it is quiet is wrong while the answer plays."""
    settings = TurnSettings(quiet=Onset(0.5, 2, 0.3), playing=Onset(0.9, 6, 0.3))
    sim = Simulation(settings, Answerer(answer_s=9.0))
    sim.run(3.0, [(1.0, 2.0)], probability=0.6)
    assert sim.of(Release)
    sim.run(5.0, [(4.0, 5.0)], probability=0.6)
    assert not sim.of(Interrupt, Duck)


def test_07_a_phantom_resume_delays_speech():
    """lk/agents#4615: a noise pauses the answer, and it takes long until it goes on.

    A noise only lowers the gain, for less than 0.2 s; the answer plays on under it.
    """
    sim = Simulation(answerer=Answerer(answer_s=5.0)).run(6.0, [(1.0, 2.0), (4.0, 4.07)])
    [(ducked, _)], [(restored, _)] = sim.of(Duck), sim.of(Unduck)
    assert restored - ducked < 0.2
    assert sim.gain == 1.0
    assert not sim.of(Interrupt, Reopen)
    sim.run(8.0)
    assert sim.played[1] == pytest.approx(5.0, abs=2 * FRAME)  # not a sample later or less


def test_08_uh_huh_learned_as_a_pause():
    """lk/agents#7057: sounds of agreement over the answer made it wait longer for the user.

    Patience is learnt from turns that were ended too early, and from nothing else.
    """
    sim = Simulation(answerer=Answerer(answer_s=6.0))
    before = sim.machine.complete_s
    sim.run(8.0, [(1.0, 2.0), (4.0, 4.1), (5.0, 5.1), (6.0, 6.4)])
    assert sim.machine.complete_s == before
    sim = Simulation(answerer=Answerer(answer_s=1.0)).run(4.0, [(1.0, 2.0), (2.5, 3.5)])
    assert sim.of(Reopen)
    assert sim.machine.complete_s > before
    sim.run(60.0, [(t, t + 1.0) for t in range(8, 50, 4)])
    assert sim.machine.complete_s == before  # and it is forgotten again


def test_09_a_short_yes_is_lost_and_noise_cuts_in():
    """pipecat#984, #1391: one threshold either loses a short "yes" or lets noise interrupt."""
    sim = Simulation(answerer=Answerer(transcript="yes")).run(4.0, [(1.0, 1.11)])
    [(_, begin)] = sim.of(BeginTurn)
    assert begin.from_s == pytest.approx(0.75, abs=FRAME)  # with what came before it
    assert sim.of(Release)
    sim = Simulation(answerer=Answerer(answer_s=9.0)).run(6.0, [(1.0, 2.0), (4.0, 4.11)])
    assert not sim.of(Interrupt)
    sim = Simulation(answerer=Answerer(transcript="")).run(4.0, [(1.0, 1.11)])
    assert [a.why for _, a in sim.of(Abandon)] == ["no_speech"]  # a cough is not answered


def test_13_who_truncates():
    """openai/openai-agents-python#1999: both sides cut, or neither. Here: one action, once."""
    sim = Simulation(answerer=Answerer(answer_s=9.0)).run(4.6, [(1.0, 2.0), (4.0, 9.0)])
    [(_, interrupt)] = sim.of(Interrupt)
    assert sim.machine.finished(interrupt.ticket) == []
    assert sim.machine.reset(4.7)[0] == Abandon(None, "reset")  # of the new turn, not the old
    sim = Simulation(answerer=Answerer(answer_s=1.0)).run(6.0, [(1.0, 2.0)])
    assert not sim.of(Interrupt)  # what was played to its end is kept whole


def test_14_it_listens_for_15_seconds_in_noise():
    """wyoming-satellite#195, #20: noise keeps the turn open. It is answered at its longest time."""
    settings = TurnSettings(longest_turn_s=15.0)
    sim = Simulation(settings, Answerer(answer_s=60.0)).run(40.0, [(1.0, 99.0)])
    [(released, release)] = sim.of(Release)
    assert release.why == "longest"
    assert released == pytest.approx(16.0, abs=0.1)
    assert not sim.of(Interrupt, Reopen)  # the same noise does not interrupt the answer
    sim.run(42.0).run(43.0, [(42.0, 43.0)])
    assert sim.of(Interrupt)  # after a silence somebody can


def test_15_stuck_after_the_wake_word():
    """wyoming-satellite#237, #154: the word is heard, nobody speaks, and it listens for ever."""
    sim = Simulation(TurnSettings(mode="wake_word"))
    sim.at(1.0, sim.machine.wake).run(7.0)
    [(given_up, abandon)] = sim.of(Abandon)
    assert abandon.why == "no_speech"
    assert given_up == pytest.approx(6.0, abs=2 * FRAME)
    assert sim.phase is Phase.ASLEEP


@pytest.mark.parametrize("stop_at_s", [1.5, 2.1, 2.2, 2.4, 3.0])
def test_15_no_state_lasts_for_ever(stop_at_s):
    """wyoming-satellite#154: sound and answers stop coming at any moment; time alone goes on."""
    settings = TurnSettings(mode="wake_word", longest_answer_s=20.0)
    sim = Simulation(settings, Answerer(answer_s=1e6))
    sim.at(0.5, sim.machine.wake).run(stop_at_s, [(1.0, 2.0)])
    sim.events.clear()
    sim.run(stop_at_s + 120.0, frames=False)
    assert sim.phase is Phase.ASLEEP


@pytest.mark.parametrize("dies_at_s", [1.5, 2.15, 2.25, 3.0, 4.1])
def test_16_the_client_dies_and_it_is_deaf_until_reboot(dies_at_s):
    """FutureProofHomes/Satellite1-ESPHome#540: a connection lost in any state resets it."""
    sim = Simulation(answerer=Answerer(answer_s=4.0))
    sim.run(dies_at_s, [(1.0, 2.0), (4.0, 9.0)])
    sim._do(sim.machine.reset(sim.now))
    assert sim.phase is Phase.LISTENING
    sim.log.clear()
    sim.events.clear()
    sim.run(14.0, [(10.0, 11.0)])
    assert sim.names() == ["BeginTurn", "Compute", "Release"]


def test_17_a_long_answer_times_out():
    """home-assistant/core#148602: nothing sounds until all is computed. Here the first sound does.

    The answer is still being computed (nothing told `finished`) when it begins to play.
    """
    sim = Simulation(answerer=Answerer(answer_s=60.0)).run(3.0, [(1.0, 2.0)])
    assert sim.phase is Phase.PLAYING
    assert sim.played[1] > 0.4


def test_20_the_microphone_is_unplugged_and_it_says_listening_for_ever():
    """open-webui#28398, rcourtman/presspeech#41: every state notices, stops, and comes back."""
    for lost_at_s in (0.5, 1.5, 2.15, 2.25, 3.0, 4.1):
        sim = Simulation(answerer=Answerer(answer_s=4.0))
        sim.run(lost_at_s, [(1.0, 2.0), (4.0, 9.0)])
        sim._do(sim.machine.device_lost(sim.now))
        assert sim.phase is Phase.DEAF
        assert sim.plays is None
        sim.events.clear()
        sim.run(8.0, frames=False)
        assert sim.phase is Phase.DEAF
        sim._do(sim.machine.device_back(8.0))
        assert sim.phase is Phase.LISTENING
        sim.log.clear()
        sim.run(14.0, [(10.0, 11.0)])
        assert sim.names() == ["BeginTurn", "Compute", "Release"]
        [(_, begin)] = sim.of(BeginTurn)
        assert begin.from_s > 8.0


def test_20_an_unplugged_answer_is_cut_to_what_was_played():
    """open-webui#28398: what nobody heard is not in the history."""
    sim = Simulation(answerer=Answerer(answer_s=9.0)).run(4.0, [(1.0, 2.0)])
    sim._do(sim.machine.device_lost(sim.now))
    assert [a.ticket for _, a in sim.of(Interrupt)] == [1]
    assert len(sim.of(Compute)) == 1
