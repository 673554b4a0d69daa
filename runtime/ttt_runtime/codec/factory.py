"""Find the codec that a bundle names. Implementations are imported only when they are asked for."""

from __future__ import annotations

from importlib import import_module

from ttt_ref.errors import BundleError
from ttt_runtime.bundle import Bundle
from ttt_runtime.codec.base import SpeechDecoder, SpeechTokenizer
from ttt_runtime.session import SessionSettings

# Codec type -> module with `load(bundle, settings) -> (SpeechTokenizer, SpeechDecoder)`.
_MODULES = {
    "builtin": "ttt_runtime.codec.builtin",
    "glm4voice": "ttt_runtime.codec.glm4voice",
}


def load_codec(
    bundle: Bundle, device: str = "cpu", *, threads: int | None = None
) -> tuple[SpeechTokenizer, SpeechDecoder]:
    """Load the bundle's codec.

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
    tokenizer: SpeechTokenizer
    decoder: SpeechDecoder
    tokenizer, decoder = module.load(bundle, SessionSettings(device, threads))
    if tokenizer.num_codes != bundle.config.layout.num_codes:
        raise BundleError(
            f"bundle {bundle.config.name}: the codec has {tokenizer.num_codes} codes, the model "
            f"{bundle.config.layout.num_codes}"
        )
    return tokenizer, decoder
