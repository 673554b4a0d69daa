"""Read and write bundles: the folder from which a device answers.

Nothing outside the folder is ever opened through a bundle: every path in its configuration must
be relative, stay inside and contain no symbolic link that leads out. A bundle is written into a
hidden sibling folder and renamed when it is whole, so no reader ever sees half of one.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Final, Literal

from ttt_ref.bounded import CONFIG_BYTES, Unreadable, parse_json, read_bytes, shown
from ttt_ref.errors import BundleError, ConfigError
from ttt_ref.outputs import Staged
from ttt_runtime.bundle.manifest import (
    CONFIG_NAME,
    FORMAT_VERSION,
    BundleConfig,
    FileRecord,
    GraphEntry,
)

# Engines of bundles whose graphs onnxruntime runs with a cache of open length.
OPEN_CACHE: Final = ("cpu", "cuda")

Verify = Literal["auto", "sizes", "hashes"]

# "auto" hashes bundles up to this size: 64 MiB cost about 50 ms, the 3B model's 3 GB seconds.
AUTO_HASH_BYTES = 64 * 2**20
_CHUNK_BYTES = 1 << 20


def check_relative(path: str) -> PurePosixPath:
    """Return the path if it names something below the bundle; BundleError if not."""
    pure = PurePosixPath(path)
    bad_part = any(part in ("", ".", "..") for part in path.split("/"))
    if pure.is_absolute() or bad_part or "\\" in path or ":" in path or "\0" in path:
        raise BundleError(
            f"the bundle names the path {shown(path)}; only plain relative paths inside it are "
            "allowed"
        )
    return pure


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as lower-case hex."""
    import hashlib  # late: OpenSSL takes 4 MB, and large bundles are not hashed when opened

    digest = hashlib.sha256()
    piece = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:  # hashlib.file_digest came with Python 3.11
        while count := file.readinto(piece):
            digest.update(piece[:count])
    return digest.hexdigest()


class Bundle:
    """An opened and checked bundle. `config` says everything; `file` opens nothing but finds."""

    def __init__(self, path: Path, config: BundleConfig) -> None:
        self.path = path
        self.config = config

    @classmethod
    def open(cls, path: str | os.PathLike[str], verify: Verify = "auto") -> Bundle:
        """Read and check a bundle.

        Args:
            path: the bundle's folder.
            verify: `sizes` compares file sizes, `hashes` also SHA-256; `auto` hashes bundles
                of up to 64 MiB and compares only the sizes of larger ones.

        Raises:
            BundleError: one line that says what is wrong with the bundle.
        """
        folder = Path(path)
        if not folder.is_dir():
            seen = "a file, not a folder" if folder.exists() else "not there"
            raise BundleError(f"bundle {folder} is {seen}; give the folder that ttt-export wrote")
        bundle = cls(folder.resolve(), _read_config(folder / CONFIG_NAME))
        for name in bundle.config.named_files():
            bundle.file(name)
        bundle._check_sizes()
        total = sum(record.bytes for record in bundle.config.files.values())
        if verify == "hashes" or (verify == "auto" and total <= AUTO_HASH_BYTES):
            bundle.verify_hashes()
        return bundle

    def file(self, relative: str) -> Path:
        """Return the absolute path of a listed file; BundleError if unlisted or leading out."""
        check_relative(relative)
        if relative not in self.config.files:
            raise BundleError(
                f"bundle {self.path.name} uses {relative!r} but does not list it under files; "
                "export it again"
            )
        named = self.path / relative
        try:
            path = named.resolve()
        except (OSError, RuntimeError):  # RuntimeError: a loop, before Python 3.13
            path = named
        if path == named and named.is_symlink():
            raise BundleError(
                f"bundle {self.path.name}: {relative!r} is a link to itself; copy the file into "
                "the folder"
            )
        if not path.is_relative_to(self.path):
            raise BundleError(
                f"bundle {self.path.name}: {relative!r} is a link that leads out of the bundle; "
                "copy the file into the folder"
            )
        return path

    def graph(self, name: str) -> GraphEntry:
        """Return the entry of a model graph; BundleError if the bundle has none of that name."""
        try:
            return self.config.graphs[name]
        except KeyError:
            have = ", ".join(self.config.graphs) or "none"
            raise BundleError(
                f"bundle {self.config.name} has no graph {name!r} (it has {have})"
            ) from None

    def codec_graph(self, name: str) -> GraphEntry:
        """Return the entry of a codec graph; BundleError if there is none of that name."""
        graphs: Mapping[str, GraphEntry] = self.config.codec.graphs if self.config.codec else {}
        if name not in graphs:
            have = ", ".join(graphs) or "none"
            raise BundleError(
                f"bundle {self.config.name} has no codec graph {name!r} (it has {have})"
            )
        return graphs[name]

    def _check_sizes(self) -> None:
        for relative, record in self.config.files.items():
            path = self.file(relative)
            if not path.is_file():
                raise BundleError(
                    f"bundle {self.path.name} lacks its file {relative!r}; copy or export it again"
                )
            size = path.stat().st_size
            if size != record.bytes:
                raise BundleError(
                    f"bundle {self.path.name}: {relative!r} has {size} bytes, expected "
                    f"{record.bytes}; the copy is incomplete, fetch or export it again"
                )
        emb = self.config.embeddings
        if emb.scales_file is not None and self.config.files[emb.scales_file].bytes != 4 * emb.rows:
            raise BundleError(
                f"bundle {self.path.name}: {emb.scales_file!r} has "
                f"{self.config.files[emb.scales_file].bytes} bytes, {emb.rows} scales need "
                f"{4 * emb.rows}"
            )
        if self.config.files[emb.file].bytes != self.config.embedding_bytes():
            raise BundleError(
                f"bundle {self.path.name}: the table {emb.file!r} has "
                f"{self.config.files[emb.file].bytes} bytes, {emb.rows} x {emb.columns} "
                f"{emb.dtype} need {self.config.embedding_bytes()}"
            )

    def verify_hashes(self) -> None:
        """Compare every file with its SHA-256; BundleError names the first that differs."""
        for relative, record in self.config.files.items():
            if sha256_of(self.file(relative)) != record.sha256:
                raise BundleError(
                    f"bundle {self.path.name}: the contents of {relative!r} are not what was "
                    "exported (wrong SHA-256); fetch or export it again"
                )


