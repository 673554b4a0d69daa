"""Load the built-in codec from a bundle."""

from __future__ import annotations

from ttt_ref.errors import BundleError
from ttt_runtime.backends.ort.session import GraphSession, SessionSettings
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.codec.builtin.decoder import BuiltinDecoder
from ttt_runtime.codec.builtin.params import DecoderParams, TokenizerParams
from ttt_runtime.codec.builtin.tokenizer import BuiltinTokenizer

TOKENIZER_GRAPH = "speech_tokenizer"
DECODER_GRAPH = "speech_decoder"


def load(bundle: Bundle, settings: SessionSettings) -> tuple[BuiltinTokenizer, BuiltinDecoder]:
    """Load both halves.

    Raises:
        BundleError: params or graphs are missing or do not fit.
        DeviceError: the device of ``settings`` is not there.
    """
    entry = bundle.config.codec
    if entry is None or entry.params.keys() - {"audio_front_end"} != {"tokenizer", "decoder"}:
        raise BundleError(
            f"bundle {bundle.config.name} lacks the built-in codec's params; export it again"
        )

    def session(name: str) -> GraphSession:
        graph = bundle.codec_graph(name)
        return GraphSession(bundle.file(graph.file), graph.spec, settings)

    return (
        BuiltinTokenizer(
            TokenizerParams.from_dict(entry.params["tokenizer"]), session(TOKENIZER_GRAPH)
        ),
        BuiltinDecoder(DecoderParams.from_dict(entry.params["decoder"]), session(DECODER_GRAPH)),
    )
