"""The benchmark's table: medians, and ratios to ours and to what the machine can do."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CASES = ("text@256", "text@1024", "block@256", "block@1024")
BLOCK = 26


@dataclass(frozen=True)
class Document:
    """The table as text and as data."""

    text: str
    data: dict[str, Any]


def floors_ms(bundle: Path, threads: int) -> dict[str, float]:
    """Return the least time of a text step (bytes) and of a block (products) on this machine."""
    from ttt_runtime.backends.ort.session import SessionSettings
    from ttt_runtime.profiler.limits import measure_limits

    config = json.loads((bundle / "ttt_config.json").read_text())
    model, start = config["model"], config["layout"]["audio_start"]
    size = sum((bundle / f"{name}.onnx.data").stat().st_size for name in ("decoder", "text_head"))
    limits = measure_limits(SessionSettings("cpu", threads), size)
    hidden, wide = model["hidden_size"], model["intermediate_size"]
    kv = model["num_key_value_heads"] * (hidden // model["num_attention_heads"])
    body = model["num_hidden_layers"] * (hidden * (2 * hidden + 2 * kv) + 3 * hidden * wide)
    products = body + hidden * (model["vocab_size"] - start)
    return {
        "memory_gbps": limits.memory_gbps,
        "int8_gops": limits.int8_gops,
        "text": size / limits.memory_gbps / 1e6,
        "block": 2 * BLOCK * products / limits.int8_gops / 1e6,
    }


def paired(mine: dict[str, Any], other: dict[str, Any], case: str) -> float:
    """Return the median of the rounds' ratios mine / other."""
    pairs = zip(mine["rounds"][case], other["rounds"][case], strict=True)
    return round(statistics.median(a / b for a, b in pairs), 3)


def markdown(
    rows: list[dict[str, Any]], missing: dict[str, str], bundle: Path, threads: int
) -> Document:
    """Put everything together; ratios are ours / theirs, so below 1 we are faster."""
    floors = floors_ms(bundle, threads)
    lines = [
        "| engine | " + " | ".join(f"{case}, ms" for case in CASES) + " | MiB loaded | MiB after |",
        "| --- |" + " ---: |" * (len(CASES) + 2),
    ]
    for row in rows:
        cells = [f"{row[case]:.1f}" for case in CASES]
        cells += [str(row["loaded_mib"]), str(row["resident_mib"])]
        lines.append(f"| {row['engine']} | " + " | ".join(cells) + " |")
    floor = [f"{floors[case.split('@')[0]]:.1f}" for case in CASES]
    lines.append(f"| floor | {' | '.join(floor)} | | |")
    ratios: dict[str, dict[str, dict[str, float]]] = {}
    ours = [row for row in rows if row["engine"].startswith("ours")]
    peers = [row for row in rows if not row["engine"].startswith("ours")]
    lines += ["", "| ours / theirs | " + " | ".join(CASES) + " |", "| --- |" + " ---: |" * 4]
    for mine in ours:
        mine_ratios = {
            other["engine"]: {case: paired(mine, other, case) for case in CASES} for other in peers
        }
        mine_ratios["floor"] = {
            case: round(mine[case] / floors[case.split("@")[0]], 2) for case in CASES
        }
        ratios[mine["engine"]] = mine_ratios
        for name, values in mine_ratios.items():
            shown = " | ".join(f"{values[case]:.2f}" for case in CASES)
            lines.append(f"| {mine['engine']} / {name} | {shown} |")
    growth = {
        row["engine"]: {
            what: round(row[f"{what}@1024"] / row[f"{what}@256"], 2) for what in ("text", "block")
        }
        for row in rows
    }
    lines.append("")
    for mine in ours:
        step, block = growth[mine["engine"]].values()
        lines.append(f"{mine['engine']}: from 256 to 1,024 tokens x{step} a step, x{block} a block")
    lines.append(
        f"floor: {floors['memory_gbps']:.0f} GB/s read, {floors['int8_gops']:.0f} GOP/s int8, "
        f"{threads} threads"
    )
    lines += [f"not measured: {name}: {reason}" for name, reason in missing.items()]
    data = {
        "rows": rows,
        "floors": {key: round(value, 3) for key, value in floors.items()},
        "ratios": ratios,
        "growth": growth,
        "missing": missing,
    }
    return Document("\n".join(lines), data)
