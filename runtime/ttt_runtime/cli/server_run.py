"""What `ttt-server` does once its options are known."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ttt_ref.bounded import read_bytes
from ttt_ref.errors import ConfigError
from ttt_ref.package import install_command
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.cli.assistant_run import print_notes, shipped_or
from ttt_runtime.dialogue.assistant import Assistant
from ttt_runtime.server.options import Limits, ServerOptions

TOKEN_VARIABLE: Final = "TTT_SERVER_TOKEN"


@dataclass(frozen=True)
class Options:
    """The command line's options; see its help."""

    bundle: Path | None
    preset: str | None
    device: str
    threads: int | None
    host: str
    port: int
    wyoming_host: str
    wyoming_port: int | None
    token_file: Path | None
    allowed_hosts: tuple[str, ...]
    allowed_origins: tuple[str, ...]
    tls_cert: Path | None
    tls_key: Path | None
    sessions: int
    max_seconds: float
    verbose: bool

    def server_options(self) -> ServerOptions:
        """Return the server's options; the token is read now."""
        for path in (self.tls_cert, self.tls_key):
            if path is not None:
                path.stat()
        return ServerOptions(
            host=self.host,
            port=self.port,
            wyoming_host=self.wyoming_host,
            wyoming_port=self.wyoming_port,
            token=_token(self.token_file),
            allowed_hosts=self.allowed_hosts,
            allowed_origins=self.allowed_origins,
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
            limits=Limits(sessions=self.sessions, max_seconds=self.max_seconds),
        )


def run_server(options: Options) -> None:
    """Load the bundle and serve it until told to stop."""
    try:
        from ttt_runtime.server.run import make_state, serving
    except ImportError as error:
        raise ConfigError(
            f"the server needs {error.name}; run: {install_command('cpu', 'server')}"
        ) from None
    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=level)
    server_options = options.server_options()
    folder = shipped_or(options.bundle)
    name = Bundle.open(folder).config.name
    assistant = Assistant.from_bundle(
        folder, options.device, preset=options.preset, threads=options.threads, interleaved=True
    )
    print_notes(assistant)
    state = make_state(assistant, name, server_options)

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        async with serving(state):
            scheme = "http" if options.tls_cert is None else "https"
            print(f"{name}: {scheme}://{_shown(options.host)}:{state.port}/", flush=True)
            if state.wyoming_port is not None:
                where = f"tcp://{_shown(options.wyoming_host)}:{state.wyoming_port}"
                print(f"Wyoming: {where}", flush=True)
            await stop.wait()
        print("stopped", file=sys.stderr)

    asyncio.run(serve())


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _token(file: Path | None) -> str | None:
    if file is not None:
        token = read_bytes(file, 1 << 16, ConfigError).decode(errors="replace").strip()
        if not token:
            raise ConfigError(f"the token file {file} is empty; put some random letters into it")
        return token
    return os.environ.get(TOKEN_VARIABLE, "").strip() or None
