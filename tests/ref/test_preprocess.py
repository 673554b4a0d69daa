from __future__ import annotations

import json
import random

import pyarrow
import pyarrow.parquet
import pytest

from ttt_ref.batch import IGNORE, collate
from ttt_ref.config import TokenLayout, code_token
from ttt_ref.data import TttDataset, read_records, read_sources
from ttt_ref.errors import ConfigError, DataError
from ttt_ref.preprocess import Encoder, PreprocessConfig


def span(codes, end="<|end_of_audio_span_last|>"):
    return "<|begin_of_quad|>" + "".join(map(code_token, codes)) + end


def talk(*pairs, system="s"):
    messages = [{"role": "system", "content": system}] if system is not None else []
    for user, assistant in pairs:
        messages += [
            {"role": "user", "content": user},
            {"role": "assistant", "content": assistant},
        ]
    return {"messages": messages}


TWO_TURNS = talk(
    (span([1, 2], "<|end_of_audio|>"), "ab" + span(range(20))),
    (span([60, 61, 62], "<|end_of_audio|>"), "cd" + span(range(30, 50))),
)


@pytest.fixture
def layout(tiny_tokenizer):
    vocab = tiny_tokenizer.get_vocab(with_added_tokens=True)
    return TokenLayout.from_vocab(vocab, {"vocab_size": len(vocab)})


def encode(tokenizer, record, seed=0, **options):
    options = {"quad_span_truncation_prob": 0.0, **options}
    return Encoder(tokenizer, PreprocessConfig(**options)).encode(record, random.Random(seed))


def test_template_and_labels(tiny_tokenizer):
    found = encode(tiny_tokenizer, talk(("hi", "yo<|begin_of_quad|>")))
    text = tiny_tokenizer.decode(found.ids, skip_special_tokens=False)
    assert text == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\nyo<|begin_of_quad|><|im_end|>\n"
    )
    learnt = [label for label in found.labels if label != IGNORE]
    assert tiny_tokenizer.decode(learnt, skip_special_tokens=False) == (
        "yo<|begin_of_quad|><|im_end|>\n"
    )
    pairs = zip(found.ids, found.labels, strict=True)
    assert all(label in (IGNORE, token) for token, label in pairs)


def masked_codes(example, layout):
    """Codes of the positions that training may mask."""
    pairs = zip(example.ids, example.maskable, strict=True)
    return [layout.id_to_code(t) for t, maskable in pairs if maskable and layout.is_code(t)]


def test_multi_turn_prompts_released_and_fixed(tiny_tokenizer, layout):
    released = encode(tiny_tokenizer, TWO_TURNS)
    fixed = encode(tiny_tokenizer, TWO_TURNS, multi_turn_prompts="fixed")
    assert (released.ids, released.labels) == (fixed.ids, fixed.labels)
    assert masked_codes(fixed, layout) == [*range(20), *range(30, 50)]
    # The slip: the prefix swallows answer codes, and the second user's speech may be masked.
    assert masked_codes(released, layout) != masked_codes(fixed, layout)
    assert {60, 61, 62} <= set(masked_codes(released, layout)[:-20])
    one = talk((span([1], "<|end_of_audio|>"), "ab" + span(range(20))))
    assert masked_codes(encode(tiny_tokenizer, one), layout) == list(range(20))
    fixed_one = encode(tiny_tokenizer, one, multi_turn_prompts="fixed")
    assert masked_codes(fixed_one, layout) == list(range(20))


def test_plain_text_is_learnt_whole(tiny_tokenizer, layout):
    found = encode(tiny_tokenizer, {"text": "ab<|endoftext|>" + span([1])}, max_len=5)
    assert len(found.ids) == 5
    assert found.labels[2] == IGNORE  # a pad id is no label in plain text
    assert [found.labels[i] for i in (0, 1, 3, 4)] == [found.ids[i] for i in (0, 1, 3, 4)]
    assert found.prompt_length == 0
    batch = collate([found], layout.pad_id)
    assert batch.key_mask.tolist() == [[True, True, False, True, True]]


def test_truncation_bounds(tiny_tokenizer, layout):
    """k is uniform from max(int(0.3 n), 5) to int(0.9 n), both included; n = 20 here."""
    record = talk(("q", "ab" + span(range(20)) + "tail"))
    kept = set()
    for seed in range(300):
        found = encode(tiny_tokenizer, record, seed, quad_span_truncation_prob=1.0)
        codes = [layout.id_to_code(token) for token in found.ids if layout.is_code(token)]
        assert codes == list(range(len(codes)))
        assert layout.is_code(found.ids[-1])  # no end, no tail, no <|im_end|>
        assert found.labels[-1] == found.ids[-1]
        kept.add(len(codes))
    assert kept == set(range(6, 19))


def test_truncation_probability(tiny_tokenizer, layout):
    record = talk(("q", span(range(20))))
    cut = [
        layout.is_code(encode(tiny_tokenizer, record, s, quad_span_truncation_prob=0.25).ids[-1])
        for s in range(400)
    ]
    assert sum(cut) / len(cut) == pytest.approx(0.25, abs=0.07)


