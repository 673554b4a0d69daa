"""What all connections of one server share."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic, time
from typing import Any

from ttt_runtime.server.limits import BucketPerClient
from ttt_runtime.server.metrics import Metrics
from ttt_runtime.server.options import ServerOptions
from ttt_runtime.server.security import Guard
from ttt_runtime.server.service import EngineService


@dataclass
class ServerState:
    """One server.

    Attributes:
        model_name: the bundle's.
        guard: who may talk to it.
        sessions: Realtime sessions now.
        ready: the warm-up answer was computed.
        port, wyoming_port: where it listens, once it does.
    """

    options: ServerOptions
    service: EngineService
    metrics: Metrics
    model_name: str
    guard: Guard
    sessions: int = 0
    wyoming_connections: int = 0
    ready: bool = False
    port: int | None = None
    wyoming_port: int | None = None
    created: int = field(default_factory=lambda: int(time()))
    started_at: float = field(default_factory=monotonic)

    def __post_init__(self) -> None:
        """Set up what is counted."""
        per_second = self.options.limits.requests_per_second
        self.requests = BucketPerClient(per_second, max(4 * per_second, 1.0))
        gauge = self.metrics.gauge
        gauge("ttt_sessions", "Realtime sessions now.", lambda: self.sessions)
        gauge("ttt_wyoming_connections", "Wyoming connections.", lambda: self.wyoming_connections)
        gauge("ttt_waiting_turns", "Turns not finished yet.", lambda: self.service.waiting)
        gauge("ttt_uptime_seconds", "Since the start.", lambda: monotonic() - self.started_at)

    def profile(self) -> dict[str, Any]:
        """Return the running profile as JSON."""
        return {
            "model": self.model_name,
            "runs_in": self.service.assistant.engine.runner.runs_in,
            "sessions": self.sessions,
            "waiting_turns": self.service.waiting,
            **self.metrics.running.to_dict(),
        }
