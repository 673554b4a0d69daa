"""Would the playback starve? Simulate a stream's chunks against the time that its audio lasts.

The decoder takes tokens as the model gives them, decodes chunk after chunk (one at a time), and
each chunk's audio is played behind the one before. No clock runs: times come from a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ttt_runtime.codec.glm4voice import timing
from ttt_runtime.codec.glm4voice.params import DecoderParams

# Seconds that a chunk takes, from the mel frames that are solved and those that are vocoded.
Cost = Callable[[int, int], float]


@dataclass(frozen=True)
class Playback:
    """What the listener gets.

    Attributes:
        first_sound_s: when the first chunk of audio is there.
        underruns: how often the playback waited.
        silence_s: how long it waited in all.
        least_ahead_s: the least audio that was left to play when a chunk came.
        audio_s: length of the sound.
    """

    first_sound_s: float
    underruns: int
    silence_s: float
    least_ahead_s: float
    audio_s: float


def chunks(params: DecoderParams, tokens: int) -> list[tuple[int, int, int]]:
    """Return (tokens so far, frames solved, frames given out) of each chunk of a finished sound."""
    out = []
    done, given, number = 0, 0, 0
    while done < tokens:
        size = min(params.chunk_tokens(number), tokens - done)
        last = done + size == tokens and size < params.chunk_tokens(number)
        begin = max(0, done - params.window_tokens) // params.encoder_block * params.encoder_block
        done += size
        stop = timing.frames_before(done)
        ready = stop if last else max(given, stop - params.hold_frames)
        out.append((done, stop - timing.first_frame_of(begin), ready - given))
        given, number = ready, number + 1
    if out and given < timing.frames_before(tokens):  # what was held back; nothing to solve
        out.append((tokens, 0, timing.frames_before(tokens) - given))
    return out


def constant_rtf(rtf: float) -> Cost:
    """Return a cost of `rtf` seconds of work for each second of mel that is solved."""
    return lambda solved, given: rtf * solved * timing.HOP / timing.RATE_HZ


def simulate(
    arrivals: Sequence[tuple[float, int]], params: DecoderParams, cost: Cost, buffer_s: float = 0.0
) -> Playback:
    """Play a trace.

    Args:
        arrivals: (time in seconds, tokens that come then), in order of time.
        params: chunking.
        cost: of a chunk.
        buffer_s: how long the player waits after the first audio before it begins.
    """
    times = [time for time, count in arrivals for _ in range(count)]
    free = 0.0  # when the decoder is done with the chunk before
    ends: float | None = None  # when the audio given so far has been played
    first, silence, least = 0.0, 0.0, float("inf")
    underruns = 0
    audio_s = 0.0
    for done, solved, given in chunks(params, len(times)):
        free = max(free, times[done - 1]) + cost(solved, given)
        length = given * timing.HOP / timing.RATE_HZ
        if not given:
            continue
        if ends is None:
            first, ends = free, free + buffer_s
        else:
            least = min(least, ends - free)
            if free > ends:
                underruns, silence, ends = underruns + 1, silence + free - ends, free
        ends += length
        audio_s += length
    return Playback(first, underruns, silence, 0.0 if least == float("inf") else least, audio_s)
