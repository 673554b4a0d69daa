"""How the slow clients are installed and run; each program lies in tests/clients/slow."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import soundfile
import soxr

from benchmarks.live import room
from tests.clients.environments import (
    HERE,
    QUESTION,
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


def speech_to_speech(served: Served) -> None:
    """Their terminal client with a microphone and a loudspeaker of PulseAudio, two questions."""
    folder = python("speech-to-speech", "openai[realtime]>=3,<4", "jsonschema", "rich",
                    "sounddevice", "scipy", *SOUND).parent  # fmt: skip
    program = folder / "speech-to-speech"
    if not program.is_file():
        pip = [str(folder / "pip"), "install", "--quiet", "--no-deps", "speech-to-speech>=1.1,<2"]
        subprocess.run(pip, check=True)
    audio, rate = soundfile.read(QUESTION, dtype="float32")
    clip = soxr.resample(audio, rate, room.RATE_HZ).astype("float32")
    with room.Room(echo=False) as place, room.Recorder(place) as recorder:
        command = [str(program), "talk", "--print-json"]
        command += ["--url", served.url.replace("http", "ws") + "/v1/realtime"]
        log = served.folder / "talk.log"
        with (
            log.open("w") as output,
            subprocess.Popen(
                command, env=place.env, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            ) as process,
        ):
            try:
                time.sleep(6.0)
                for number in (1, 2):
                    begin = recorder.samples
                    place.play(clip)
                    ends_at = time.monotonic() + 20
                    while log.read_text().count("response.done") < number:
                        if process.poll() is not None or time.monotonic() > ends_at:
                            raise OSError(f"turn {number}: {log.read_text()[-1500:]}")
                        time.sleep(0.1)
                    time.sleep(2.5)
                    heard = abs(recorder.audio(begin)[:, 0]).max()
                    if heard < 0.01:
                        raise OSError(f"turn {number}: the loudspeaker was silent ({heard})")
            finally:
                process.terminate()
    print("speech-to-speech talk: two questions from the microphone, answers at the loudspeaker")


CLIENTS: Final[dict[str, Callable[[Served], None]]] = {
    "agents-python": agents_python,
    "homeassistant": home_assistant,
    "livekit": livekit,
    "openai-js": openai_js,
    "pipecat": pipecat,
    "speech-to-speech": speech_to_speech,
}
