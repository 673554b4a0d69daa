"""What quality is judged on: the assistant's choices, on real sequences where there are some."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ttt_export import quality_table
from ttt_export.evaluation import EvaluationOptions
from ttt_export.export import export_checkpoint
from ttt_export.options import ExportOptions
from ttt_export.quality import masked_blocks, text_rows
from ttt_export.quality_table import measure_row, table
from ttt_export.quality_variants import variants
from ttt_export.sequences import CALIBRATION_FILE, assistant_opening, load_sequences
from ttt_export.source import open_checkpoint
from ttt_quant.recipe import Recipe
from ttt_ref.errors import ExportError
from ttt_runtime.bundle.folder import Bundle

ROOT = Path(__file__).parents[2]
TRAINED = ROOT / "checkpoints" / "tiny"
SHIPPED = ROOT / "runtime" / "ttt_runtime" / "bundles" / "tiny"


@pytest.fixture(scope="module")
def trained():
    return open_checkpoint(TRAINED)


def conversation(checkpoint):
    """Ids of a spoken question and an answer with two spans, the second of 30 codes."""
    layout = checkpoint.layout
    opening = assistant_opening(checkpoint)
    code = [layout.code_to_id(n) for n in range(30)]
    return np.array(
        [
            *(layout.im_start_id, 5, 6, layout.begin_of_audio_id),
            *(*code[:7], layout.end_of_audio_id, layout.im_end_id),
            *(*opening, 8, 9, layout.begin_of_audio_id, *code[:5], layout.end_of_audio_new_id),
            *(10, layout.begin_of_quad_id, *code, layout.end_of_audio_span_last_id),
            *(layout.im_end_id, 11),
        ]
    )


def test_text_is_judged_where_the_assistant_writes(trained):
    ids, layout = conversation(trained), trained.layout
    rows = text_rows(ids, layout, assistant_opening(trained))
    followed = ids[rows + 1].tolist()
    assert followed == [8, 9, layout.begin_of_audio_id, 10, layout.begin_of_quad_id,
                        layout.im_end_id]  # fmt: skip
    assert len(text_rows(ids, layout)) > len(rows)
    # Without an assistant's turn everything counts.
    assert len(text_rows(ids[:12], layout, assistant_opening(trained))) > 0


def test_speech_is_judged_where_the_assistant_speaks(trained):
    ids, layout = conversation(trained), trained.layout
    blocks = list(masked_blocks(ids, layout, 26))
    begins = [len(block) - 26 for block in blocks]
    assert [ids[b - 1] for b in begins[:2]] == [layout.begin_of_audio_id, layout.begin_of_quad_id]
    assert begins[2] == begins[1] + 26  # the long span's second block, its first one revealed
    assert len(begins) == 3
    for block, begin in zip(blocks, begins, strict=True):
        assert (block[:begin] == ids[:begin]).all()
        assert (block[begin:] == layout.mask_id).all()


def test_the_shipped_checkpoint_brings_real_conversations(trained):
    """Stale sequences (of another tokenizer) would decode to something else than conversations."""
    assert (TRAINED / CALIBRATION_FILE).stat().st_size <= 300_000
    found = load_sequences(trained)
    assert "calibration.jsonl" in found.described
    assert len(found.judged) >= 40
    layout = trained.layout
    tasks = set()
    for ids in [*found.judged, *found.calibration]:
        said = trained.tokenizer.decode(ids[ids < layout.audio_start], skip_special_tokens=False)
        role, task = said.split("<|im_end|>")[0].split("\n")
        assert role == "<|im_start|>system"
        assert "assistant\n" in said
        tasks.add(task)
        codes = ids[(ids >= layout.code_offset) & (ids < layout.code_offset + layout.num_codes)]
        assert len(set(codes.tolist())) > 5
    assert tasks == {"answer", "transcribe", "speak"}


@pytest.mark.parametrize(
    ("precision", "recipe"), [("int8", None), ("int4", None), ("int4", "int4-gptq-cpu")]
)
def test_the_trained_model_keeps_its_gates(precision, recipe, tmp_path):
    options = ExportOptions(
        precision=precision,
        recipe=None if recipe is None else Path(recipe),
        codec_from=SHIPPED,  # the codec's own precision has tests of its own
    )
    out = tmp_path / "out"
    result = export_checkpoint(TRAINED, out, options=options)  # raises where a gate is missed
    assert "of calibration.jsonl" in result.report.sequences
    assert result.report.text.count > 500
    assert result.report.speech.count > 1000
    mine, given = Bundle.open(out, "hashes"), Bundle.open(SHIPPED)
    assert mine.config.codec == given.config.codec


def test_codec_from_a_bundle_without_one(tied, exported, tmp_path):
    options = ExportOptions(codec_from=exported(tied).path)
    with pytest.raises(ExportError, match="has no codec"):
        export_checkpoint(tied, tmp_path / "out", options=options)
    assert list(tmp_path.iterdir()) == []


def test_variants_are_recipes_with_names_of_their_own():
    import tomllib

    rows = variants()
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        if row.recipe is not None and "\n" in row.recipe:
            Recipe.from_dict(tomllib.loads(row.recipe), row.name).scheme("layers.0.mlp.down", 6)
    names = " ".join(row.name for row in rows)
    for part in ("fp32", "fp16", "bf16", "rtn", "hqq", "gptq", "awq", "b32", "b128"):
        assert part in names


def test_the_table_goes_on_where_it_stopped(tied, tmp_path, monkeypatch, capsys):
    made = []
    real = quality_table.export_variant

    def counting(checkpoint, variant, work, donor):
        made.append(variant.name)
        return real(checkpoint, variant, work, donor)

    monkeypatch.setattr(quality_table, "export_variant", counting)
    quality_table.table_command(tied, tmp_path, None, 80, ["fp32"], True, 1)
    quality_table.table_command(tied, tmp_path, None, 80, ["fp32", "int4 b32 rtn"], True, 1)
    assert [name for name in made if name != "codec donor"] == ["fp32", "int4 b32 rtn"]
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["fp32", "int4 b32 rtn"]
    assert "100.00 %" in lines[2]
    with pytest.raises(ExportError, match="no row is called fp99"):
        quality_table.table_command(tied, tmp_path, None, 80, ["fp99"], True, 1)


def test_heard_rows_are_kept_and_shown(tied, tmp_path, monkeypatch):
    rows = [
        ["answer text exactly right", "90 %", "80 %"],
        ["the same at 10 dB noise", "1 %", "1 %"],
        ["spoken answer as whisper-base hears it, WER", "3 %", "4 %"],
    ]

    def heard(bundle, options, report):
        assert (bundle / "ttt_config.json").is_file()
        report.write_text(json.dumps({"rows": rows}))
        return {"rows": rows}

    monkeypatch.setattr(quality_table, "run_program", heard)
    monkeypatch.setattr(quality_table, "_donor", lambda *_: None)
    row = measure_row(tied, variants()[0], tmp_path, EvaluationOptions(tmp_path))
    monkeypatch.setattr(quality_table, "run_program", None)  # kept: not evaluated again
    assert measure_row(tied, variants()[0], tmp_path, EvaluationOptions(tmp_path)) == row
    text = table([row])
    assert "answer text exactly right, new voices" in text
    assert "10 dB" not in text
    assert text.splitlines()[2].endswith("| 90 % | 80 % | 3 % | 4 % |")
