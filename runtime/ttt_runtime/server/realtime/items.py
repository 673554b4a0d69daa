"""Items that a client puts into the conversation itself."""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

import numpy as np

from ttt_runtime.server.audio_formats import InputAudio, StreamFormat
from ttt_runtime.server.conversation import Item
from ttt_runtime.server.errors import ApiError
from ttt_runtime.server.ids import new_id
from ttt_runtime.server.listening import Utterance, Utterances
from ttt_runtime.server.service import EngineService

_ROLES: Final = ("user", "assistant", "system")
_TEXTS: Final = ("input_text", "output_text", "text")
_LONGEST_ID: Final = 128
_MOST_PARTS: Final = 64


async def read_item(
    value: Any, service: EngineService, input_format: StreamFormat, max_seconds: float
) -> Item:
    """Return an item from the API's form; sound in it is encoded.

    Messages of the system, and calls of tools, are kept and not read: the model has learnt one
    system text for each task.

    Raises:
        ApiError: it is no item, or its sound or text cannot be used.
    """
    if not isinstance(value, dict):
        raise ApiError(f"item is {value!r:.60}; expected an object", param="item")
    item_id = value.get("id") or new_id("item")
    if not isinstance(item_id, str) or len(item_id) > _LONGEST_ID:
        raise ApiError(f"item.id must be a text of at most {_LONGEST_ID} characters")
    kind = value.get("type", "message")
    if kind != "message":
        if not isinstance(kind, str):
            raise ApiError(f"item.type is {kind!r:.60}; expected a text", param="item.type")
        extra = {k: v for k, v in value.items() if k not in ("id", "type", "object", "status")}
        return Item(item_id, "", [], type=kind, extra=extra)
    role, parts = value.get("role"), value.get("content")
    if role not in _ROLES:
        raise ApiError(
            f"item.role is {role!r:.60}; expected one of {', '.join(_ROLES)}", param="item.role"
        )
    if not isinstance(parts, list) or len(parts) > _MOST_PARTS:
        raise ApiError(
            f"item.content must be a list of at most {_MOST_PARTS} parts", param="item.content"
        )
    item = Item(item_id, str(role), [])
    for part in parts:
        await _read_part(part, item, service, input_format, max_seconds)
    item.typed = all("text" in part for part in item.content)
    if item.is_answer and item.ids:
        item.ids.append(service.assistant.prompts.layout.im_end_id)
        item.finished = True
    return item


async def _read_part(
    part: Any, item: Item, service: EngineService, input_format: StreamFormat, max_seconds: float
) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in _TEXTS or kind == "output_audio":
        text = part.get("text" if kind in _TEXTS else "transcript") or ""
        if not isinstance(text, str):
            raise ApiError(f"the text of a part is {text!r:.60}", param="item.content")
        item.content.append({"type": kind, ("text" if kind in _TEXTS else "transcript"): text})
        if item.role != "system":
            item.ids += service.assistant.prompts.encode_plain(text)
    elif kind == "input_audio":
        utterance = await encode(part.get("audio"), service, input_format, max_seconds)
        item.content.append({"type": "input_audio", "transcript": part.get("transcript")})
        if utterance.codes:
            item.ids += service.assistant.prompts.speech(utterance.codes)
    elif kind == "input_image":
        raise ApiError("this model has no eyes: leave out input_image", param="item.content")
    else:
        raise ApiError(f"unknown part {kind!r:.60} of an item", param="item.content")


async def encode(
    audio: Any, service: EngineService, input_format: StreamFormat, max_seconds: float
) -> Utterance:
    """Return what is said in sound of an item, base64 of raw samples.

    Raises:
        ApiError: not base64, or longer than is accepted.
    """
    tokenizer = service.assistant.tokenizer
    assert tokenizer is not None
    try:
        data = base64.b64decode(audio if isinstance(audio, str) else "*", validate=True)
    except (ValueError, binascii.Error):
        raise ApiError("input_audio must be raw samples in base64", param="item.content") from None
    source = InputAudio(input_format, tokenizer.sample_rate_hz)
    samples = np.concatenate([source.push(data), source.finish()])
    utterances = Utterances(tokenizer, max_seconds)

    def work() -> Utterance:
        utterances.push(samples)
        if utterances.is_full:
            raise ApiError(f"input_audio is longer than {max_seconds:g} s", param="item.content")
        return utterances.take()

    return await service.hear(work)
