"""ttt-export: a checkpoint becomes a validated, measured bundle."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ttt_quant.recipe import ENGINES, PRECISIONS
from ttt_ref.command_line import run_app
from ttt_ref.outputs import write_whole
from ttt_runtime.machine.targets import STANDARD, TARGETS, Choice, choose, find_target

if TYPE_CHECKING:
    from ttt_export.export import ExportResult
    from ttt_export.options import ExportOptions

Model = Annotated[
    str, typer.Option("--model", "-m", help="Checkpoint folder, or a hub name (org/name).")
]
Out = Annotated[Path, typer.Argument(help="Bundle folder to write.", show_default=False)]
TargetName = Annotated[
    str | None,
    typer.Option(
        "--target",
        help=f"Machine that it is for: {', '.join(TARGETS)}. Chooses what -p, -e and --form leave "
        "open, and refuses what cannot run there.",
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision", "-p", help=f"{', '.join(PRECISIONS)}: how weights are stored (default fp32)."
    ),
]
Engine = Annotated[
    str | None,
    typer.Option("--engine", "-e", help=f"{', '.join(ENGINES)}: what will run it (default cpu)."),
]
Recipe = Annotated[
    Path | None, typer.Option(help="Recipe file (TOML) instead of the precision's own.")
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub name.")]
LocalFilesOnly = Annotated[
    bool, typer.Option("--local-files-only", help="Use downloaded files only; never the network.")
]
Adapter = Annotated[Path | None, typer.Option(help="Folder of a PEFT LoRA adapter to merge in.")]
Sequences = Annotated[
    Path | None,
    typer.Option(help='Token sequences for calibration and the report: JSON lines, {"ids": [..]}.'),
]
MaxKl = Annotated[
    float | None, typer.Option(min=0, help="Gate: largest mean KL divergence from the checkpoint.")
]
MinAgreement = Annotated[
    float | None, typer.Option(min=0, max=1, help="Gate: smallest share of equal choices.")
]
PromptsFile = Annotated[
    Path | None,
    typer.Option("--prompts", help="System texts of the tasks (TOML or JSON) in place of its own."),
]
CacheRows = Annotated[
    int | None, typer.Option(min=1, help="Cache length of tensorrt and rtx (default 4096).")
]
CacheType = Annotated[
    str | None, typer.Option(help="K/V cache in fp16 or int8 (cpu, cuda); default: as computed.")
]
BlockBody = Annotated[
    str | None,
    typer.Option(help="A second decoder in int8 for blocks and prefill (cpu, int8 and int4)."),
]
Form = Annotated[
    str | None,
    typer.Option(
        help="standard, or basic: operators that TensorRT before 10.15 and onnxruntime before "
        "1.31 know."
    ),
]
SpeechTokenizer = Annotated[
    str | None, typer.Option(help="Folder or hub name of the GLM-4-Voice speech tokenizer.")
]
SpeechDecoder = Annotated[
    str | None, typer.Option(help="Folder or hub name of the GLM-4-Voice speech decoder.")
]
CodecFrom = Annotated[
    Path | None, typer.Option(help="Take the codec of this bundle instead of exporting one.")
]
Engines = Annotated[
    bool,
    typer.Option(
        "--engines/--no-engines",
        help="Build the engines of tensorrt and rtx here; without, ttt-engines does on the device.",
    ),
]
Report = Annotated[
    Path | None, typer.Option(help="Also write the quality report to this JSON file.")
]
Evaluate = Annotated[
    Path | None,
    typer.Option(
        help="Put these recordings (corpus part `test` of the shipped model's recipe) to the "
        "finished bundle: answers right and word error rate go into the report."
    ),
]
EvaluateLimit = Annotated[int, typer.Option(min=1, help="How many of the recordings are put.")]
EvaluateListen = Annotated[
    bool, typer.Option(help="Let whisper-base hear the spoken answers (extra `recipe`).")
]
EvaluateWith = Annotated[
    str | None, typer.Option(help="Another evaluation program; see docs/export.md for its form.")
]
# Names of the release before; hidden, for scripts that still say them.
OldAsk = Annotated[Path | None, typer.Option("--ask", hidden=True)]
OldAskLimit = Annotated[int | None, typer.Option("--ask-limit", min=1, hidden=True)]
OldAskListen = Annotated[bool | None, typer.Option("--ask-listen/--no-ask-listen", hidden=True)]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the sequences drawn for the checks.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")]
PlanMemory = Annotated[
    bool, typer.Option("--plan-memory", help="Say what the export would take, and stop.")
]


def _command(
    out: Out,
    model: Model,
    target: TargetName = None,
    precision: Precision = None,
    engine: Engine = None,
    recipe: Recipe = None,
    revision: Revision = None,
    local_files_only: LocalFilesOnly = False,
    adapter: Adapter = None,
    prompts: PromptsFile = None,
    sequences: Sequences = None,
    max_kl: MaxKl = None,
    min_agreement: MinAgreement = None,
    cache_rows: CacheRows = None,
    cache_type: CacheType = None,
    block_body: BlockBody = None,
    form: Form = None,
    speech_tokenizer: SpeechTokenizer = None,
    speech_decoder: SpeechDecoder = None,
    codec_from: CodecFrom = None,
    engines: Engines = True,
    report: Report = None,
    evaluate: Evaluate = None,
    evaluate_limit: EvaluateLimit = 80,
    evaluate_listen: EvaluateListen = True,
    evaluate_with: EvaluateWith = None,
    ask: OldAsk = None,
    ask_limit: OldAskLimit = None,
    ask_listen: OldAskListen = None,
    seed: Seed = 0,
    force: Force = False,
    plan_memory: PlanMemory = False,
) -> None:
    """Export a Text-to-Talk checkpoint to a bundle.

    The bundle appears only when its graphs give the checkpoint's numbers (validation) and its
    choices (gates). The quality report is printed and stored in the bundle.
    """
    # Heavy imports stay in here: --help and a wrong option should not wait for torch.
    from ttt_export.evaluation import RECIPE_EVALUATION, EvaluationOptions
    from ttt_export.options import ExportOptions

    recordings = evaluate or ask
    evaluation = None
    if recordings is not None:
        evaluation = EvaluationOptions(
            recordings,
            ask_limit or evaluate_limit,
            evaluate_listen if ask_listen is None else ask_listen,
            program=evaluate_with or RECIPE_EVALUATION,
        )
    if target is None:
        choice = Choice(precision or "fp32", engine or "cpu", form or STANDARD)
    else:
        choice = choose(find_target(target), precision, engine, form)
    options = ExportOptions(
        precision=choice.precision,
        engine=choice.engine,
        recipe=recipe,
        adapter=adapter,
        max_kl=max_kl,
        min_agreement=min_agreement,
        cache_rows=cache_rows,
        cache=cache_type,
        block_body=block_body,
        form=choice.form,
        target=target,
        prompts=prompts,
        sequences=sequences,
        speech_tokenizer=None if speech_tokenizer is None else Path(speech_tokenizer),
        speech_decoder=None if speech_decoder is None else Path(speech_decoder),
        codec_from=codec_from,
        evaluation=evaluation,
        seed=seed,
        force=force,
        engines=engines,
    )
    _run(options, model, out, revision, local_files_only, report, plan_memory)


def _run(
    options: ExportOptions,
    model: str,
    out: Path,
    revision: str | None,
    local_files_only: bool,
    report: Path | None,
    plan_memory: bool,
) -> None:
    from ttt_export.codec_export import find_codec
    from ttt_export.export import export_checkpoint, report_json
    from ttt_export.memory_plan import check_memory, plan_export
    from ttt_export.source import find_checkpoint, open_checkpoint
    from ttt_quant.report import GateError

    recipe = options.resolve_recipe()  # a wrong pair is refused before anything is downloaded
    options.check_evaluation()
    if not Path(model).exists():
        options = replace(options, hub_name=model)
    folder = find_checkpoint(model, revision=revision, local_files_only=local_files_only)
    if plan_memory:
        plan = plan_export(open_checkpoint(folder, options.adapter), recipe)
        typer.echo("\n".join(plan.lines()))
        check_memory(plan)
        return
    options = replace(
        options,
        speech_tokenizer=find_codec(options.speech_tokenizer, local_files_only),
        speech_decoder=find_codec(options.speech_decoder, local_files_only),
    )
    try:
        result = export_checkpoint(folder, out, options=options, progress=_say)
    except GateError as error:
        print(error.report.table(), file=sys.stderr)
        if report is not None:
            write_whole(report, report_json(error.report))
        raise
    if report is not None:
        write_whole(report, report_json(result.report))
    _summary(replace(result, path=out))


def _say(stage: str) -> None:
    print(f"... {stage}", file=sys.stderr)


def _summary(result: ExportResult) -> None:
    worst = max(
        (check for check in result.checks if check.tolerance > 0),
        key=lambda check: check.max_diff / check.tolerance,
    )
    typer.echo(result.report.table())
    typer.echo(f"validation: {len(result.checks)} checks passed; closest: {worst.line()}")
    typer.echo(f"bundle: {os.fspath(result.path)}")


app = typer.Typer(
    name="ttt-export", add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True
)
app.command()(_command)


def main() -> None:
    """Run `ttt-export`."""
    run_app(app)


if __name__ == "__main__":
    main()
