"""Build the engines of a bundle: decoder and heads, each from its graph, each with its stamp."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ttt_export.tensorrt.builder import Built, build_engine
from ttt_export.tensorrt.cache import EngineCache
from ttt_export.tensorrt.command_line import equivalent_command
from ttt_export.tensorrt.profiles import ROWS, SpanShape, graph_profiles
from ttt_export.tensorrt.progress import Bar, Silent
from ttt_export.tensorrt.request import BuildOptions, build_request, target_architecture
from ttt_ref.bounded import read_json
from ttt_ref.errors import BundleError, DeviceError, ExportError
from ttt_ref.outputs import write_whole
from ttt_runtime.backends.tensorrt.api import Backend, load_backend, require_parser
from ttt_runtime.backends.tensorrt.loader import ENGINE_FOLDER, Probe
from ttt_runtime.backends.tensorrt.stamp import EngineIdentity, EngineStamp, stamp_path
from ttt_runtime.bundle.folder import Bundle, sha256_of
from ttt_runtime.bundle.manifest import CONFIG_NAME, BundleConfig, FileRecord, GraphEntry
from ttt_runtime.machine.gpu import probe_gpus

RECORD: Final = "engines"  # key of `made_with` in the bundle's configuration

Say = Callable[[str], None]


def _silent(_: str) -> None:
    pass


@dataclass(frozen=True)
class BuiltEngine:
    """An engine of a bundle.

    Attributes:
        graph: name of the graph.
        path: the engine file.
        stamp: what it is.
        reused: it was there already.
        command: the same build by NVIDIA's own tool.
    """

    graph: str
    path: Path
    stamp: EngineStamp
    reused: bool
    command: str

    def record(self) -> dict[str, Any]:
        """Return what the bundle's configuration says of it."""
        identity = self.stamp.identity
        return {
            "file": f"{ENGINE_FOLDER}/{self.path.name}",
            "key": identity.key,
            "version": identity.version,
            "architecture": identity.architecture,
            "platform": identity.platform,
            "bytes": self.stamp.engine_bytes,
            **self.stamp.build,
        }

    def line(self) -> str:
        """Return one line for people."""
        size = f"{self.stamp.engine_bytes / 2**20:.1f} MiB"
        if self.reused:
            return f"{self.graph}: {self.path.name} ({size}) is there already"
        cost = f"{self.stamp.build['seconds']:.1f} s"
        peak = self.stamp.build["peak_memory_bytes"]
        if peak is not None:
            cost += f", peak memory {peak / 2**20:.0f} MiB"
        return f"{self.graph}: {self.path.name} ({size}) in {cost}"


def check_builder(engine: str, probe: Probe = probe_gpus) -> None:
    """Refuse at once what could only fail after a long export.

    Raises:
        DeviceError: the API is missing or too old, or TensorRT finds no GPU.
    """
    backend = load_backend(engine)
    try:
        target_architecture(backend, BuildOptions(), probe)
    except DeviceError as error:
        raise DeviceError(
            f"{error}; or export with --no-engines and run ttt-engines on the device"
        ) from None


def build_graph_engines(
    folder: Path,
    graphs: Mapping[str, GraphEntry],
    engine: str,
    *,
    spans: SpanShape | None = None,
    options: BuildOptions | None = None,
    backend: Backend | None = None,
    probe: Probe = probe_gpus,
    say: Say = _silent,
    show_progress: bool = False,
    shown_folder: Path | None = None,
) -> list[BuiltEngine]:
    """Build the engines of decoder and heads into `folder`/engines.

    Args:
        folder: where the graph files lie.
        graphs: name -> spec and file.
        engine: tensorrt or rtx.
        spans: block lengths and longest span, for the profiles.
        options: of the builder.
        backend: a loaded API; None loads the engine's own.
        probe: finds the GPU.
        say: called with one line before and after each engine.
        show_progress: draw a bar on stderr.
        shown_folder: the folder that command lines name, if `folder` is only a temporary one.

    Raises:
        DeviceError: the API is missing or too old, or TensorRT finds no GPU.
        ExportError: a graph cannot become an engine.
    """
    backend = backend or load_backend(engine)
    options = options or BuildOptions()
    architecture = target_architecture(backend, options, probe)
    cache = EngineCache(folder / ENGINE_FOLDER)
    missing = [name for name in ROWS if name not in graphs]
    if missing:
        raise ExportError(f"the bundle has no graph {missing[0]}; export it again")
    built = []
    for name in ROWS:
        entry = graphs[name]
        require_parser(backend, entry.spec)
        profiles = graph_profiles(entry.spec, spans or SpanShape())
        request = build_request(
            backend, entry.spec, folder / entry.file, profiles, options, architecture
        )
        stamp = cache.find(request.identity)
        command = equivalent_command(
            backend, replace(request, graph=(shown_folder or folder) / entry.file)
        )
        reused = stamp is not None
        if stamp is None:
            say(f"engine of {name}; the same by hand: {command}")
            title = f"{backend.flavour.title} {name}"
            with Bar(title) if show_progress else nullcontext(Silent()) as reporter:
                result = build_engine(backend, request, reporter, cache.timing_cache())
            stamp = _publish(cache, request.identity, result)
        path = cache.path(request.identity)
        built.append(BuiltEngine(name, path, stamp, reused, command))
        say(built[-1].line())
    return built


