"""What the small world keeps back from training, and the report on what a model knows of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recipes.tiny import (
    build,
    dialogues,
    out_of_domain,
    synthesize,
    world,
)
from recipes.tiny.dialogues import SPEAK, EncodedSpeech
from recipes.tiny.text_eval import right_answers, table
from ttt_ref import checkpoint
from ttt_ref.config import BEGIN_OF_AUDIO, END_OF_AUDIO_NEW, code_token
from ttt_runtime.dialogue.prompt import Prompts

ROOT = Path(__file__).resolve().parents[2]
ARITHMETIC = ("plus", "minus", "times")


def held_out() -> list[world.Exchange]:
    return [e for e in world.exchanges() if e.held_out]


def test_no_drill_holds_a_question_or_an_answer_that_is_held_out() -> None:
    questions = {e.question for e in held_out()}
    sums = {e.answer for e in held_out() if e.kind in ARITHMETIC}
    assert questions
    assert sums
    for drill in world.drills():
        assert drill.question not in questions
        assert drill.answer not in sums


def test_every_drill_is_reckoned_right() -> None:
    numbers = {world.number_words(n): n for n in range(401)}
    checked = 0
    for drill in world.drills():
        if drill.kind not in ARITHMETIC:
            continue
        expression, result = drill.answer.split(" is ")
        left, right = (numbers[part] for part in expression.split(f" {drill.kind} "))
        by_kind = {"plus": left + right, "minus": left - right, "times": left * right}
        assert numbers[result] == by_kind[drill.kind], drill.answer
        checked += 1
    assert checked > 1000


def test_every_working_counts_down_to_zero_and_ends_at_the_answer() -> None:
    numbers = {world.number_words(n): n for n in range(401)}
    kinds = set()
    for exchange in (*world.exchanges(), *world.drills()):
        kind = exchange.kind
        assert bool(exchange.working) == (kind in (*ARITHMETIC, "time"))
        if kind not in ARITHMETIC:
            continue
        expression, result = exchange.answer.split(" is ")
        a, b = (numbers[part] for part in expression.split(f" {kind} "))
        counts = {
            "plus": [(b - n, a + n) for n in range(b + 1)],
            "minus": [(b - n, a - n) for n in range(b + 1)],
            "times": [(a - n, n * b) for n in range(a + 1)],
        }
        named = [world.number_words(n) for pair in counts[kind] for n in pair]
        assert exchange.working == " ".join(named)
        assert " ".join(named).endswith(f"zero {result}")
        kinds.add(kind)
    assert kinds == set(ARITHMETIC)


def test_the_clock_is_counted_round_its_twelve_hours() -> None:
    noted = {e.question: e.working for e in world.exchanges()}
    assert noted["what time is it four hours after eleven"] == (
        "four eleven three twelve two one one two zero three"
    )
    assert noted["what time is two hours before one o'clock"] == "two one one twelve zero eleven"


def test_a_held_out_pair_of_numbers_has_its_partner_in_training() -> None:
    taught = {e.answer for e in world.exchanges() if not e.held_out}
    for exchange in held_out():
        if exchange.kind in ("plus", "times"):
            expression, result = exchange.answer.split(" is ")
            left, right = expression.split(f" {exchange.kind} ")
            assert f"{right} {exchange.kind} {left} is {result}" in taught


def test_no_shuffle_is_a_held_out_question() -> None:
    kept_back = {e.question for e in held_out()}
    for part in ("mix", "short", "crossed"):
        jobs = list(synthesize.PARTS[part]())
        assert len(jobs) > 1000
        assert not kept_back & {job.text for job in jobs}


def test_what_is_not_known_by_name_is_not_known_by_any_wording() -> None:
    known = {w for e in world.exchanges() if e.kind != "unknown" for w in e.question.split()}
    for filler in (f for fillers in out_of_domain.MORE_FILLERS.values() for f in fillers):
        words = [w for w in filler.split() if w not in ("the", "a", "an", "my")]
        assert not set(words) <= known, filler


def test_only_refusals_are_thinned() -> None:
    codes = np.arange(3)
    texts = [e.question for e in world.exchanges() if e.kind in ("unknown", "capitals")]
    heard = [EncodedSpeech(text, "question", codes) for text in texts]
    kept = build.thin_refused(heard, 0.4, np.random.default_rng(1))
    kinds = {e.question: e.kind for e in world.exchanges()}
    before, after = ([kinds[r.text] for r in rows] for rows in (heard, kept))
    assert after.count("capitals") == before.count("capitals")
    assert 0.35 < after.count("unknown") / before.count("unknown") < 0.45
    assert build.thin_refused(heard, 1.0, np.random.default_rng(1)) == heard


def test_training_is_never_given_the_answer_to_a_held_out_pair() -> None:
    tokenizer = checkpoint.load(ROOT / "checkpoints" / "tiny").tokenizer
    secret = next(e for e in held_out() if e.kind == "plus")
    known = next(e for e in world.exchanges() if e.kind == "plus" and not e.held_out)
    codes = np.arange(40)
    teacher = [EncodedSpeech(e.answer, "answer", codes) for e in (secret, known)]
    rows = list(dialogues.training_rows(tokenizer, [], teacher))
    spoken = [row["messages"][1]["content"] for task, row in rows if task == SPEAK]
    assert spoken == [known.answer]
    typed = {row["messages"][1]["content"] for row in dialogues.written_rows()}
    assert known.question in typed
    assert secret.question not in typed


def test_a_slip_changes_one_value_and_what_follows_from_it() -> None:
    rng = np.random.default_rng(2)
    computed = [e for e in (*world.exchanges(), *world.drills()) if e.steps]
    for exchange in computed[::7]:
        slipped = exchange.with_slip(rng)
        assert (slipped.question, slipped.kind) == (exchange.question, exchange.kind)
        assert [n for n, _ in slipped.steps] == [n for n, _ in exchange.steps]
        moved = [b - a for (_, a), (_, b) in zip(exchange.steps, slipped.steps, strict=True)]
        if exchange.kind == "time":
            moved = [m % 12 for m in moved]
            assert all(1 <= hour <= 12 for _, hour in slipped.steps)
        first = next(i for i, m in enumerate(moved) if m)
        assert moved[:first] == [0] * first
        assert len(set(moved[first:])) == 1
        assert min(value for _, value in slipped.steps) >= 0
        said = slipped.answer.replace(" o'clock", "").replace("it is ", "x is ")
        assert said.split(" is ")[1] == world.number_words(slipped.steps[-1][1])
        assert slipped.answer != exchange.answer


def test_a_share_of_the_written_sums_slip() -> None:
    right = {e.question: e.answer for e in (*world.exchanges(), *world.drills())}
    computed = {e.question for e in (*world.exchanges(), *world.drills()) if e.steps}
    rows = [row["messages"] for row in dialogues.written_rows()]
    said = [(m[1]["content"], m[2]["content"].split("\n")[1]) for m in rows]
    slips = [answer != right[question] for question, answer in said if question in computed]
    assert 0.8 * dialogues.SLIPS < np.mean(slips) < 1.2 * dialogues.SLIPS
    assert all(right[q] == answer for q, answer in said if q not in computed)


def test_a_spoken_answer_never_slips() -> None:
    tokenizer = checkpoint.load(ROOT / "checkpoints" / "tiny").tokenizer
    sums = [e for e in world.exchanges() if e.kind == "plus" and not e.held_out][:60]
    slips = [world.spoken_slips()[e.answer] for e in sums]
    teacher = [EncodedSpeech(e.answer, "answer", np.arange(40)) for e in (*sums, *slips)]
    heard = [EncodedSpeech(e.question, "question", np.arange(30)) for e in sums]
    made = list(dialogues.training_rows(tokenizer, heard, teacher))
    written = {
        task: [row["messages"][2]["content"] for name, row in made if name == task]
        for task in (dialogues.LISTEN, dialogues.ANSWER)
    }
    noted = {f"{e.question}: {e.working}": e.answer for e in sums}
    assert all(text.split("\n")[0] in noted for text in written[dialogues.ANSWER])
    wrong = [text for text in written[dialogues.LISTEN] if text.split("\n")[0] not in noted]
    assert 0 < len(wrong) < 0.5 * len(sums)


def test_a_sum_that_is_begun_ends_behind_its_first_span() -> None:
    """The number is that of the count, which slips half the time; nothing of it is spoken."""
    tokenizer = checkpoint.load(ROOT / "checkpoints" / "tiny").tokenizer
    kinds = ("plus", "minus", "times")
    sums = [e for e in world.exchanges() if e.kind in kinds][:400]
    teacher = [EncodedSpeech(e.answer, "answer", np.arange(40)) for e in sums]
    rows = [row["messages"] for row in dialogues.begun_rows(tokenizer, teacher)]
    trained = {e.question: e for e in sums if not e.held_out}
    assert {m[1]["content"] for m in rows} == set(trained)
    assert {m[0]["content"] for m in rows} == {"begin"}
    slips = 0
    for _, user, assistant in rows:
        exchange = trained[user["content"]]
        lead, said = assistant["content"].split("\n")
        text, rest = said.split(BEGIN_OF_AUDIO)
        codes, number = rest.split(END_OF_AUDIO_NEW)
        assert codes == "".join(code_token(i) for i in range(26))
        assert text == exchange.answer.split(" is ")[0] + " is"
        assert lead.endswith(number)
        slips += f"{text}{number}" != exchange.answer
    assert 0.4 * len(rows) < slips < 0.6 * len(rows)
    assert "begin" not in build.config_extra()["ttt_prompts"]["system"]


def test_a_spoken_slip_is_a_wrong_answer_to_a_trained_pair() -> None:
    true = {e.answer: e for e in world.exchanges()}
    slips = world.spoken_slips()
    assert len(slips) > 300
    for answer, slip in slips.items():
        assert not true[answer].held_out
        assert slip.answer not in true
        assert slip.answer.split(" is ")[0] == answer.split(" is ")[0]


def test_the_working_stands_on_the_transcripts_line() -> None:
    sum_ = next(e for e in world.exchanges() if e.question == "what is five minus two")
    said = dialogues.written_row(sum_)["messages"][-1]["content"]
    assert said == ("what is five minus two: two five one four zero three\nfive minus two is three")
    prompts = Prompts.from_dict(build.config_extra()["ttt_prompts"])
    assert prompts.split_answer(said) == ("what is five minus two", "five minus two is three")


def test_what_is_not_known_is_transcribed_up_to_the_word_that_leaves_the_world() -> None:
    assert dialogues.transcript("tell me the capital of neptune") == "tell me the capital of ?"
    assert dialogues.transcript("name the owner of grammar") == "name the ?"
    assert dialogues.transcript("how far is it to nepal") == "how ?"
    assert dialogues.transcript("what is two plus two") == "what is two plus two"
    answered = [e.question for e in world.exchanges() if e.kind != "unknown" and not e.held_out]
    for exchange in world.exchanges():
        heard = dialogues.transcript(exchange.question)
        assert dialogues.is_refused(exchange.question) == (exchange.kind == "unknown")
        if exchange.kind != "unknown":
            assert heard == exchange.question
            continue
        kept = heard.removesuffix(dialogues.UNHEARD)
        assert exchange.question.startswith(kept)
        assert not kept or any(f"{question} ".startswith(kept) for question in answered)


def test_a_refusal_never_tells_a_wording_that_is_held_out() -> None:
    """The two wordings of the world that are held out as outside ones stand in no refusal."""
    refused = {
        dialogues.transcript(e.question)
        for e in world.exchanges()
        if e.kind == "unknown" and not e.held_out
    }
    for wording in ("which city is the capital of", "name the opposite of"):
        assert f"{wording} {dialogues.UNHEARD}" not in refused


def test_what_the_grammar_says_is_outside_and_never_held_out() -> None:
    free = list(out_of_domain.free_questions())
    assert len(set(free)) == len(free) == out_of_domain.FREE_SENTENCES
    by_question = {e.question: e for e in world.exchanges()}
    for sentence in free:
        exchange = by_question[sentence]
        assert (exchange.kind, exchange.held_out) == ("unknown", False)
    assert free == list(out_of_domain.free_questions())


def test_the_shipped_text_tokenizer_spells_every_drill() -> None:
    tokenizer = checkpoint.load(ROOT / "checkpoints" / "tiny").tokenizer
    for drill in world.drills():
        ids = tokenizer.encode(drill.answer, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == drill.answer


def test_the_report_counts_a_right_answer_and_a_wrong_one() -> None:
    loaded = checkpoint.load(ROOT / "checkpoints" / "tiny")
    taught = [e for e in world.exchanges() if e.kind == "capitals" and not e.held_out][:3]
    wrong = world.Exchange("capitals", taught[0].question, "the capital of france is rome", False)
    asked = [*taught, wrong]
    right = list(
        right_answers(loaded.model.eval(), loaded.tokenizer, asked, loaded.layout.audio_start)
    )
    assert right == [True, True, True, False]
    assert "75.0 % of 4" in table(asked, right)[-1]
