"""One assistant in a process of its own, for `benchmarks.shared_machine`.

    python -m benchmarks.shared_worker BUNDLE DEVICE THREADS    (THREADS 0: the default)

Reads lines with a number of turns and answers each with their times, a JSON list of milliseconds.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from ttt_runtime.audio.reader import read_question
from ttt_runtime.dialogue.assistant import Assistant

QUESTION = Path(__file__).parent.parent / "samples" / "question.wav"


def main(bundle: str, device: str, threads: int) -> None:
    """Load, say so with an empty list, then answer the question as often as asked."""
    assistant = Assistant.from_bundle(bundle, device, threads=threads or None)
    assert assistant.tokenizer is not None
    question = read_question(QUESTION, assistant.tokenizer)

    def turn() -> float:
        assistant.engine.reset()
        begin = time.perf_counter()
        for _ in assistant.answer(question.audio):
            pass
        return (time.perf_counter() - begin) * 1e3

    print("[]", flush=True)
    for line in sys.stdin:
        turns = int(line)
        turn()  # wakes threads, fills caches
        print(json.dumps([turn() for _ in range(turns)]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
