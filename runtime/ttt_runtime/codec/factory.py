"""Find the codec that a bundle names. Implementations are imported only when they are asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ttt_ref.errors import BundleError
from ttt_runtime.backends.ort.session import SessionSettings
from ttt_runtime.backends.tensorrt.api import FLAVOURS
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.codec.base import SpeechDecoder, SpeechTokenizer
from ttt_runtime.machine.device import Device

# Codec type -> module with `load(bundle, settings) -> (SpeechTokenizer, SpeechDecoder)`.
_MODULES = {
    "builtin": "ttt_runtime.codec.builtin",
    "glm4voice": "ttt_runtime.codec.glm4voice",
}


def codec_device(device: str) -> str:
    """Return where the codec runs when the model runs on `device`: `cpu` or `cuda:N`.

    As the device's name says (`rtx/cpu`); else beside the model, and for engines on the same GPU
    where onnxruntime's CUDA provider loads, on the CPU where it does not. `ttt-doctor` tells which.
    """
    parsed = Device.parse(device)
    place = parsed.codec or parsed.name
    if place in FLAVOURS:
        from ttt_runtime.backends.probe import check_engine  # late: it tries engines

        place = "cuda" if check_engine("cuda").loads else "cpu"
    return place if place == "cpu" else f"{place}:{parsed.index}"


def check_codec(bundle: Bundle) -> Any:
    """Return the module of the bundle's codec, whose params were checked; no graph is loaded.

    Raises:
        BundleError: the bundle has no codec, one of an unknown type, or one with another code
            book than the model.
    """
    entry = bundle.config.codec
    if entry is None:
        raise BundleError(
            f"bundle {bundle.config.name} has no codec, so it knows token ids but no sound; "
            "export the model together with a codec"
        )
    if entry.type not in _MODULES:
        raise BundleError(
            f"bundle {bundle.config.name} has a codec of type {entry.type!r}; this program knows "
            f"{', '.join(_MODULES)}; update ttt-edge"
        )
    module = import_module(_MODULES[entry.type])
    codes: int = module.check(bundle)
    if codes != bundle.config.layout.num_codes:
        raise BundleError(
            f"bundle {bundle.config.name}: the codec has {codes} codes, the model "
            f"{bundle.config.layout.num_codes}"
        )
    return module


def load_codec(
    bundle: Bundle, device: str = "cpu", *, threads: int | None = None
) -> tuple[SpeechTokenizer, SpeechDecoder]:
    """Load the bundle's codec; see `codec_device` for where. Errors: see `check_codec`."""
    module = check_codec(bundle)
    tokenizer: SpeechTokenizer
    decoder: SpeechDecoder
    tokenizer, decoder = module.load(bundle, SessionSettings(codec_device(device), threads))
    return tokenizer, decoder
