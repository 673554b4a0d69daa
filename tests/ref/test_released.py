"""The published tasks: their texts to the byte, and which layouts have them."""

from __future__ import annotations

import dataclasses
import hashlib

from ttt_ref.config import TokenLayout
from ttt_ref.random_weights import LIKES
from ttt_ref.released import is_released, prompts_or_released, released_prompts

# SHA-256 of the UTF-8 texts as the published training data has them.
DIGESTS = {
    "answer": "3c0434ec26991bd3e97bc845a99afec05425a08425b5df709742f820d0eb6645",
    "transcribe": "e0c866ae9a53d1a37bf061b4739247305c2d14bac58d35976f900ade349b2bb7",
    "ask": "be775c1b561ab98f7a1e885d672b06fa0fd65478d3803efc7c7ac294d759a7fe",
    "chat": "c42faa6371ffdd5be2cbe3dd481ec07e156ec3cf72eb88abe50aca8a0a335559",
}


def layout_of(like: str) -> TokenLayout:
    shape = LIKES[like]
    tokens = [f"t{i}" for i in range(shape.regular_tokens)] + shape.specials()
    vocab = {token: index for index, token in enumerate(tokens)}
    return TokenLayout.from_vocab(vocab, {"vocab_size": len(vocab)})


def test_texts_are_those_of_the_training_data() -> None:
    system = released_prompts()["system"]
    digests = {task: hashlib.sha256(text.encode()).hexdigest() for task, text in system.items()}
    assert digests == DIGESTS


def test_the_layout_is_known_by_its_order_not_by_its_ids() -> None:
    layout = layout_of("released-tiny")
    assert is_released(layout)
    assert is_released(layout_of("qwen2.5-0.5b"))
    assert not is_released(layout_of("tiny"))
    swapped = dataclasses.replace(
        layout, mask_id=layout.end_of_audio_new_id, end_of_audio_new_id=layout.mask_id
    )
    assert not is_released(swapped)


def test_own_prompts_win() -> None:
    layout = layout_of("released-tiny")
    own = {"system": {"answer": "mine"}}
    assert prompts_or_released(own, layout) == (own, False)
    assert prompts_or_released({}, layout) == (released_prompts(), True)
    assert prompts_or_released({}, layout_of("tiny")) == ({}, False)
