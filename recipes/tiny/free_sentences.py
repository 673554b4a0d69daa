"""Sentences about everything else: what a small grammar says about the world at large.

A refusal has to cover what nobody thought of, so wordings written by hand are never enough. This
grammar draws questions, requests and remarks from everyday words that the small world does not
hold; it is seeded, so that every run draws the same ones. Nothing here is held out: the held-out
wordings and fillers of :mod:`recipes.tiny.out_of_domain` were written apart from it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_ONE = [
    "he", "she", "my uncle", "my daughter", "the neighbor", "the teacher", "the cat", "our boss",
    "the old man", "the captain", "the shop", "your friend", "the band", "the queen", "the driver",
    "the company", "that woman", "this machine", "the bank", "the museum",
]  # fmt: skip
_MANY = [
    "you", "we", "they", "people", "the kids", "most animals", "my parents", "the players",
    "doctors", "the guests", "some birds", "tourists", "the workers", "engineers", "farmers",
]  # fmt: skip
_VERBS = [
    "buy", "sell", "build", "break", "clean", "carry", "lose", "find", "steal", "paint", "draw",
    "watch", "hear", "love", "hate", "need", "want", "remember", "describe", "compare", "cook",
    "eat", "drink", "wash", "repair", "move", "throw", "hide", "borrow", "return", "change",
    "collect", "count", "use", "visit", "like", "study", "teach", "write", "measure", "cut",
]  # fmt: skip
_OBJECTS = [
    "a ladder", "the bread", "old coins", "the letters", "a tent", "those pictures", "the report",
    "a bucket", "fresh fish", "the engine", "her dress", "his hat", "a bridge", "wild horses",
    "the curtains", "some money", "a passport", "the garden fence", "good wine", "a wooden chair",
    "the carpet", "stamps", "a telescope", "the furniture", "medicine", "a boat", "the tickets",
    "warm socks", "the homework", "a football", "rice", "the exam", "a trumpet", "their luggage",
    "a mouse", "the stairs", "noodles", "a contract", "the roof", "a statue", "sugar", "a cloud",
]  # fmt: skip
_WHEN_WHERE = [
    "", "", "", "in the kitchen", "at school", "every morning", "on the beach", "with a friend",
    "in winter", "for the party", "without help", "near the station", "at the market", "so often",
    "on vacation", "after work", "by accident", "in the cellar", "last summer", "at night",
]  # fmt: skip
_ASKING = ["why", "when", "where", "how"]
_NAMES = [
    "frank", "emily", "karl", "maria", "hugo", "linda", "walter", "nora", "george", "helen",
    "victor", "susan", "martin", "paula", "felix", "hannah", "douglas", "irene", "stuart", "joan",
]  # fmt: skip
_MATTERS = [
    "the price", "the size", "the age", "the weight", "the owner", "the meaning", "the author",
    "the history", "the address", "the score", "the recipe", "the temperature", "the shape",
    "the reason", "the speed", "the smell", "the best part", "the inventor", "the purpose",
]  # fmt: skip


def _sentence(rng: np.random.Generator) -> str:
    def pick(words: list[str]) -> str:
        return words[int(rng.integers(len(words)))]

    verb, thing, circumstance = pick(_VERBS), pick(_OBJECTS), pick(_WHEN_WHERE)
    one = pick(_ONE) if rng.random() < 0.6 else pick(_NAMES)
    patterns = (
        f"{pick(_ASKING)} does {one} {verb} {thing} {circumstance}",
        f"{pick(_ASKING)} do {pick(_MANY)} {verb} {thing} {circumstance}",
        f"{pick(_ASKING)} can i {verb} {thing} {circumstance}",
        f"{pick(_ASKING)} did {one} {verb} {thing}",
        f"did {pick(_MANY)} {verb} {thing} {circumstance}",
        f"will {one} {verb} {thing} {circumstance}",
        f"should {pick(_MANY)} {verb} {thing}",
        f"can {one} {verb} {thing} {circumstance}",
        f"who will {verb} {thing} {circumstance}",
        f"what is {pick(_MATTERS)} of {thing}",
        f"tell me {pick(_MATTERS)} of {thing}",
        f"what does {one} {verb} {circumstance}",
        f"which {thing.split()[-1]} did {one} {verb}",
        f"what kind of {thing.split()[-1]} do {pick(_MANY)} {verb}",
        f"please {verb} {thing} {circumstance}",
        f"{verb} {thing} for {one}",
        f"let us {verb} {thing} {circumstance}",
        f"tell {one} to {verb} {thing}",
        f"{one} wants to {verb} {thing} {circumstance}",
        f"{pick(_MANY)} never {verb} {thing} {circumstance}",
        f"i would rather {verb} {thing} {circumstance}",
        f"is {one} allowed to {verb} {thing}",
        f"are there {thing.split()[-1]} {circumstance}",
        f"how long does it take to {verb} {thing}",
        f"how many {thing.split()[-1]} does {one} {verb}",
        f"what happens if {pick(_MANY)} {verb} {thing}",
        f"do you know {one}",
        f"{pick(_ASKING)} is {one} {circumstance}",
    )
    return " ".join(patterns[int(rng.integers(len(patterns)))].split())


def sentences(count: int, seed: int) -> Iterator[str]:
    """Yield ``count`` different sentences, the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    said: set[str] = set()
    while len(said) < count:
        sentence = _sentence(rng)
        if sentence not in said:
            said.add(sentence)
            yield sentence
