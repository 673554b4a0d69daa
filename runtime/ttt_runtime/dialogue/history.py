"""What of a conversation still fits: the oldest exchanges go first, the system turn stays.

An exchange is a user's turn with what was answered to it. When the conversation no longer fits,
exchanges are dropped until it fills at most three quarters of its room: the cache is of no use
behind the first id that differs, so dropping a little at every turn would compute all of it anew
at every turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

# drop_oldest: as above, with a note; refuse: ConfigError when the conversation is too long.
HistoryPolicy = Literal["drop_oldest", "refuse"]

FILLED_SHARE: Final = 0.75
# Of the cache, kept free for the answer where the preset would allow a longer one.
ANSWER_SHARE: Final = 0.25


def room_for_history(capacity: int, max_gen_len: int, turn_tokens: int) -> int:
    """Return how many tokens a history may have, beside a new turn and its answer."""
    answer = min(max_gen_len, int(capacity * ANSWER_SHARE))
    return max(capacity - answer - turn_tokens, 0)


def drop_oldest(
    history: Sequence[int], user_header: Sequence[int], room: int
) -> tuple[list[int], int]:
    """Return a history that fits, and how many exchanges were dropped of it.

    Args:
        history: ids of whole turns, the system's first.
        user_header: ids that begin a user's turn.
        room: most tokens.
    """
    ids, header = list(history), list(user_header)
    if len(ids) <= room:
        return ids, 0
    size = len(header)
    starts = [i for i in range(len(ids) - size + 1) if ids[i : i + size] == header]
    if not starts:
        return ids, 0
    wanted = int(room * FILLED_SHARE)
    for dropped, start in enumerate([*starts[1:], len(ids)], start=1):
        if starts[0] + len(ids) - start <= wanted or start == len(ids):
            return ids[: starts[0]] + ids[start:], dropped
    raise AssertionError("the last exchange ends the loop")
