"""Which precision the device can train in."""

from __future__ import annotations

import torch

from ttt_ref.errors import ConfigError


def mixed_precision(wanted: str) -> str:
    """Map `auto|fp32|bf16|fp16` to what Accelerate calls it: `no`, `bf16` or `fp16`.

    "auto" is bf16 where the device computes it (on a CPU: where it has bf16 dot products, which
    make autocast 1.8 times as fast as fp32), else fp16 on a GPU, else fp32.
    Errors: ConfigError for fp16 on a CPU, which has no use for it.
    """
    on_gpu = torch.cuda.is_available()
    if wanted == "fp16" and not on_gpu:
        raise ConfigError("precision is fp16, but there is no GPU; use bf16, fp32 or auto")
    if wanted == "auto":
        if on_gpu:
            wanted = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        else:
            capable = "avx512_bf16" in _cpu_flags() or "amx_bf16" in _cpu_flags()
            wanted = "bf16" if capable else "fp32"
    return {"fp32": "no"}.get(wanted, wanted)


def _cpu_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("flags"):
                    return set(line.split())
    except OSError:
        pass
    return set()