def _publish(cache: EngineCache, identity: EngineIdentity, result: Built) -> EngineStamp:
    cost = {
        "seconds": round(result.cost.seconds, 2),
        "peak_memory_bytes": result.cost.peak_memory_bytes,
    }
    stamp = cache.publish(identity, result.engine, cost)
    cache.drop_older(identity)
    if result.timing_cache is not None:
        cache.keep_timing_cache(result.timing_cache)
    return stamp


def engine_records(built: list[BuiltEngine]) -> dict[str, Any]:
    """Return what `made_with` of a bundle says of its engines."""
    return {item.graph: item.record() for item in built}


def build_engines(
    bundle_dir: str | os.PathLike[str],
    engine: str | None = None,
    *,
    options: BuildOptions | None = None,
    backend: Backend | None = None,
    probe: Probe = probe_gpus,
    say: Say = _silent,
    show_progress: bool = False,
) -> list[BuiltEngine]:
    """Build the engines of a published bundle and record them in it.

    The bundle stays readable throughout: engines appear whole, and the configuration is replaced
    by a rename after the last one.

    Args:
        bundle_dir: the bundle.
        engine: tensorrt or rtx; None takes what the bundle was made for.
        options: of the builder.
        backend: a loaded API; None loads the engine's own.
        probe: finds the GPU.
        say: called with one line before and after each engine.
        show_progress: draw a bar on stderr.

    Raises:
        BundleError: the bundle cannot be read.
        DeviceError, ExportError: see `build_graph_engines`.
    """
    forget_damaged_engines(Path(bundle_dir))
    bundle = Bundle.open(bundle_dir, verify="sizes")
    engine = engine or bundle.config.engine
    for entry in bundle.config.graphs.values():
        bundle.file(entry.file)
    built = build_graph_engines(
        bundle.path,
        bundle.config.graphs,
        engine,
        spans=SpanShape.of_presets(bundle.config.presets.values()),
        options=options,
        backend=backend,
        probe=probe,
        say=say,
        show_progress=show_progress,
    )
    if not all(item.reused for item in built) or RECORD not in bundle.config.made_with:
        _record(bundle, built)
    return built


def forget_damaged_engines(folder: Path) -> None:
    """Take engine files that are gone or changed out of a bundle's list of files.

    They can be built again, so they must not be what makes the bundle unreadable here.
    """
    config_file = folder / CONFIG_NAME
    try:
        config = read_json(config_file, error=BundleError)
        listed = dict(config["files"])
    except (OSError, BundleError, ValueError, KeyError, TypeError):
        return  # opening the bundle says what is wrong with it
    kept = {name: record for name, record in listed.items() if _is_whole(folder, name, record)}
    if kept.keys() != listed.keys():
        _write_config(config_file, {**config, "files": kept})


def _is_whole(folder: Path, name: str, record: Any) -> bool:
    parts = name.split("/")
    if parts[0] != ENGINE_FOLDER or len(parts) != 2 or parts[1] in ("", ".", ".."):
        return True  # no engine, or no name of ours: not for this function to judge
    path = folder / name
    return path.is_file() and sha256_of(path) == record.get("sha256")


def _write_config(path: Path, data: Mapping[str, Any]) -> None:
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    write_whole(path, text + "\n")


def _record(bundle: Bundle, built: list[BuiltEngine]) -> None:
    files = {
        name: record
        for name, record in bundle.config.files.items()
        if not name.startswith(f"{ENGINE_FOLDER}/") or (bundle.path / name).is_file()
    }
    for item in built:
        for path in (item.path, stamp_path(item.path)):
            record = FileRecord(sha256_of(path), path.stat().st_size)
            files[path.relative_to(bundle.path).as_posix()] = record
    made_with = {**bundle.config.made_with, RECORD: engine_records(built)}
    config: BundleConfig = replace(bundle.config, files=files, made_with=made_with)
    _write_config(bundle.path / CONFIG_NAME, config.to_dict())
