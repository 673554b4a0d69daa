"""Home Assistant's own Wyoming classes, without a whole Home Assistant.

python tests/clients/slow/home_assistant.py 127.0.0.1:10300 QUESTION_16K.wav
"""

from __future__ import annotations

import asyncio
import io
import sys
import wave
from collections.abc import AsyncIterator
from types import SimpleNamespace

from homeassistant.components import stt
from homeassistant.components.wyoming.data import WyomingService, load_wyoming_info
from homeassistant.components.wyoming.stt import WyomingSttProvider
from homeassistant.components.wyoming.tts import WyomingTtsProvider


async def chunks(file: str) -> AsyncIterator[bytes]:
    with wave.open(file) as sound:
        assert sound.getframerate() == 16000
        while data := sound.readframes(1024):
            yield data


async def main() -> None:
    host, _, port = sys.argv[1].rpartition(":")
    info = await load_wyoming_info(host, int(port))
    assert info is not None
    service = WyomingService(host, int(port), info)
    assert service.has_services()
    assert {platform.value for platform in service.platforms} == {"stt", "tts"}
    entry = SimpleNamespace(entry_id="test")
    ears = WyomingSttProvider(entry, service)
    metadata = stt.SpeechMetadata(
        language=ears.supported_languages[0],
        format=stt.AudioFormats.WAV,
        codec=stt.AudioCodecs.PCM,
        bit_rate=stt.AudioBitRates.BITRATE_16,
        sample_rate=stt.AudioSampleRates.SAMPLERATE_16000,
        channel=stt.AudioChannels.CHANNEL_MONO,
    )
    for _ in range(2):
        heard = await ears.async_process_audio_stream(metadata, chunks(sys.argv[2]))
        assert heard.result is stt.SpeechResultState.SUCCESS, heard
        assert heard.text == "tell me the capital of france", heard
    voice = WyomingTtsProvider(entry, service)
    kind, data = await voice.async_get_tts_audio("good morning", voice.default_language, {})
    assert kind == "wav"
    with wave.open(io.BytesIO(data)) as sound:
        assert sound.getnframes() / sound.getframerate() > 0.5
    print("Home Assistant: finds the services, two transcripts, speech")


asyncio.run(main())
