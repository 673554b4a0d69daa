"""The contents of a bundle's `ttt_config.json` as frozen dataclasses.

Reading is strict: a missing, unknown or mistyped key is refused with one line that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ttt_ref.config import GenerationConfig, ModelConfig, TokenLayout
from ttt_ref.errors import BundleError
from ttt_runtime.bundle.graph_spec import DTYPE_BYTES, GraphSpec

FORMAT_VERSION = 1
CONFIG_NAME = "ttt_config.json"


@dataclass(frozen=True)
class FileRecord:
    """Size and SHA-256 (lower-case hex) of one file of the bundle."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class GraphEntry:
    """A graph: its spec and its file, relative to the bundle."""

    spec: GraphSpec
    file: str


@dataclass(frozen=True)
class EmbeddingsEntry:
    """The raw embedding table [rows, columns], little-endian, row after row.

    `int8` tables have one float32 scale a row in `scales_file`: row = int8 * scale.
    """

    file: str
    dtype: str
    rows: int
    columns: int
    scales_file: str | None = None


@dataclass(frozen=True)
class CodecEntry:
    """The speech codec: its type picks the implementation, `params` are that type's own."""

    type: str
    params: Mapping[str, Any] = field(default_factory=dict)
    graphs: Mapping[str, GraphEntry] = field(default_factory=dict)


@dataclass(frozen=True)
class BundleConfig:
    """Everything that a bundle says of itself.

    `files` is filled by the writer. `engine` names what the graphs were made for: cpu, cuda,
    tensorrt or rtx.
    """

    name: str
    model: ModelConfig
    layout: TokenLayout
    precision: str
    graphs: Mapping[str, GraphEntry]
    embeddings: EmbeddingsEntry
    engine: str = "cpu"
    presets: Mapping[str, GenerationConfig] = field(default_factory=dict)
    prompts: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: str | None = None
    codec: CodecEntry | None = None
    files: Mapping[str, FileRecord] = field(default_factory=dict)
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
        """Read the JSON form; BundleError (or ConfigError from a part) names the fault."""
        table = Table(data, CONFIG_NAME)
        codec_table = table.optional_table("codec")
        embeddings = table.table("embeddings")
        config = cls(
            format_version=table.integer("format_version"),
            name=table.text("name"),
            model=ModelConfig.from_dict(table.mapping("model")),
            layout=TokenLayout.from_dict(table.mapping("layout")),
            presets={
                name: GenerationConfig.from_dict(preset)
                for name, preset in table.mapping("presets").items()
            },
            prompts=table.mapping("prompts"),
            precision=table.text("precision"),
            engine=table.text("engine"),
            graphs=_graphs_from(table.table("graphs")),
            embeddings=EmbeddingsEntry(
                embeddings.text("file"),
                embeddings.text("dtype"),
                embeddings.integer("rows"),
                embeddings.integer("columns"),
                embeddings.optional_text("scales_file"),
            ),
            tokenizer=table.optional_text("tokenizer"),
            codec=None
            if codec_table is None
            else CodecEntry(
                codec_table.text("type"),
                codec_table.mapping("params"),
                _graphs_from(codec_table.table("graphs")),
            ),
            files={
                path: FileRecord(record.text("sha256"), record.integer("bytes"))
                for path, record in table.table("files").tables()
            },
            made_from=table.mapping("made_from"),
            made_with=table.mapping("made_with"),
        )
        embeddings.finish()
        if codec_table is not None:
            codec_table.finish()
        table.finish()
        config.check()
        return config

    def check(self) -> None:
        """Raise BundleError where the parts contradict each other."""
        emb = self.embeddings
        if emb.dtype not in ("float32", "float16", "int8"):
            raise BundleError(
                f"embeddings of dtype {emb.dtype!r}; expected float32, float16 or int8"
            )
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

    def embedding_bytes(self) -> int:
        """Return the size in bytes that the embedding table file must have."""
        emb = self.embeddings
        return emb.rows * emb.columns * DTYPE_BYTES[emb.dtype]


def _graphs_to_dict(graphs: Mapping[str, GraphEntry]) -> dict[str, Any]:
    return {name: {"spec": g.spec.to_dict(), "file": g.file} for name, g in graphs.items()}


def _graphs_from(table: Table) -> dict[str, GraphEntry]:
    return {
        name: GraphEntry(GraphSpec.from_dict(entry.mapping("spec")), entry.text("file"))
        for name, entry in table.tables()
    }


class Table:
    """A JSON object read key by key, so that a fault can be named by its path."""

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, Mapping):
            raise BundleError(f"{where} must be a table, not {type(data).__name__}")
        self._data = data
        self._where = where
        self._left = set(data)

    def _take(self, key: str) -> Any:
        if key not in self._data:
            raise BundleError(f"{self._where} has no key {key!r}; export the bundle again")
        self._left.discard(key)
        return self._data[key]

    def text(self, key: str) -> str:
        """Return a string value."""
        value = self._take(key)
        if not isinstance(value, str) or not value:
            raise BundleError(f"{self._where}: {key!r} is {value!r}; expected text")
        return value

    def optional_text(self, key: str) -> str | None:
        """Return a string value or None."""
        return self.text(key) if self._take(key) is not None else None

    def integer(self, key: str) -> int:
        """Return a whole number that is not negative."""
        value = self._take(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise BundleError(f"{self._where}: {key!r} is {value!r}; expected a whole number")
        return int(value)

    def mapping(self, key: str) -> dict[str, Any]:
        """Return a table as it stands."""
        value = self._take(key)
        if not isinstance(value, dict):
            raise BundleError(f"{self._where}: {key!r} is {value!r:.40}; expected a table")
        return value

    def table(self, key: str) -> Table:
        """Return a table to be read key by key."""
        return Table(self._take(key), f"{self._where}: {key}")

    def optional_table(self, key: str) -> Table | None:
        """Return a table to be read key by key, or None."""
        return self.table(key) if self._take(key) is not None else None

    def tables(self) -> list[tuple[str, Table]]:
        """Return every value of this table as a table."""
        self._left.clear()
        return [(k, Table(v, f"{self._where}: {k}")) for k, v in self._data.items()]

    def finish(self) -> None:
        """Refuse keys that nobody asked for."""
        if self._left:
            raise BundleError(
                f"{self._where} has unknown key {min(self._left)!r}; "
                "the bundle was made by another version or is damaged"
            )
