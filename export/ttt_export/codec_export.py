"""Find the checkpoint's speech codec and have its own exporter write it into the bundle."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ttt_export.source import CODEC_PATTERNS, Checkpoint, find_checkpoint
from ttt_ref.errors import CheckpointError, ExportError
from ttt_runtime.audio.input_settings import KEY as INPUT_KEY
from ttt_runtime.audio.input_settings import InputSettings
from ttt_runtime.bundle.folder import Bundle, BundleWriter
from ttt_runtime.bundle.manifest import CodecEntry

CODEC_FOLDER = "codec"
BUILTIN = "ttt_export.codec.builtin"
GLM4VOICE = "ttt_export.codec.glm4voice"
CODEC_REPORT_FILE = "codec/report.json"


def export_codec(
    checkpoint: Checkpoint,
    bundle: BundleWriter,
    engine: str,
    speech_tokenizer: Path | None = None,
    speech_decoder: Path | None = None,
    precision: str = "fp32",
) -> CodecEntry | None:
    """Write the codec's graphs and return its entry; None for a checkpoint without a codec.

    The exporters are `export_builtin(folder, bundle, engine, precision)` and
    `export_glm4voice(speech_tokenizer, speech_decoder, bundle, engine, precision)`; both return
    the entry.

    Args:
        checkpoint: its config.json names the codec under `ttt_codec`, and there what recordings
            go through (`audio_front_end`, see `InputSettings`); the files of the built-in codec lie
            in its `codec` folder.
        bundle: where the graphs go.
        engine: what they are made for.
        speech_tokenizer: folder of the GLM-4-Voice speech tokenizer.
        speech_decoder: folder of the GLM-4-Voice speech decoder.
        precision: of the codec; the built-in codec has `fp32` and, for all others, `int8`.

    Raises:
        CheckpointError: the codec's type is unknown or its files are missing.
        ExportError: only one half of a GLM-4-Voice codec was given.
    """
    if (speech_tokenizer is None) != (speech_decoder is None):
        raise ExportError("--speech-tokenizer and --speech-decoder belong together; give both")
    if speech_tokenizer is not None and speech_decoder is not None:
        entry = _exporter(GLM4VOICE, "export_glm4voice")(
            speech_tokenizer, speech_decoder, bundle, engine, precision
        )
        return _checked(entry)
    named = checkpoint.raw_config.get("ttt_codec")
    if named is None:
        return None
    kind = named.get("type") if isinstance(named, Mapping) else None
    if kind == "glm4voice":
        return None  # its weights are separate downloads; the two options name them
    if kind != "builtin":
        raise CheckpointError(
            f"{checkpoint.path}: config.json: ttt_codec type is {kind!r}; "
            "expected 'builtin' or 'glm4voice'"
        )
    folder = checkpoint.path / CODEC_FOLDER
    if not folder.is_dir():
        raise CheckpointError(
            f"{checkpoint.path} names the built-in codec but has no {CODEC_FOLDER} folder"
        )
    stored = "fp32" if precision == "fp32" else "int8"
    entry = _checked(_exporter(BUILTIN, "export_builtin")(folder, bundle, engine, stored))
    if INPUT_KEY in named:
        entry = replace(entry, params={**entry.params, INPUT_KEY: named[INPUT_KEY]})
    InputSettings.of_codec(entry)  # settings that no bundle could be read with are refused now
    return entry


def copy_codec(source: Path, bundle: BundleWriter) -> CodecEntry:
    """Take the codec of a finished bundle, graphs and all, and return its entry.

    Raises:
        BundleError: `source` is no whole bundle.
        ExportError: it has no codec.
    """
    given = Bundle.open(source)
    entry = given.config.codec
    if entry is None:
        raise ExportError(f"bundle {source} has no codec; --codec-from wants one that has")
    for name in given.config.files:
        if name.startswith(f"{CODEC_FOLDER}/"):
            bundle.add_file(name, given.file(name))
    return entry


def find_codec(name: Path | None, local_files_only: bool = False) -> Path | None:
    """Return the folder of one half of a codec: a folder, or a hub name (org/name).

    Raises:
        CheckpointError: neither a folder nor a repository that can be had.
    """
    if name is None:
        return None
    return find_checkpoint(
        name.as_posix(), local_files_only=local_files_only, patterns=CODEC_PATTERNS
    )


def codec_report(bundle: BundleWriter) -> dict[str, Any]:
    """Return what a codec's exporter measured and left in the bundle; empty if it left nothing."""
    path = bundle.folder / CODEC_REPORT_FILE
    if not path.is_file():
        return {}
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def _exporter(module: str, function: str) -> Any:
    return getattr(importlib.import_module(module), function)


def _checked(entry: Any) -> CodecEntry:
    assert isinstance(entry, CodecEntry), f"a codec exporter returned {type(entry).__name__}"
    return entry
