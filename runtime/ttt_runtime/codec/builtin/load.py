"""Load the built-in codec from a bundle."""

from __future__ import annotations

import math

from ttt_ref.errors import BundleError
from ttt_runtime.backends.ort.session import GraphSession, SessionSettings
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.graph_check import compare_specs
from ttt_runtime.codec.builtin.decoder import BuiltinDecoder
from ttt_runtime.codec.builtin.params import DecoderParams, TokenizerParams
from ttt_runtime.codec.builtin.specs import (
    DECODER_GRAPH,
    TOKENIZER_GRAPH,
    decoder_spec,
    tokenizer_spec,
)
from ttt_runtime.codec.builtin.tokenizer import BuiltinTokenizer

_MOST_STATE = 1 << 24  # numbers that the decoder remembers


def check(bundle: Bundle) -> int:
    """Hold params and specs of the codec to each other, without a graph; return its codes."""
    return _params(bundle)[0].num_codes


def _params(bundle: Bundle) -> tuple[TokenizerParams, DecoderParams]:
    entry = bundle.config.codec
    if entry is None or entry.params.keys() - {"audio_front_end"} != {"tokenizer", "decoder"}:
        raise BundleError(
            f"bundle {bundle.config.name} lacks the built-in codec's params; export it again"
        )
    tokenizer = TokenizerParams.from_dict(entry.params["tokenizer"])
    decoder = DecoderParams.from_dict(entry.params["decoder"])
    if tokenizer.num_codes != decoder.num_codes:
        raise BundleError(
            f"bundle {bundle.config.name}: the speech tokenizer has {tokenizer.num_codes} codes, "
            f"the decoder {decoder.num_codes}; export both from one checkpoint"
        )
    spec = bundle.codec_graph(TOKENIZER_GRAPH).spec
    compare_specs(TOKENIZER_GRAPH, spec, tokenizer_spec(tokenizer), "codec's params")
    spec = bundle.codec_graph(DECODER_GRAPH).spec
    state = spec.input("past").shape
    if math.prod(d if isinstance(d, int) else _MOST_STATE + 1 for d in state) > _MOST_STATE:
        raise BundleError(
            f"graph {DECODER_GRAPH}: its state has the shape {list(state)}; expected up to "
            f"{_MOST_STATE} numbers; export the bundle again"
        )
    compare_specs(DECODER_GRAPH, spec, decoder_spec(decoder, state), "codec's params")
    return tokenizer, decoder


def load(bundle: Bundle, settings: SessionSettings) -> tuple[BuiltinTokenizer, BuiltinDecoder]:
    """Load both halves.

    Raises:
        BundleError: params or graphs are missing or do not fit.
        DeviceError: the device of ``settings`` is not there.
    """
    tokenizer, decoder = _params(bundle)

    def session(name: str) -> GraphSession:
        graph = bundle.codec_graph(name)
        return GraphSession(bundle.file(graph.file), graph.spec, settings)

    return (
        BuiltinTokenizer(tokenizer, session(TOKENIZER_GRAPH)),
        BuiltinDecoder(decoder, session(DECODER_GRAPH)),
    )