def test_truncation_of_the_last_turn_only(tiny_tokenizer, layout):
    def last_codes(turns):
        found = encode(
            tiny_tokenizer, TWO_TURNS, 5, quad_span_truncation_prob=1.0, truncation_turns=turns
        )
        codes = [layout.id_to_code(token) for token in found.ids if layout.is_code(token)]
        return [c for c in codes if c < 20][-1], codes[-1]

    first_all, second_all = last_codes("all")
    first_last, second_last = last_codes("last")
    assert first_all < 19
    assert first_last == 19
    assert second_all < 49
    assert second_last < 49


def test_truncation_once_or_per_epoch(tiny_tokenizer):
    records = [talk(("q", span(range(40)))) for _ in range(6)]

    def lengths(draw):
        config = PreprocessConfig(quad_span_truncation_prob=1.0, truncation_draw=draw)
        dataset = TttDataset(records, tiny_tokenizer, config)
        found = []
        for epoch in (0, 1, 0):
            dataset.set_epoch(epoch)
            found.append([len(dataset[index].ids) for index in range(len(dataset))])
        return found

    first, second, again = lengths("per_epoch")
    assert first == again
    assert first != second
    assert len(set(first)) > 1  # examples of one epoch have draws of their own
    once = lengths("once")
    assert once[0] == once[1] == first


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"prompt": "a", "response": "b"}, "'prompt' and 'response'; write it as 'messages'"),
        ({"question": "a"}, "keys 'question'"),
        ({}, "keys none"),
        ({"messages": []}, "at least one message"),
        ({"messages": "hi"}, "must be a list"),
        ({"messages": ["hi"]}, "got str"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role 'tool'"),
        ({"messages": [{"from": "bot", "value": "x"}]}, "role 'bot'"),
        ({"messages": [{"role": "user"}]}, "no text content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "no text content, got list"),
        (
            {"messages": [*talk(("a", "b"))["messages"], {"role": "system", "content": "x"}]},
            "message 4 has the role system",
        ),
    ],
)
def test_records_that_cannot_be_used(tiny_tokenizer, record, words):
    with pytest.raises(DataError, match=words):
        encode(tiny_tokenizer, record)
    with pytest.raises(DataError, match=f"record 1: .*{words}"):
        TttDataset([talk(("a", "b")), record], tiny_tokenizer, PreprocessConfig())[1]


@pytest.mark.parametrize(
    "change",
    [
        {"max_len": 0},
        {"quad_span_truncation_prob": 1.5},
        {"multi_turn_prompts": "right"},
        {"truncation_draw": "never"},
        {"truncation_turns": "first"},
    ],
)
def test_preprocess_config_refuses(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        PreprocessConfig(**change)


RECORDS = [talk(("q", "a")), {"text": "plain"}]


def write_json(path):
    path.write_text(json.dumps(RECORDS))


def write_jsonl(path):
    path.write_text("\n".join(map(json.dumps, RECORDS)) + "\n\n")


def write_parquet(path):
    rows = [{"messages": RECORDS[0]["messages"], "text": None}, {"messages": None, **RECORDS[1]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_parquet_with_json_strings(path):
    """The released loader reads conversations stored as JSON text too."""
    rows = [
        {"messages": json.dumps(RECORDS[0]["messages"]), "text": None},
        {"messages": None, **RECORDS[1]},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.json", write_json),
        ("a.jsonl", write_jsonl),
        ("a.parquet", write_parquet),
        ("b.parquet", write_parquet_with_json_strings),
    ],
)
def test_file_types(tmp_path, name, write):
    write(tmp_path / name)
    assert read_records(tmp_path / name) == RECORDS


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "x", "unknown type '.csv'"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", "{}", "must hold a list"),
        ("a.json", "[3]", "record 0 is no table but int"),
        ("a.jsonl", '{"text": "a"}\n{', "line 2 is not valid JSON"),
        ("a.parquet", "PAR", "no readable parquet"),
    ],
)
def test_unreadable_files(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words) as caught:
        read_records(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_records(tmp_path / "none.json")


def test_data_configuration(tmp_path):
    many = [{"text": str(number)} for number in range(40)]
    (tmp_path / "many.json").write_text(json.dumps(many))
    write_jsonl(tmp_path / "few.jsonl")
    config = tmp_path / "data.json"
    sources = [
        {"path": "many.json", "sample_ratio": 0.25},
        {"path": str(tmp_path / "few.jsonl"), "sample_ratio": "1.0"},
        {"path": "absent.json", "sample_ratio": 0},
    ]
    config.write_text(json.dumps(sources))
    found = read_sources(config, random.Random(0))
    assert len(found) == 12
    assert found[:10] != many[:10]
    assert all(record in many for record in found[:10])
    config.write_text(json.dumps([{"path": "many.json", "sample_ratio": 2}]))
    with pytest.raises(DataError, match="sample_ratio 2"):
        read_sources(config, random.Random(0))
    config.write_text(json.dumps([{"file": "many.json"}]))
    with pytest.raises(DataError, match="needs a 'path'"):
        read_sources(config, random.Random(0))
