"""The `ttt-prepare` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttt_ref.command_line import run_app
from ttt_ref.errors import exit_on_error

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def command(
    corpus: Annotated[Path, typer.Argument(help="Folder with recordings and their transcripts.")],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="Checkpoint that is to be trained.")],
    codec: Annotated[
        Path,
        typer.Option(help="Folder of the speech tokenizer: GLM-4-Voice's, or a checkpoint's own."),
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(help="answer, transcribe, speak or text; repeatable. Default: transcribe."),
    ] = None,
    ratio: Annotated[str, typer.Option(help="Text tokens and codes of the interleave.")] = "13:26",
    system: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK=TEXT", help="System text in place of the checkpoint's."),
    ] = None,
    held_out: Annotated[float, typer.Option(help="Share of the speakers kept for dev files.")] = (
        0.05
    ),
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Name, count and pass over bad recordings.")
    ] = False,
    max_seconds: Annotated[float, typer.Option(min=0.1, help="Longest recording.")] = 60.0,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing folder.")] = False,
) -> None:
    """Turn recordings with transcripts into training data.

    Knows folders with metadata.csv or metadata.jsonl, LJSpeech, Common Voice and parquet. What was
    encoded is kept: after a stop, the same command goes on.
    """
    with exit_on_error():
        # Imported late: --help and a wrong option should not wait for torch.
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        from ttt_ref.errors import ConfigError
        from ttt_ref.prepare.records import Ratio
        from ttt_ref.prepare.run import PrepareOptions, prepare

        texts = {}
        for words in system or ():
            name, equals, text = words.partition("=")
            if not equals:
                raise ConfigError(f"--system is {words!r}; expected TASK=TEXT")
            texts[name] = text
        options = PrepareOptions(
            corpus,
            model,
            codec,
            out,
            tasks=tuple(dict.fromkeys(task or ("transcribe",))),
            ratio=Ratio.parse(ratio),
            system=texts,
            held_out=held_out,
            workers=workers,
            skip_bad=skip_bad,
            max_seconds=max_seconds,
            overwrite=force,
        )
        console = Console(stderr=True)
        columns = (TextColumn("encoding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            shown = bar.add_task("", total=None)
            result = prepare(
                options, lambda done, total: bar.update(shown, completed=done, total=total)
            )
        for line in result.bad:
            typer.echo(f"passed over: {line}", err=True)
        typer.echo(
            f"{out}: {result.recordings} recordings ({result.layout}), "
            f"{len(result.bad)} passed over"
        )
        for file, count in result.files.items():
            typer.echo(f"  {file}: {count} records")


def main() -> None:
    """Entry point of the console script."""
    run_app(app)


if __name__ == "__main__":
    main()
