"""The folder of built engines: found by identity, published whole, never trusted without a stamp.

An engine is written under a temporary name and renamed, its stamp after it. Whatever breaks off
in between leaves an engine without a fitting stamp, which is built again and never run.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ttt_ref.errors import BundleError
from ttt_ref.outputs import staged
from ttt_runtime.backends.tensorrt.stamp import (
    ENGINE_SUFFIX,
    EngineIdentity,
    EngineStamp,
    check_engine_file,
    read_stamp,
    stamp_path,
)

TIMING_CACHE: Final = "timing.cache"


class EngineCache:
    """Engines and their stamps in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, identity: EngineIdentity) -> Path:
        """Return where the engine of this identity belongs."""
        return self.folder / identity.file_name

    def find(self, identity: EngineIdentity) -> EngineStamp | None:
        """Return the stamp if exactly this engine is there whole; None means: build it."""
        path = self.path(identity)
        try:
            stamp = read_stamp(path)
            if stamp.identity != identity:
                return None
            check_engine_file(path, stamp)
        except BundleError:
            return None
        return stamp

    def publish(
        self, identity: EngineIdentity, engine: Any, build: Mapping[str, Any]
    ) -> EngineStamp:
        """Write an engine (any object with the buffer interface) and its stamp."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(identity)
        data = memoryview(engine)
        stamp = EngineStamp(identity, hashlib.sha256(data).hexdigest(), data.nbytes, dict(build))
        with staged(path) as temporary, temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        text = json.dumps(stamp.to_dict(), indent=1, ensure_ascii=False)
        with staged(stamp_path(path)) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        return stamp

    def drop_older(self, identity: EngineIdentity) -> list[str]:
        """Remove engines that this one replaces: same graph and GPU, another identity."""
        dropped = []
        for path in sorted(self.folder.glob(f"{identity.graph}-*{ENGINE_SUFFIX}")):
            if path == self.path(identity):
                continue
            try:
                other = read_stamp(path).identity
            except BundleError:
                continue  # not ours to judge; the loader refuses it
            place = (other.engine, other.architecture, other.platform)
            if place == (identity.engine, identity.architecture, identity.platform):
                path.unlink()
                stamp_path(path).unlink()
                dropped.append(path.name)
        return dropped

    def timing_cache(self) -> bytes | None:
        """Return the kept kernel times, or None."""
        try:
            return (self.folder / TIMING_CACHE).read_bytes()
        except FileNotFoundError:
            return None

    def keep_timing_cache(self, data: bytes) -> None:
        """Keep kernel times for the next build."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with staged(self.folder / TIMING_CACHE) as temporary:
            temporary.write_bytes(data)
