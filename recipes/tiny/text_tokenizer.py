"""The text vocabulary of the shipped model, in the released tokenizer format.

Byte-level BPE as in Qwen2, with merges learnt from the world's own sentences: a word of the world
is one token, any other text falls back to pieces and bytes. The special tokens stand in the
released order, then the speech codes and the three tokens of the audio side.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from recipes.tiny import out_of_domain, world
from ttt_ref.config import (
    AUDIO_MARKER,
    BEGIN_OF_AUDIO,
    BEGIN_OF_QUAD,
    END_OF_AUDIO,
    END_OF_AUDIO_NEW,
    END_OF_AUDIO_SPAN_LAST,
    IM_END,
    IM_START,
    MASK_TOKEN,
    PAD,
    code_token,
)

TEXT_TOKENS = 1200


def special_tokens(num_codes: int) -> list[str]:
    """All special tokens in the order of their ids."""
    text_side = [PAD, IM_START, IM_END, BEGIN_OF_AUDIO, END_OF_AUDIO, BEGIN_OF_QUAD]
    codes = [code_token(code) for code in range(num_codes)]
    ends = [END_OF_AUDIO_NEW, END_OF_AUDIO_SPAN_LAST]
    return [*text_side, AUDIO_MARKER, *codes, MASK_TOKEN, *ends]


def _sentences() -> list[str]:
    found = []
    rest = set(out_of_domain.free_questions())  # words of the whole world would crowd out its own
    for exchange in (e for e in world.exchanges() if e.question not in rest):
        # With and without a space in front: both forms of a word should become one token.
        found += [exchange.question, exchange.answer, " " + exchange.question]
    # The words of the chat template and the task names, so that each is one token.
    return found + ["system", "user", "assistant", "answer", "transcribe", "speak", "?", ":"] * 100


def build(folder: Path, num_codes: int) -> Tokenizer:
    """Train the tokenizer and write its released-format files into ``folder``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TEXT_TOKENS,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(), trainer)
    specials = special_tokens(num_codes)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in specials])

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    _write_json(folder / "vocab.json", model["vocab"])
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    added = {token: tokenizer.token_to_id(token) for token in specials}
    _write_json(folder / "added_tokens.json", added)
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "add_prefix_space": False,
            "eos_token": IM_END,
            "pad_token": PAD,
            "unk_token": PAD,
            "model_max_length": 2048,
            "added_tokens_decoder": {
                str(index): {"content": token, "special": True, "normalized": False,
                             "lstrip": False, "rstrip": False, "single_word": False}
                for token, index in added.items()
            },
        },
    )  # fmt: skip
    return tokenizer


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