def _read_config(path: Path) -> BundleConfig:
    where = f"bundle {path.parent.name}"
    try:
        data: Any = parse_json(read_bytes(path, CONFIG_BYTES, BundleError))
    except FileNotFoundError:
        raise BundleError(
            f"{path.parent} has no {CONFIG_NAME}, so it is not a bundle; "
            "give the folder that ttt-export wrote"
        ) from None
    except Unreadable as reason:
        raise BundleError(
            f"{where}: {CONFIG_NAME} is cut short or damaged ({reason}); export it again"
        ) from None
    version = data.get("format_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise BundleError(
            f"{where} has format version {shown(version)}, this program reads up to "
            f"{FORMAT_VERSION}; update ttt-edge"
        )
    if isinstance(version, bool) or version != FORMAT_VERSION:
        raise BundleError(
            f"{where}: format_version is {shown(version)}, expected {FORMAT_VERSION}; "
            "export it again"
        )
    try:
        return BundleConfig.from_dict(data)
    except BundleError as error:
        raise BundleError(f"{where}: {error}") from None
    except ConfigError as error:
        raise BundleError(
            f"{where}: {error}; the bundle was made by another version or is damaged"
        ) from None


class BundleWriter:
    """Write a bundle: files first, then :meth:`publish` makes it appear whole.

        with BundleWriter(out) as writer:
            export_to(writer.path("decoder.onnx"))
            writer.publish(config)

    Leaving the block without `publish`, for whatever reason, removes everything written.

    Args:
        out: folder to create. Its parent is created when missing.
        overwrite: replace `out` if it is a bundle already; any other non-empty folder is refused.
    """

    def __init__(self, out: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self.out = Path(out).absolute()
        if self.out.exists() and not self._may_replace(overwrite):
            raise BundleError(
                f"{self.out} exists and is not empty; choose another folder"
                + ("" if overwrite else ", or say --force if it is an old bundle")
            )
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self._staged = Staged(self.out, folder=True)

    def _may_replace(self, overwrite: bool) -> bool:
        if not self.out.is_dir():
            return False
        return not any(self.out.iterdir()) or (overwrite and (self.out / CONFIG_NAME).is_file())

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.discard()

    @property
    def folder(self) -> Path:
        """The temporary folder that becomes the bundle."""
        return self._staged.path

    def path(self, relative: str) -> Path:
        """Return where to write the file of this relative path; its folder is made."""
        check_relative(relative)
        path = self.folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def add_bytes(self, relative: str, data: bytes) -> None:
        """Write a file from memory."""
        self.path(relative).write_bytes(data)

    def add_file(self, relative: str, source: str | os.PathLike[str]) -> None:
        """Copy a file in (the contents, never a link)."""
        shutil.copyfile(source, self.path(relative))

    def seal(self, config: BundleConfig) -> Path:
        """Hash every file written and add the configuration; returns the temporary folder.

        `config.files` is replaced by what was found. What was sealed is a whole bundle that can
        be opened and run, but nobody sees it yet; files may still be added before `publish`.
        """
        files = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_symlink():
                raise BundleError(f"{path.name!r} is a link; a bundle holds only plain files")
            relative = path.relative_to(self.folder).as_posix()
            if path.is_file() and relative != CONFIG_NAME:
                files[relative] = FileRecord(sha256_of(path), path.stat().st_size)
        whole = replace(config, files=files, format_version=FORMAT_VERSION)
        text = json.dumps(whole.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        (self.folder / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")
        Bundle.open(self.folder, verify="sizes")
        return self.folder

    def publish(self, config: BundleConfig) -> Path:
        """Seal what was written and rename it into place.

        It is opened once from the temporary folder first: a bundle that cannot be read back is
        never published.
        """
        self.seal(config)
        self._staged.commit()
        return self.out

    def discard(self) -> None:
        """Remove what was written, unless it was published."""
        self._staged.discard()


def wrong_engine(bundle: Bundle, device: str) -> str:
    """Return the line that refuses a bundle on a device that its graphs were not made for."""
    return (
        f"bundle {bundle.config.name} was made for {bundle.config.engine}, device {device!r} needs "
        f"another; export it with -e {device}, or choose --device "
        f"{bundle.config.engine if bundle.config.engine not in OPEN_CACHE else 'cpu'}"
    )
