"""One generation at a time, whichever thread asks."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.runtime.decode.test_engine import LAYOUT, cases, oracle
from tests.runtime.toy import ToyRunner
from ttt_ref.errors import TttError
from ttt_runtime.decode.engine import SpeechEngine
from ttt_runtime.decode.guard import GenerationGuard


def in_a_thread(work):
    """Return what `work` returns or raises in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(timeout=30)


def long_case():
    return next(c for c in cases(60) if len(oracle(*c)) > 12)


@pytest.mark.parametrize("threads", [2, 8])
def test_threads_that_share_an_engine_get_right_ids_or_one_line(threads):
    """Two to eight threads on one engine ended the process, or gave other ids without an error."""
    model, prompt, config = long_case()
    engine = SpeechEngine(ToyRunner(model), LAYOUT)
    want = oracle(model, prompt, config)
    start = threading.Barrier(threads)

    def ask(_):
        start.wait()
        got, refused = [], []
        for _ in range(20):
            try:
                got.append(engine.generate_ids(prompt, config))
            except TttError as error:
                refused.append(str(error))
        return got, refused

    with ThreadPoolExecutor(threads) as pool:
        results = list(pool.map(ask, range(threads)))
    served = [ids for got, _ in results for ids in got]
    assert served
    assert all(ids == want for ids in served)
    for line in (line for _, refused in results for line in refused):
        assert "in the middle of an answer" in line
        assert "\n" not in line
    assert engine.generate_ids(prompt, config) == want


def test_a_generation_of_another_thread_is_left_alone():
    """What would change the engine is refused before it changes anything."""
    model, prompt, config = long_case()
    engine = SpeechEngine(ToyRunner(model), LAYOUT)
    events = engine.generate(prompt, config)
    ids = list(next(events).ids)
    for work in (
        lambda: engine.generate_ids(prompt, config),
        lambda: engine.truncate(0),
        engine.reset,
    ):
        with pytest.raises(TttError, match=r"middle of an answer \(thread MainThread\)"):
            in_a_thread(work)
    for event in events:
        ids.extend(event.ids)
    assert ids == oracle(model, prompt, config)
    assert in_a_thread(lambda: engine.generate_ids(prompt, config)) == ids


def test_a_generation_may_move_to_another_thread():
    model, prompt, config = long_case()
    engine = SpeechEngine(ToyRunner(model), LAYOUT)
    events = engine.generate(prompt, config)
    ids = list(next(events).ids)
    ids += in_a_thread(lambda: [i for event in events for i in event.ids])
    assert ids == oracle(model, prompt, config)


def test_who_stops_at_the_done_event_leaves_the_engine_free():
    model, prompt, config = long_case()
    engine = SpeechEngine(ToyRunner(model), LAYOUT)
    events = engine.generate(prompt, config)
    while type(next(events)).__name__ != "DoneEvent":
        pass
    assert in_a_thread(lambda: engine.generate_ids(prompt, config)) == oracle(*long_case())


def test_a_generation_whose_thread_ended_is_given_up():
    model, prompt, config = long_case()
    engine = SpeechEngine(ToyRunner(model), LAYOUT)
    kept = []

    def begin():
        kept.append(engine.generate(prompt, config))
        next(kept[0])

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    assert engine.generate_ids(prompt, config) == oracle(model, prompt, config)
    with pytest.raises(TttError, match="another generation began"):
        list(kept[0])


def test_an_older_generation_leaves_nothing():
    guard = GenerationGuard()
    old = guard.begin()
    new = guard.begin()
    guard.end(old)
    assert guard.is_newest(new)
    with pytest.raises(TttError, match="another generation"):
        guard.go_on(old)
    guard.go_on(new)
