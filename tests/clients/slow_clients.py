"""How the slow clients are installed and run; each program lies in tests/clients/slow."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.clients.environments import (
    HERE,
    Served,
    node,
    python,
    raw_question,
    run,
    wav_question,
)

SLOW: Final = HERE / "slow"
SOUND: Final = ("soundfile", "soxr", "numpy")
NEED_TLS: Final = ("openai-js",)
HOME_ASSISTANT: Final = (
    "homeassistant==2024.3.3",
    "wyoming==1.5.3",
    "hassil==1.6.1",
    "home-assistant-intents==2024.3.12",
    "aiohttp_cors==0.7.0",
    "aiohttp-fast-url-dispatcher==0.3.0",
    "aiohttp-zlib-ng==0.3.1",
    "mutagen==1.47.0",
    "ha-ffmpeg==3.2.0",
)


def certificate(folder: Path) -> list[str]:
    """Make a certificate for localhost; return the server's options for it."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(cert)]
    subprocess.run([*make, *names, *files], check=True, capture_output=True)
    return ["--tls-cert", str(cert), "--tls-key", str(key)]


def agents_python(served: Served) -> None:
    env = python("agents-python", "openai-agents>=0.24,<0.25", "websockets", *SOUND)
    run(env, SLOW / "agents_python.py", served.url, raw_question(served))


def pipecat(served: Served) -> None:
    env = python("pipecat", "pipecat-ai[openai,websocket]>=1.14,<2", *SOUND)
    run(env, SLOW / "pipecat_client.py", served.url, raw_question(served))


def livekit(served: Served) -> None:
    env = python("livekit", "livekit-plugins-openai==1.8.9", *SOUND)
    run(env, SLOW / "livekit_client.py", served.url, raw_question(served))


def home_assistant(served: Served) -> None:
    env = python("homeassistant", *HOME_ASSISTANT)
    run(env, SLOW / "home_assistant.py", served.wyoming, wav_question(served))


def openai_js(served: Served) -> None:
    folder = node("openai-js", "openai@^7", "ws")
    program = folder / "openai_realtime_ws.mjs"  # beside its modules
    shutil.copy(SLOW / program.name, program)
    trusted = {"NODE_EXTRA_CA_CERTS": str(served.folder / "cert.pem")}
    url = served.url.replace("127.0.0.1", "localhost")
    run("node", program, url, raw_question(served), env=trusted)


CLIENTS: Final[dict[str, Callable[[Served], None]]] = {
    "agents-python": agents_python,
    "homeassistant": home_assistant,
    "livekit": livekit,
    "openai-js": openai_js,
    "pipecat": pipecat,
}
