"""A Realtime session's settings: the object that clients see, and what this server reads of it.

An update is merged deeply; keys that this server does not know are kept and given back.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any, Final

from ttt_runtime.server.audio_formats import PCM_RATE_HZ, StreamFormat
from ttt_runtime.server.errors import ApiError

MOST_BYTES: Final = 64 * 1024
_VAD: Final = {
    "server_vad": {
        "type": "server_vad",
        "threshold": 0.5,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
        "idle_timeout_ms": None,
        "create_response": True,
        "interrupt_response": True,
    },
    "semantic_vad": {
        "type": "semantic_vad",
        "eagerness": "auto",
        "create_response": True,
        "interrupt_response": True,
    },
}
EAGERNESS: Final = ("low", "medium", "high", "auto")
# Values of the session that the server states and clients cannot change.
_FIXED: Final = ("id", "object", "expires_at", "model")


@dataclass(frozen=True, slots=True)
class TurnDetection:
    """When a turn begins and ends by itself."""

    semantic: bool
    threshold: float
    prefix_ms: int
    silence_ms: int
    eagerness: str
    idle_timeout_ms: int | None
    create_response: bool
    interrupt_response: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """One state of a session.

    Attributes:
        session: the object that clients see.
        input_format, output_format: raw sound in and out.
        turn_detection: None for turns that the client ends.
        speaks: the answer has sound.
        transcribes: the user's speech is written down.
        only_transcribes: no answers at all.
        tells_timing: an event with the turn's phases follows each response.
    """

    session: dict[str, Any]
    input_format: StreamFormat
    output_format: StreamFormat
    turn_detection: TurnDetection | None
    speaks: bool
    transcribes: bool
    only_transcribes: bool
    tells_timing: bool

    @classmethod
    def default(cls, session_id: str, model: str, *, only_transcribes: bool = False) -> Settings:
        """Return what a session begins with."""
        pcm = {"type": "audio/pcm", "rate": PCM_RATE_HZ}
        session: dict[str, Any] = {
            "type": "transcription" if only_transcribes else "realtime",
            "object": "realtime.session",
            "id": session_id,
            "model": model,
            "expires_at": 0,
            "output_modalities": ["audio"],
            "instructions": "",
            "tools": [],
            "tool_choice": "auto",
            "max_output_tokens": "inf",
            "tracing": None,
            "truncation": "auto",
            "prompt": None,
            "include": None,
            "audio": {
                "input": {
                    "format": dict(pcm),
                    "transcription": {"model": model},
                    "noise_reduction": None,
                    "turn_detection": dict(_VAD["server_vad"]),
                },
                "output": {"format": dict(pcm), "voice": "default", "speed": 1.0},
            },
        }
        return cls.of(session)

    @classmethod
    def of(cls, session: dict[str, Any]) -> Settings:
        """Read a session's object.

        Raises:
            ApiError: a value that cannot be.
        """
        audio = _table(session, "audio", "session.audio")
        source = _table(audio, "input", "session.audio.input")
        target = _table(audio, "output", "session.audio.output")
        modalities = session.get("output_modalities")
        if modalities not in (["audio"], ["text"], ["audio", "text"], ["text", "audio"]):
            raise ApiError(
                f"session.output_modalities is {modalities!r:.60}; expected ['audio'] or ['text']",
                param="session.output_modalities",
            )
        kind = session.get("type")
        if kind not in ("realtime", "transcription"):
            raise ApiError(
                f"session.type is {kind!r:.60}; expected realtime or transcription",
                param="session.type",
            )
        include = session.get("include")
        return cls(
            session,
            StreamFormat.parse(source.get("format"), "session.audio.input.format"),
            StreamFormat.parse(target.get("format"), "session.audio.output.format"),
            _turn_detection(source.get("turn_detection")),
            speaks="audio" in modalities,
            transcribes=source.get("transcription") is not None or kind == "transcription",
            only_transcribes=kind == "transcription",
            tells_timing=isinstance(include, list) and "ttt.timing" in include,
        )

    def updated(self, patch: Any) -> Settings:
        """Return the settings after a `session.update`.

        Raises:
            ApiError: a value that cannot be; nothing changes then.
        """
        if not isinstance(patch, dict):
            raise ApiError(f"session is {patch!r:.60}; expected an object", param="session")
        patch = {key: value for key, value in patch.items() if key not in _FIXED}
        session = _merged(self.session, patch)
        source = session.get("audio", {}) if isinstance(session.get("audio"), dict) else {}
        source = source.get("input")
        if isinstance(source, dict):
            source["turn_detection"] = _with_defaults(source.get("turn_detection"))
        result = Settings.of(session)
        size = len(json.dumps(session))
        if size > MOST_BYTES:
            raise ApiError(f"the session would take {size} bytes; at most {MOST_BYTES} are kept")
        return result


def _table(parent: dict[str, Any], key: str, param: str) -> dict[str, Any]:
    value = parent.get(key)
    if not isinstance(value, dict):
        raise ApiError(f"{param} is {value!r:.60}; expected an object", param=param)
    return value


def _merged(old: Any, new: Any, depth: int = 0) -> Any:
    if not (isinstance(old, dict) and isinstance(new, dict)) or depth > 8:
        return copy.deepcopy(new)
    result = dict(old)
    for key, value in new.items():
        # A format is stated whole; turn detection of another kind has other fields.
        other_kind = key == "turn_detection" and _kind(old.get(key)) != _kind(value)
        other_kind = other_kind or key == "format"
        before = None if other_kind else old.get(key)
        result[key] = _merged(before, value, depth + 1)
    return result


def _kind(value: Any) -> Any:
    """Return the kind of turn detection; an update without one keeps it."""
    return value.get("type", "server_vad") if isinstance(value, dict) else None


def _with_defaults(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    kind = value.get("type", "server_vad")
    return (_VAD[kind] | value) if isinstance(kind, str) and kind in _VAD else value


def _turn_detection(value: Any) -> TurnDetection | None:
    if value is None:
        return None
    where = "session.audio.input.turn_detection"
    if not isinstance(value, dict) or value.get("type") not in _VAD:
        raise ApiError(
            f"{where} is {value!r:.80}; expected null, server_vad or semantic_vad", param=where
        )
    value = _VAD[value["type"]] | value
    eagerness = value.get("eagerness", "auto")
    if eagerness not in EAGERNESS:
        raise ApiError(
            f"{where}.eagerness is {eagerness!r:.60}; expected one of {', '.join(EAGERNESS)}",
            param=where,
        )

    def number(name: str, default: float, most: float) -> float:
        given = value.get(name, default)
        valid = isinstance(given, int | float) and not isinstance(given, bool)
        if not valid or not 0 <= given <= most:
            raise ApiError(
                f"{where}.{name} is {given!r:.60}; expected a number from 0 to {most}", param=where
            )
        return float(given)

    idle = value.get("idle_timeout_ms")
    return TurnDetection(
        semantic=value["type"] == "semantic_vad",
        threshold=min(max(number("threshold", 0.5, 1.0), 0.05), 0.95),
        prefix_ms=int(number("prefix_padding_ms", 300, 2000)),
        silence_ms=int(number("silence_duration_ms", 500, 10_000)),
        eagerness=eagerness,
        idle_timeout_ms=None if idle is None else int(number("idle_timeout_ms", 0, 600_000)),
        create_response=value.get("create_response") is not False,
        interrupt_response=value.get("interrupt_response") is not False,
    )
