"""Profile options as one line of JSON, for a process that measures on behalf of another."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from ttt_runtime.decode.approximations import Approximations
from ttt_runtime.profiler.bench import ProfileOptions
from ttt_runtime.profiler.workload import TurnShape


def options_to_json(options: ProfileOptions) -> str:
    """Return the options as one line."""
    values = dataclasses.asdict(options)
    values["bundle"] = str(options.bundle.resolve())
    return json.dumps(values)


def options_from_json(text: str) -> ProfileOptions:
    """Return the options that `options_to_json` wrote."""
    values = json.loads(text)
    values["bundle"] = Path(values["bundle"])
    values["shape"] = TurnShape(**values["shape"])
    if values["fast"] is not None:
        values["fast"] = Approximations(**values["fast"])
    return ProfileOptions(**values)
