"""Tell systemd how this process is: ready, stopping, alive (sd_notify, without its library)."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> bool:
    """Send a state such as `READY=1`; False where nobody listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(state.encode(), address)
    except OSError:
        return False
    return True


def watchdog_seconds() -> float | None:
    """Return how often systemd wants to hear from this process; None: it does not."""
    wanted = os.environ.get("WATCHDOG_USEC", "")
    owner = os.environ.get("WATCHDOG_PID", "")
    if not wanted.isdigit() or (owner and owner != str(os.getpid())):
        return None
    return int(wanted) / 1e6
