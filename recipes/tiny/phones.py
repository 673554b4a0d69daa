"""Text to phone symbols through espeak-ng (a tool for making data; nothing of it ships)."""

from __future__ import annotations

import re
import subprocess
from functools import cache

# espeak's two-letter diphthongs and affricates as the single symbols that Kokoro-82M uses.
_MERGED = {
    "t\u0361\u0283": "ʧ", "tʃ": "ʧ", "dʒ": "ʤ", "eɪ": "A", "aɪ": "I", "aʊ": "W", "oʊ": "O",
    "əʊ": "O", "ɔɪ": "Y", "ɜː": "ɜɹ", "ɚ": "əɹ", "ɾ": "T", "ᵻ": "ɪ", "ɐ": "ə", "ʔ": "t", "n̩": "ən",
}  # fmt: skip
_STRESS = "ˈˌ"


@cache
def espeak_ipa(text: str, voice: str = "en-us") -> str:
    """IPA of ``text`` with stress marks, words separated by single spaces."""
    done = subprocess.run(
        ["espeak-ng", "-q", "--ipa", "-v", voice, "--", text],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return " ".join(done.stdout.split())


@cache
def kokoro_phonemes(text: str) -> str:
    """Phoneme string of ``text`` in the symbol set of Kokoro-82M (stress kept, length dropped)."""
    ipa = espeak_ipa(text)
    for source, target in _MERGED.items():
        ipa = ipa.replace(source, target)
    return re.sub("[ːˑ\u0361\u0303\u0329]", "", ipa)


def ctc_phones(text: str) -> list[str]:
    """Phone symbols for the CTC loss: no stress, ``"|"`` between words."""
    phones: list[str] = []
    for word in kokoro_phonemes(text).split():
        if phones:
            phones.append("|")
        phones += [symbol for symbol in word if symbol not in _STRESS]
    return phones
