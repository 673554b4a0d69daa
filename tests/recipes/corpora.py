"""A toy corpus in the recipe's format: chirps instead of speech."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

PHONES = ["t u", "θ ɹ i", "f I v", "s ɪ k s"]


def write_corpus(folder: Path, count: int = 16) -> Path:
    """Write ``count`` utterances of 0.6 to 0.9 s, half of them the teacher's, three unseen."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    offset, lines, audio = 0, [], []
    for i in range(count):
        samples = 9_600 + 300 * i
        t = np.arange(samples) / 16_000
        f0 = 120 + 10 * (i % 5) + 30 * np.sin(4 * t)
        phase = 2 * np.pi * np.cumsum(f0) / 16_000
        wave = sum(np.sin(k * phase) / k for k in range(1, 8)) * 0.1
        wave = wave * (0.6 + 0.4 * np.sin(9 * t)) + 0.002 * rng.standard_normal(samples)
        audio.append((np.clip(wave, -1, 1) * 32767).astype("<i2"))
        teacher = i % 2 == 0
        lines.append(
            {
                "id": f"u{i}",
                "text": "two three five six"[: 4 + i],
                "phones": " | ".join(PHONES[: 1 + i % 4]),
                "engine": "kokoro" if teacher else "espeak",
                "voice": "af_heart" if teacher else "en-us",
                "split": "valid" if i % 6 == 5 else "train",
                "kind": "answer" if teacher else "question",
                "offset": offset,
                "samples": samples,
            }
        )
        offset += samples
    (folder / "audio.i16").write_bytes(np.concatenate(audio).tobytes())
    (folder / "manifest.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    return folder
