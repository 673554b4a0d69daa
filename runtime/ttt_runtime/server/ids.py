"""Names of things that clients refer to later."""

from __future__ import annotations

import secrets


def new_id(kind: str) -> str:
    """Return a name that is not used yet, such as `item_3f...`."""
    return f"{kind}_{secrets.token_hex(12)}"
