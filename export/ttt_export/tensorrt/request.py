"""What to build: one graph of a bundle, for one kind of machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ttt_export.tensorrt.profiles import Profile, ranges_of
from ttt_ref.errors import ConfigError
from ttt_runtime.backends.tensorrt.api import Backend
from ttt_runtime.backends.tensorrt.loader import Probe, require_gpu
from ttt_runtime.backends.tensorrt.stamp import (
    AHEAD_OF_TIME,
    EngineIdentity,
    graph_sha256,
    this_platform,
)
from ttt_runtime.bundle.graph_spec import GraphSpec
from ttt_runtime.machine.gpu import probe_gpus

_ARCHITECTURE: Final = re.compile(r"sm_\d{2,3}")


@dataclass(frozen=True)
class BuildOptions:
    """Options of the builder.

    Attributes:
        workspace_mib: most scratch memory that kernels may ask for; None leaves it to the builder.
        optimization_level: 0 .. 5, how long to search; None is the builder's own choice.
        architectures: GPUs that a TensorRT-RTX engine is limited to (`sm_75`); empty means all
            from sm_86 on. TensorRT builds for the GPU at hand and takes none.
    """

    workspace_mib: int | None = None
    optimization_level: int | None = None
    architectures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse values that no builder takes."""
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise ConfigError(f"workspace of {self.workspace_mib} MiB; expected 1 or more")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise ConfigError(f"optimization level {self.optimization_level}; expected 0 .. 5")
        for name in self.architectures:
            if not _ARCHITECTURE.fullmatch(name):
                raise ConfigError(f"GPU architecture {name!r}; expected sm_75, sm_86 or the like")

    def to_dict(self) -> dict[str, Any]:
        """Return what belongs to an engine's identity beside the architecture."""
        chosen: Mapping[str, Any] = {
            "workspace_mib": self.workspace_mib,
            "optimization_level": self.optimization_level,
        }
        return {name: value for name, value in chosen.items() if value is not None}


@dataclass(frozen=True)
class BuildRequest:
    """A graph, its profiles and options, and the identity that the engine will have."""

    spec: GraphSpec
    graph: Path
    profiles: tuple[Profile, ...]
    options: BuildOptions
    identity: EngineIdentity


def target_architecture(backend: Backend, options: BuildOptions, probe: Probe = probe_gpus) -> str:
    """Return the architecture that an engine built now would be for.

    Raises:
        DeviceError: the builder needs the GPU and there is none.
        ConfigError: architectures were named for a builder that takes the GPU at hand.
    """
    if backend.flavour.needs_gpu:
        if options.architectures:
            raise ConfigError(
                f"{backend.flavour.title} builds for the GPU at hand; name architectures only "
                "with -e rtx"
            )
        return require_gpu(backend.flavour.engine, probe).architecture
    return "+".join(sorted(set(options.architectures))) or AHEAD_OF_TIME


def build_request(
    backend: Backend,
    spec: GraphSpec,
    graph: Path,
    profiles: tuple[Profile, ...],
    options: BuildOptions,
    architecture: str,
) -> BuildRequest:
    """Return the request for an engine of this graph."""
    identity = EngineIdentity(
        engine=backend.flavour.engine,
        graph=spec.name,
        graph_sha256=graph_sha256(graph),
        version=backend.version,
        architecture=architecture,
        platform=this_platform(),
        profiles=ranges_of(profiles),
        options=options.to_dict(),
    )
    return BuildRequest(spec, graph, profiles, options, identity)
