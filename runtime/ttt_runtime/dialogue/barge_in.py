"""What a listener had heard of an answer when he cut in: ids to keep, transcript, cache rows.

A turn's sequence is text, a span that speaks it, text, a span, ... Playback knows how many seconds
left the loudspeaker; these are whole speech tokens of the answer, and the sequence is cut behind
the last of them. Text that comes before that point stays, text behind it was never spoken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ttt_ref.config import TokenLayout


@dataclass(frozen=True, slots=True)
class Heard:
    """What is left of an interrupted turn.

    Attributes:
        text: the answer's text up to the last span that was heard, as in `Reply.text`.
        speech_tokens: codes of the answer that were heard.
        history: ids of the conversation with the answer cut to what was heard, to be given with
            the next turn.
    """

    text: str
    speech_tokens: int
    history: tuple[int, ...]


def tokens_heard(played_seconds: float, tokens_per_second: float) -> int:
    """Return how many speech tokens were heard: those of which at least half was played."""
    return max(int(played_seconds * tokens_per_second + 0.5), 0)


def cut_answer(
    answer: Sequence[int], layout: TokenLayout, speech_tokens: int, *, finished: bool
) -> tuple[list[int], int]:
    """Cut an answer's ids behind its first `speech_tokens` codes.

    A span that is cut gets its end tag, so that the sequence stays one that the model knows.

    Args:
        answer: ids of the answer.
        layout: which id means what.
        speech_tokens: codes that were heard; 0 leaves nothing of the answer.
        finished: the answer came to its end; all codes heard then means all of it heard.

    Returns:
        the ids to keep, and how many of them (from the front) are the answer's own.
    """
    codes = [i for i, token in enumerate(answer) if layout.is_code(token)]
    if speech_tokens <= 0 and not (finished and not codes):
        return [], 0
    if speech_tokens >= len(codes) and finished:
        return list(answer), len(answer)
    if not codes:
        return [], 0
    stop = codes[min(speech_tokens, len(codes)) - 1] + 1
    kept = list(answer[:stop])
    if stop < len(answer) and answer[stop] in layout.end_ids:
        return [*kept, answer[stop]], stop + 1
    begins = [token for token in kept if token in layout.begin_ids]
    is_last = bool(begins) and begins[-1] == layout.begin_of_quad_id
    return [
        *kept,
        layout.end_of_audio_span_last_id if is_last else layout.end_of_audio_new_id,
    ], stop
