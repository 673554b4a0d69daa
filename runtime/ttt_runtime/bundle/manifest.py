"""The contents of a bundle's `ttt_config.json` as frozen dataclasses.

Reading is strict: a missing, unknown or mistyped key is refused with one line that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from ttt_ref.config import GenerationConfig, ModelConfig, TokenLayout
from ttt_ref.errors import BundleError
from ttt_ref.ranges import Bytes, Name, Path, Vocabulary, Width
from ttt_ref.schema import Length, OneOf, build
from ttt_runtime.bundle.graph_check import check_graph
from ttt_runtime.bundle.graph_spec import DTYPE_BYTES, GraphSpec

FORMAT_VERSION = 1
CONFIG_NAME = "ttt_config.json"


@dataclass(frozen=True)
class FileRecord:
    """Size and SHA-256 (lower-case hex) of one file of the bundle."""

    sha256: Annotated[str, Length(64, 64)]
    bytes: Bytes


@dataclass(frozen=True)
class GraphEntry:
    """A graph: its spec and its file, relative to the bundle."""

    spec: GraphSpec
    file: Path


@dataclass(frozen=True)
class EmbeddingsEntry:
    """The raw embedding table [rows, columns], little-endian, row after row.

    `int8` tables have one float32 scale a row in `scales_file`: row = int8 * scale.
    """

    file: Path
    dtype: Annotated[str, OneOf("float32", "float16", "int8")]
    rows: Vocabulary
    columns: Width
    scales_file: Path | None = None


@dataclass(frozen=True)
class CodecEntry:
    """The speech codec: its type picks the implementation, `params` are that type's own."""

    type: Name
    params: Mapping[str, Any] = field(default_factory=dict)
    graphs: Annotated[Mapping[str, GraphEntry], Length(0, 64)] = field(default_factory=dict)


@dataclass(frozen=True)
class BundleConfig:
    """Everything that a bundle says of itself.

    `files` is filled by the writer. `engine` names what the graphs were made for: cpu, cuda,
    tensorrt or rtx.
    """

    name: Name
    model: ModelConfig
    layout: TokenLayout
    precision: Name
    graphs: Annotated[Mapping[str, GraphEntry], Length(0, 64)]
    embeddings: EmbeddingsEntry
    engine: Name = "cpu"
    presets: Annotated[Mapping[str, GenerationConfig], Length(0, 64)] = field(default_factory=dict)
    prompts: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Path | None = None
    codec: CodecEntry | None = None
    files: Annotated[Mapping[str, FileRecord], Length(0, 4096)] = field(default_factory=dict)
    made_from: Mapping[str, Any] = field(default_factory=dict)
    made_with: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def named_files(self) -> list[str]:
        """Return every path that the configuration points at, relative to the bundle."""
        graphs = [*self.graphs.values(), *(self.codec.graphs.values() if self.codec else ())]
        named = [graph.file for graph in graphs]
        named.append(self.embeddings.file)
        named += [f for f in (self.embeddings.scales_file, self.tokenizer) if f is not None]
        return named

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "format_version": self.format_version,
            "name": self.name,
            "model": self.model.to_dict(),
            "layout": self.layout.to_dict(),
            "presets": {name: preset.to_dict() for name, preset in self.presets.items()},
            "prompts": dict(self.prompts),
            "precision": self.precision,
            "engine": self.engine,
            "graphs": _graphs_to_dict(self.graphs),
            "embeddings": {
                "file": self.embeddings.file,
                "dtype": self.embeddings.dtype,
                "rows": self.embeddings.rows,
                "columns": self.embeddings.columns,
                "scales_file": self.embeddings.scales_file,
            },
            "tokenizer": self.tokenizer,
            "codec": None
            if self.codec is None
            else {
                "type": self.codec.type,
                "params": dict(self.codec.params),
                "graphs": _graphs_to_dict(self.codec.graphs),
            },
            "files": {
                path: {"sha256": record.sha256, "bytes": record.bytes}
                for path, record in sorted(self.files.items())
            },
            "made_from": dict(self.made_from),
            "made_with": dict(self.made_with),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BundleConfig:
        """Read the JSON form; ConfigError or BundleError names the fault."""
        partial = (ModelConfig, TokenLayout, GenerationConfig)
        config = build(cls, data, CONFIG_NAME, complete=True, partial=partial)
        config.check()
        return config

    def check(self) -> None:
        """Raise BundleError where the parts contradict each other."""
        emb = self.embeddings
        if (emb.scales_file is not None) != (emb.dtype == "int8"):
            raise BundleError(
                f"embeddings of dtype {emb.dtype} with scales_file {emb.scales_file!r}; "
                "exactly int8 tables have scales"
            )
        expected = (self.model.vocab_size, self.model.hidden_size)
        if (emb.rows, emb.columns) != expected:
            raise BundleError(
                f"embeddings of shape {emb.rows} x {emb.columns}; the model needs "
                f"{expected[0]} x {expected[1]}"
            )
        if self.layout.vocab_size != self.model.vocab_size:
            raise BundleError(
                f"{CONFIG_NAME}: layout.vocab_size is {self.layout.vocab_size}, "
                f"model.vocab_size {self.model.vocab_size}; export the bundle again"
            )
        longest = self.model.max_position_embeddings
        for name, preset in self.presets.items():
            if preset.block_length > longest:
                raise BundleError(
                    f"{CONFIG_NAME}: presets.{name}.block_length is {preset.block_length}; the "
                    f"model has {longest} positions"
                )
        for name, graph in self.graphs.items():
            check_graph(name, graph.spec, self.model, self.layout.audio_start)

    def embedding_bytes(self) -> int:
        """Return the size in bytes that the embedding table file must have."""
        emb = self.embeddings
        return emb.rows * emb.columns * DTYPE_BYTES[emb.dtype]


def _graphs_to_dict(graphs: Mapping[str, GraphEntry]) -> dict[str, Any]:
    return {name: {"spec": g.spec.to_dict(), "file": g.file} for name, g in graphs.items()}
