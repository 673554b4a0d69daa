"""The options of `ttt-server`, and their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ttt_ref.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client, and all of them together, may ask for.

    Attributes:
        sessions: Realtime sessions at the same time.
        connections: TCP connections at the same time.
        wyoming_connections: those of Wyoming.
        waiting_turns: turns that may wait for the engine before new ones are refused.
        requests_per_second: HTTP requests of one address on average; 0 allows all.
        messages_per_second: messages of one WebSocket on average; more are read later.
        flood_seconds: who sends more than that for so long is cut off.
        message_bytes: longest WebSocket message.
        upload_bytes: longest request body.
        unsent_bytes: what may wait for a client that does not read before it is cut off.
        max_seconds: longest recording and longest turn.
        text_characters: longest text to speak.
        header_seconds: time to send the head of a request, and from body piece to body piece.
        unread_seconds: an HTTP answer of which nothing is read for so long is given up.
        idle_seconds: a Realtime or Wyoming connection that says nothing is closed, at the latest
            after twice this.
    """

    sessions: int = 32
    connections: int = 256
    wyoming_connections: int = 32
    waiting_turns: int = 64
    requests_per_second: float = 50.0
    messages_per_second: float = 1000.0
    flood_seconds: float = 10.0
    message_bytes: int = 4 << 20
    upload_bytes: int = 25 << 20
    unsent_bytes: int = 8 << 20
    max_seconds: float = 60.0
    text_characters: int = 2000
    header_seconds: float = 10.0
    unread_seconds: float = 60.0
    idle_seconds: float = 1800.0

    def __post_init__(self) -> None:
        """Refuse limits that let nobody in."""
        for name in self.__slots__:
            value = getattr(self, name)
            if not value > 0 and not (name == "requests_per_second" and value == 0):
                raise ConfigError(f"the limit {name} is {value}; expected a number above 0")


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where the server listens and whom it lets in."""

    host: str = "127.0.0.1"
    port: int = 8017
    wyoming_port: int | None = 10300
    wyoming_host: str = "127.0.0.1"
    token: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Refuse half a pair of TLS files."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("--tls-cert and --tls-key go together; give both or neither")
