"""ttt-server: one model for every client that speaks the usual protocols."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ttt_ref.command_line import run_app

app = typer.Typer(
    name="ttt-server",
    help="Serve a bundle: a web page, OpenAI's HTTP and Realtime API, Wyoming. All offline.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def serve(
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle folder; default: the one shipped inside.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; others need a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8017,
    wyoming_port: Annotated[
        int, typer.Option(min=-1, max=65535, help="Port of Wyoming; -1: no Wyoming.")
    ] = 10300,
    wyoming_host: Annotated[
        str,
        typer.Option(help="Address for Wyoming, which knows no tokens: for networks you trust."),
    ] = "127.0.0.1",
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the token that clients must send; or TTT_SERVER_TOKEN."),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Another name of this server; repeatable.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Origin of pages that may use it; repeatable.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Generation preset; default: the bundle's first.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, tensorrt or rtx, as for ttt-assistant.")
    ] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: all.")] = None,
    sessions: Annotated[int, typer.Option(min=1, help="Realtime sessions at a time.")] = 32,
    max_seconds: Annotated[
        float, typer.Option(min=1, max=600, help="Longest recording or turn.")
    ] = 60.0,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log more.")] = False,
) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    from ttt_runtime.cli.server_run import Options, run_server

    run_server(
        Options(
            bundle=bundle,
            preset=preset,
            device=device,
            threads=threads,
            host=host,
            port=port,
            wyoming_host=wyoming_host,
            wyoming_port=None if wyoming_port < 0 else wyoming_port,
            token_file=token_file,
            allowed_hosts=tuple(allow_host or ()),
            allowed_origins=tuple(allow_origin or ()),
            tls_cert=tls_cert,
            tls_key=tls_key,
            sessions=sessions,
            max_seconds=max_seconds,
            verbose=verbose,
        )
    )


def main() -> None:
    """Run `ttt-server` as a program."""
    # Graphs keep a pool each: the codec's run beside the engine's, in another thread.
    run_app(app)
