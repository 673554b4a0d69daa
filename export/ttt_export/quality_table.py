"""The quality table of a checkpoint: ``python -m ttt_export.quality_table CHECKPOINT FOLDER``.

Exports the checkpoint under every variant of `quality_variants`, with open gates, and puts the
quality reports side by side. With ``--data`` (the test recordings of the recipe of the shipped
model) each bundle is also evaluated: answers exactly right, and the word error rate of its speech.
Every row is kept in FOLDER as JSON, so the same command goes on where it was stopped. Rows
without "its codec" hold the codec in float32: they tell what the model's precision does.
"""

from __future__ import annotations

import fnmatch
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ttt_export.evaluation import EvaluationOptions, run_program
from ttt_export.quality_variants import Variant, variants
from ttt_ref.bounded import Unreadable, parse_json, read_bytes
from ttt_ref.command_line import run_app
from ttt_ref.errors import ExportError
from ttt_ref.outputs import write_whole

CODEC_DONOR = Variant("codec donor", "fp32", own_codec=True)
# Rows of the evaluation's table that belong here, by how they begin.
HEARD = ("answer text exactly right", "spoken answer")
# What the table takes from a kept row.
REPORT_KEYS = ("text", "speech", "end_tags", "file_bytes", "sequences")
HEARD_KEYS = ("rows",)


def export_variant(checkpoint: Path, variant: Variant, work: Path, donor: Path | None) -> Path:
    """Export one variant into `work`; returns the bundle's folder, its report inside."""
    from ttt_export.export import export_checkpoint
    from ttt_export.options import ExportOptions

    recipe = None if variant.recipe is None else Path(variant.recipe)
    if variant.recipe is not None and "\n" in variant.recipe:
        recipe = work / "recipe.toml"
        recipe.write_text(variant.recipe, encoding="utf-8")
    options = ExportOptions(
        precision=variant.precision,
        engine=variant.engine,
        engines=False,
        recipe=recipe,
        cache=variant.cache,
        cache_rows=variant.cache_rows,
        codec_from=None if variant.own_codec else donor,
        force=True,
        max_kl=1e9,
        min_agreement=0.0,
    )
    out = work / _file_name(variant)
    export_checkpoint(checkpoint, out, options=options)
    return out


def _file_name(variant: Variant) -> str:
    return variant.name.replace(" ", "-").replace(",", "")


def read_kept(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Read a row, or a part of one, that stands in the folder; ExportError if it is broken."""
    try:
        kept = parse_json(read_bytes(path, error=ExportError), strict=False)
    except Unreadable:
        kept = None
    if not isinstance(kept, dict) or not all(key in kept for key in keys):
        raise ExportError(
            f"{path} is no row of this table (a JSON table with {', '.join(keys)}); remove it to "
            "have it measured again"
        )
    return kept


def measure_row(
    checkpoint: Path, variant: Variant, folder: Path, evaluation: EvaluationOptions | None
) -> dict[str, Any]:
    """Return a row, from FOLDER where it stands there already."""
    stem = _file_name(variant)
    report, heard = folder / f"{stem}.json", folder / f"{stem}.heard.json"
    bundle = None
    is_evaluated = evaluation is not None and variant.engine == "cpu"
    if not report.is_file():
        bundle = export_variant(
            checkpoint, variant, folder, _donor(checkpoint, folder, is_evaluated)
        )
        shutil.copyfile(bundle / "export_report.json", report)
    row = {"name": variant.name, **read_kept(report, REPORT_KEYS)}
    if evaluation is not None and is_evaluated:
        if not heard.is_file():
            if bundle is None:
                donor = _donor(checkpoint, folder, is_evaluated)
                bundle = export_variant(checkpoint, variant, folder, donor)
            unfinished = folder / f"{stem}.part"
            run_program(bundle, evaluation, unfinished)
            unfinished.rename(heard)
        row["heard"] = read_kept(heard, HEARD_KEYS)["rows"]
    if bundle is not None:
        shutil.rmtree(bundle)
    return row


def _donor(checkpoint: Path, folder: Path, is_evaluated: bool) -> Path | None:
    """Return the bundle whose float32 codec the rows share; exported when it is first wanted."""
    out = folder / _file_name(CODEC_DONOR)
    if not out.is_dir():
        export_variant(checkpoint, CODEC_DONOR, folder, None)
    has_codec = (out / "codec").is_dir()
    if is_evaluated and not has_codec:
        raise ExportError(f"{checkpoint} has no codec, so nothing can be heard; leave --data out")
    return out if has_codec else None


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table; MB is the model without its codec."""
    heard = [row["heard"] for row in rows if "heard" in row]
    titles = [
        f"{title}, {voices}"
        for title in ([r[0] for r in heard[0] if r[0].startswith(HEARD)] if heard else [])
        for voices in ("known voices", "new voices")
    ]
    fixed = ("model", "MB", "text KL", "text equal", "speech KL", "speech equal")
    tags = ("end tags: same rank in the first ten", "gained or lost the first place")
    heads = [*fixed, *tags, *titles]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for row in rows:
        text, speech, ends = row["text"], row["speech"], row["end_tags"]
        cells = [
            row["name"],
            f"{sum(row['file_bytes'].values()) / 1e6:.2f}",
            *(f"{text['kl_mean']:.1e}", f"{100 * text['agreement']:.2f} %"),
            *(f"{speech['kl_mean']:.1e}", f"{100 * speech['agreement']:.2f} %"),
            *(f"{100 * ends['near']:.1f} %", f"{100 * ends['crossed']:.2f} %"),
        ]
        for title, *values in row.get("heard", ()):
            if title.startswith(HEARD):
                cells += values
        lines.append(f"| {' | '.join(cells + ['-'] * (len(heads) - len(cells)))} |")
    return "\n".join(lines)


def table_command(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint folder.")],
    folder: Annotated[Path, typer.Argument(help="Where rows are kept; table.md is written there.")],
    data: Annotated[Path | None, typer.Option(help="Corpus part `test` of the recipe.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Recordings put to each bundle.")] = 80,
    only: Annotated[
        list[str] | None, typer.Option(help="Names of rows (* and ? stand for any); repeatable.")
    ] = None,
    listen: Annotated[bool, typer.Option(help="Let whisper-base hear the spoken answers.")] = True,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the evaluation.")] = 2,
) -> None:
    """Measure the variants that are missing and print the table of all."""
    from ttt_export.source import open_checkpoint

    chosen = [
        v for v in variants() if not only or any(fnmatch.fnmatchcase(v.name, o) for o in only)
    ]
    if not chosen:
        raise ExportError(f"no row is called {' or '.join(only or [])}; see quality_variants.py")
    open_checkpoint(checkpoint)  # mistakes are reported before the first export
    evaluation = None if data is None else EvaluationOptions(data, limit, listen, threads)
    if evaluation is not None:
        evaluation.check()
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for variant in chosen:
        print(f"... {variant.name}", file=sys.stderr)
        rows.append(measure_row(checkpoint, variant, folder, evaluation))
    text = table(rows)
    write_whole(folder / "table.md", text + "\n")
    typer.echo(f"held against the checkpoint on {rows[0]['sequences']}")
    typer.echo(text)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
app.command()(table_command)


if __name__ == "__main__":
    run_app(app)
