"""Questions from outside the small world, to be met with an honest "I don't know that".

Three sorts: *near* ones, which use a wording of the world with something it does not know; *far*
ones, which ask for another thing altogether; and *statements*. Held out from training are whole
wordings and whole fillers, so that a right refusal of a held-out question is not a remembered one.
"""

from __future__ import annotations

from collections.abc import Iterator

_NEAR = [
    ("what is the capital of {}", "place"), ("tell me the capital of {}", "place"),
    ("what is the opposite of {}", "thing"), ("what color is {}", "person"),
    ("turn on {}", "person"), ("how many days are in {}", "person"),
    ("which city is the capital of {}", "place"), ("name the opposite of {}", "thing"),
]  # fmt: skip

_FAR = [
    ("who invented {}", "thing"), ("where can i buy {}", "thing"), ("how heavy is {}", "thing"),
    ("who is {}", "person"), ("where does {} live", "person"), ("how old is {}", "person"),
    ("what is the weather in {}", "place"), ("how far is it to {}", "place"),
    ("book a flight to {}", "place"), ("how many people live in {}", "place"),
    ("play a song about {}", "thing"), ("tell me a joke about {}", "thing"),
    ("write a poem about {}", "thing"), ("how do i cook {}", "thing"),
    ("send a message to {}", "person"), ("call {}", "person"), ("what did {} say", "person"),
    ("why is {} so famous", "person"), ("is it raining in {}", "place"),
    ("what language do they speak in {}", "place"), ("how do you spell {}", "thing"),
    ("who won the match against {}", "person"), ("what does {} mean", "thing"),
    ("how much does {} cost", "thing"), ("read me the news from {}", "place"),
    ("show me a picture of {}", "thing"), ("when was {} born", "person"),
    ("find a hotel in {}", "place"), ("what is the history of {}", "place"),
    ("translate {} into french", "thing"), ("who painted {}", "thing"),
    ("is {} healthy", "thing"), ("which team does {} play for", "person"),
    ("what is the phone number of {}", "person"), ("order {} for me", "thing"),
    ("how do i repair {}", "thing"),
]  # fmt: skip

_FILLERS = {
    "place": [
        "atlantis", "california", "the moon", "gotham", "texas", "siberia", "hollywood", "bavaria",
        "narnia", "amsterdam", "sicily", "jupiter", "florida", "the sahara", "scotland", "venice",
    ],
    "person": [
        "napoleon", "my brother", "shakespeare", "doctor watson", "einstein", "aunt margaret",
        "robin hood", "mozart", "my teacher", "uncle henry", "sherlock", "the president",
        "cinderella", "mister johnson", "my neighbor", "beethoven",
    ],
    "thing": [
        "a piano", "spaghetti", "the telephone", "a bicycle", "philosophy", "an umbrella",
        "gravity", "a sandwich", "the internet", "a microscope", "freedom", "pancakes",
        "a dinosaur", "a guitar", "electricity", "a parachute",
    ],
}  # fmt: skip

_STATEMENTS = [
    "what is love", "what will the weather be tomorrow", "who will win the election",
    "why is the universe so large", "what should i wear today", "did you sleep last night",
    "i lost my keys again", "my stomach hurts", "tell me a bedtime story", "sing a song for me",
    "what is the meaning of life", "how does an engine work", "who wrote this book",
    "what is my name", "where did i park", "the train was late again",
    "explain quantum physics", "give me some advice", "what is on my calendar",
    "read my email", "how tall is mount everest", "is there life on other planets",
    "what happened in the war", "recommend a good movie", "my computer is broken",
    "why do cats purr", "how do airplanes fly", "what is the stock price",
    "do you believe in ghosts",
    "the soup needs more salt", "we went swimming yesterday", "who is knocking",
]  # fmt: skip


def questions() -> Iterator[tuple[str, bool]]:
    """Yield ``(question, held_out)``.

    The last quarter of the wordings and of the fillers of each sort is held out: a question is a
    training one if both its wording and its filler are, held out if its wording or filler is.
    """
    for wordings in (_NEAR, _FAR):
        for i, (wording, slot) in enumerate(wordings):
            fillers = _FILLERS[slot]
            for j, filler in enumerate(fillers):
                held_out = 4 * i >= 3 * len(wordings) or 4 * j >= 3 * len(fillers)
                yield wording.format(filler), held_out
    for i, statement in enumerate(_STATEMENTS):
        yield statement, 4 * i >= 3 * len(_STATEMENTS)
