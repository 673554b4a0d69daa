"""What the tokenizer learns to hear: phonemes and letters as CTC labels."""

from __future__ import annotations

from recipes.tiny.corpus import Utterance

LETTERS = " 'abcdefghijklmnopqrstuvwxyz"


def spoken(phones: str) -> list[str]:
    """Phoneme symbols without stress marks and word boundaries, which a code need not carry."""
    plain = phones.replace("ˈ", "").replace("ˌ", "").split()
    return [p for p in plain if p != "|"]


class Labels:
    """Phoneme and letter sequences; 0 is the CTC blank."""

    def __init__(self, phones: list[str]):
        self.phones = phones
        self.phone_ids = {p: i + 1 for i, p in enumerate(phones)}
        self.letter_ids = {c: i + 1 for i, c in enumerate(LETTERS)}

    @classmethod
    def of(cls, utterances: list[Utterance]) -> Labels:
        """All phonemes that occur."""
        return cls(sorted({p for u in utterances for p in spoken(u.phones)}))

    def encode(self, u: Utterance) -> tuple[list[int], list[int]]:
        """Phoneme ids and letter ids; texts with digits have no letters (spelling unknown)."""
        phones = [self.phone_ids[p] for p in spoken(u.phones) if p in self.phone_ids]
        text = " ".join(u.text.lower().split())
        if any(c.isdigit() for c in text):
            return phones, []
        return phones, [self.letter_ids[c] for c in text if c in self.letter_ids]


def distance(a: list[int], b: list[int]) -> int:
    """Edit distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]
