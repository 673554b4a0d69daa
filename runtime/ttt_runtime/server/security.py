"""Who may talk to this server: the Host and Origin of a request, and its token.

Any page in a browser can reach 127.0.0.1, and can make its own name point there. So a name that is
not this machine's is refused (an address cannot be made to point elsewhere), and so is a page that
did not come from this server.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from ttt_ref.errors import ConfigError
from ttt_runtime.server.errors import ApiError

# Browsers cannot set headers of a WebSocket; clients for them send the token as a subprotocol.
TOKEN_PROTOCOL: Final = "openai-insecure-api-key."
# What anybody may read: the page itself holds nothing, and health is for supervisors.
PUBLIC: Final = frozenset({"/", "/profile", "/health", "/health/ready"})
PUBLIC_FOLDER: Final = "/page/"
_DEFAULT_PORTS: Final = {"http": 80, "ws": 80, "https": 443, "wss": 443}


def is_loopback(host: str) -> bool:
    """Tell whether a server bound to this host is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Guard:
    """The rules of one server.

    Args:
        host: address that it is bound to.
        token: what a client must send; None lets everybody on this machine in.
        hosts: further names by which it is reached.
        origins: further origins of pages that may use it.
    """

    host: str = "127.0.0.1"
    token: str | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    _names: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a server that everybody on the network could use."""
        if self.token is not None and not self.token.strip():
            raise ConfigError("the token is empty; give some random letters, or none at all")
        if self.token is None and not is_loopback(self.host):
            raise ConfigError(
                f"a server on {self.host} is reached from other machines; give a token "
                "(--token-file, or TTT_SERVER_TOKEN), or stay on 127.0.0.1"
            )
        own = socket.gethostname().lower()
        names = {"localhost", own, f"{own}.local", *(name.lower() for name in self.hosts)}
        object.__setattr__(self, "_names", frozenset(names))

    def check(self, path: str, headers: Mapping[str, str], protocols: Iterable[str] = ()) -> None:
        """Let a request pass, or raise.

        Args:
            path: the URL's path.
            headers: names in lower case.
            protocols: subprotocols that a WebSocket offers.

        Raises:
            ApiError: 403 for a foreign Host or Origin, 401 for a wrong token.
        """
        host = headers.get("host", "")
        self._check_host(host)
        if (origin := headers.get("origin")) is not None:
            self._check_origin(origin, host)
        public = path in PUBLIC or path.startswith(PUBLIC_FOLDER)
        if self.token is not None and not public:
            self._check_token(headers.get("authorization", ""), protocols)

    def _check_host(self, host: str) -> None:
        name = _host_name(host)
        if name in self._names or _is_address(name):
            return
        raise ApiError(
            f"this server is not called {name!r:.80}; use its address, or start it with "
            "--allow-host NAME",
            status=403,
            code="host_not_allowed",
        )

    def _check_origin(self, origin: str, host: str) -> None:
        if origin in self.origins or _place(origin) == _place(f"{_scheme(origin)}://{host}"):
            return
        raise ApiError(
            f"pages of {origin!r:.80} may not use this server; start it with --allow-origin ORIGIN",
            status=403,
            code="origin_not_allowed",
        )

    def _check_token(self, authorization: str, protocols: Iterable[str]) -> None:
        assert self.token is not None
        kind, _, given = authorization.partition(" ")
        tokens = [given.strip()] if kind.lower() == "bearer" else []
        tokens += [p.removeprefix(TOKEN_PROTOCOL) for p in protocols if TOKEN_PROTOCOL in p]
        wanted = self.token.encode()
        if not any(hmac.compare_digest(token.encode(), wanted) for token in tokens):
            raise ApiError(
                "a wrong token, or none; send it as Authorization: Bearer TOKEN",
                status=401,
                code="invalid_api_key",
            )


def _scheme(origin: str) -> str:
    return origin.partition("://")[0]


def _place(url: str) -> tuple[str, int | None] | None:
    """Return host and port of a URL, None for what is none. The scheme may end at a proxy."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname else None


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
