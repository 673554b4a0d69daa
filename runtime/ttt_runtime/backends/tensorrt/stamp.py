"""The stamp beside an engine: what it was made from, with and for.

An engine file says nothing readable of itself, and TensorRT may load one of another graph without
a word. So none is run without its stamp, and only when the stamp fits graph, version and GPU.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from ttt_ref.bounded import read_json
from ttt_ref.errors import BundleError
from ttt_runtime.bundle.folder import sha256_of
from ttt_runtime.bundle.manifest import FileRecord
from ttt_runtime.machine.gpu import Gpu

STAMP_FORMAT: Final = 1
STAMP_SUFFIX: Final = ".json"
ENGINE_SUFFIX: Final = ".engine"
AHEAD_OF_TIME: Final = "ahead-of-time"
# TensorRT-RTX engines built without naming a GPU run on this compute capability and later.
AHEAD_OF_TIME_MINIMUM: Final = (8, 6)
MAX_STAMP_BYTES: Final = 2**20
KEY_LETTERS: Final = 16
DATA_SUFFIX: Final = ".data"  # of the file that holds a graph's weights

Ranges = Mapping[str, tuple[int, int, int]]


def this_platform() -> str:
    """Return system and processor, such as `linux-aarch64`: engines do not travel between them."""
    return f"{sys.platform}-{platform.machine()}"


def files_sha256(files: Iterable[Path]) -> str:
    """Return one SHA-256 over the names and contents of files (a graph and its weights)."""
    digests = {}
    for path in files:
        digests[path.name] = sha256_of(path)
    return _joined(digests)


def _joined(digests: Mapping[str, str]) -> str:
    text = "".join(f"{name} {digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def graph_sha256(graph: Path) -> str:
    """Return the SHA-256 of a graph file together with its external data beside it."""
    data = graph.with_name(graph.name + DATA_SUFFIX)
    return files_sha256([graph, data] if data.exists() else [graph])


def recorded_sha256(graph: str, files: Mapping[str, FileRecord]) -> str:
    """Return what `graph_sha256` gives for a bundle's graph, from the bundle's own records."""
    names = [name for name in (graph, graph + DATA_SUFFIX) if name in files]
    return _joined({PurePosixPath(name).name: files[name].sha256 for name in names})


@dataclass(frozen=True)
class EngineIdentity:
    """Everything that decides what an engine is; two equal identities are one engine.

    Attributes:
        engine: tensorrt or rtx.
        graph: name of the graph.
        graph_sha256: of the graph with its weights.
        version: of the builder.
        architecture: `sm_87` and the like, or `ahead-of-time` (TensorRT-RTX, sm_86 and later).
        platform: system and processor.
        profiles: profile name -> dimension -> (least, best, most).
        options: other builder options.
    """

    engine: str
    graph: str
    graph_sha256: str
    version: str
    architecture: str
    platform: str
    profiles: Mapping[str, Ranges]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """SHA-256 of the identity's canonical JSON."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def file_name(self) -> str:
        """Name of the engine file in a cache folder."""
        return f"{self.graph}-{self.key[:KEY_LETTERS]}{ENGINE_SUFFIX}"


@dataclass(frozen=True)
class EngineStamp:
    """An identity, the engine file it belongs to, and how the build went (for people)."""

    identity: EngineIdentity
    engine_sha256: str
    engine_bytes: int
    build: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "format": STAMP_FORMAT,
            "key": self.identity.key,
            **asdict(self.identity),
            "engine_sha256": self.engine_sha256,
            "engine_bytes": self.engine_bytes,
            "build": dict(self.build),
        }

    @classmethod
    def from_dict(cls, data: Any, where: str) -> EngineStamp:
        """Read the JSON form; BundleError when it is not one, or not true to its own key."""
        try:
            if data["format"] != STAMP_FORMAT:
                raise BundleError(
                    f"{where}: stamp format {data['format']!r}, expected {STAMP_FORMAT}; "
                    "build the engine again"
                )
            texts = {
                name: str(data[name])
                for name in (
                    "engine",
                    "graph",
                    "graph_sha256",
                    "version",
                    "architecture",
                    "platform",
                )
            }
            profiles = {
                str(name): {
                    str(dim): (int(low), int(best), int(high))
                    for dim, (low, best, high) in ranges.items()
                }
                for name, ranges in data["profiles"].items()
            }
            identity = EngineIdentity(**texts, profiles=profiles, options=dict(data["options"]))
            stamp = cls(
                identity,
                str(data["engine_sha256"]),
                int(data["engine_bytes"]),
                dict(data["build"]),
            )
            key = data["key"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BundleError(
                f"{where} is no engine stamp ({type(error).__name__}: {error}); "
                "build the engine again"
            ) from None
        if key != identity.key:
            raise BundleError(f"{where} was changed after the build; build the engine again")
        return stamp


def stamp_path(engine: Path) -> Path:
    """Return where the stamp of an engine lies."""
    return engine.with_name(engine.name + STAMP_SUFFIX)


def read_stamp(engine: Path) -> EngineStamp:
    """Read the stamp beside an engine file; BundleError if there is none or it is damaged."""
    path = stamp_path(engine)
    try:
        data = read_json(path, MAX_STAMP_BYTES, BundleError, advice="build the engine again")
    except FileNotFoundError:
        raise BundleError(
            f"engine {engine.name} has no stamp {path.name}, so nothing says what it is; "
            "build it again"
        ) from None
    return EngineStamp.from_dict(data, path.name)


def check_engine_file(engine: Path, stamp: EngineStamp, *, contents: bool = True) -> None:
    """Compare an engine file with its stamp; BundleError if it is another or a cut one."""
    size = engine.stat().st_size if engine.is_file() else -1
    if size != stamp.engine_bytes:
        seen = "is missing" if size < 0 else f"has {size} bytes"
        raise BundleError(
            f"engine {engine.name} {seen}, its stamp says {stamp.engine_bytes} bytes; "
            "build it again"
        )
    if not contents:
        return
    if sha256_of(engine) != stamp.engine_sha256:
        raise BundleError(f"engine {engine.name} is not the one of its stamp; build it again")


def mismatch(
    identity: EngineIdentity, *, engine: str, version: str, graph_hash: str, gpu: Gpu | None
) -> str | None:
    """Return why an engine may not run here (a few words), or None when it may.

    Args:
        identity: of the engine.
        engine: what is asked for, tensorrt or rtx.
        version: of the library that would run it.
        graph_hash: SHA-256 of the bundle's graph now.
        gpu: the GPU that would run it; None leaves the GPU out of the comparison.
    """
    if identity.engine != engine:
        return f"is for {identity.engine}, not {engine}"
    if identity.graph_sha256 != graph_hash:
        return "was built from another graph"
    if identity.version != version:
        return f"was built with version {identity.version}, this is {version}"
    if identity.platform != this_platform():
        return f"was built on {identity.platform}, this is {this_platform()}"
    if gpu is None:
        return None
    if identity.architecture == AHEAD_OF_TIME:
        able = gpu.compute_capability is None or gpu.compute_capability >= AHEAD_OF_TIME_MINIMUM
        return None if able else f"needs sm_86 or later, {gpu.name} is {gpu.architecture}"
    if gpu.architecture not in identity.architecture.split("+"):
        return f"was built for {identity.architecture}, {gpu.name} is {gpu.architecture}"
    return None
