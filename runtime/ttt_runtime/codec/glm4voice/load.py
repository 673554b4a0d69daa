"""Load the codec's graphs from a bundle."""

from __future__ import annotations

from collections.abc import Callable

from ttt_ref.errors import BundleError
from ttt_runtime.backends.ort.session import GraphSession, SessionSettings
from ttt_runtime.bundle.folder import Bundle
from ttt_runtime.bundle.graph_check import compare_specs
from ttt_runtime.codec.glm4voice import graphs
from ttt_runtime.codec.glm4voice.decoder import Flow, Glm4VoiceDecoder
from ttt_runtime.codec.glm4voice.params import DecoderParams, TokenizerParams
from ttt_runtime.codec.glm4voice.tokenizer import Glm4VoiceTokenizer
from ttt_runtime.codec.glm4voice.vocoder import Vocoder


def assemble(
    tokenizer: TokenizerParams, decoder: DecoderParams, session: Callable[[str], GraphSession]
) -> tuple[Glm4VoiceTokenizer, Glm4VoiceDecoder]:
    """Return tokenizer and decoder over the graphs that `session` loads by name."""
    flow = Flow(session(graphs.FLOW_ENCODER), session(graphs.FLOW_VELOCITY), decoder)
    vocoder = Vocoder(session(graphs.VOCODER_F0), session(graphs.VOCODER), decoder)
    return (
        Glm4VoiceTokenizer(session(graphs.TOKENIZER), tokenizer),
        Glm4VoiceDecoder(flow, vocoder),
    )


def check(bundle: Bundle) -> int:
    """Check the codec's params without a graph; return the size of its code book."""
    tokenizer, decoder = _params(bundle)
    for spec in (
        graphs.flow_encoder_spec(decoder.mel_bins),
        graphs.flow_velocity_spec(decoder.mel_bins),
        graphs.vocoder_f0_spec(decoder.mel_bins),
        graphs.vocoder_spec(decoder.mel_bins),
    ):
        given = bundle.codec_graph(spec.name).spec
        compare_specs(spec.name, given, spec, "codec's params")
    given = bundle.codec_graph(graphs.TOKENIZER).spec
    dtype = given.input("past_k.0").dtype
    expected = graphs.tokenizer_spec(tokenizer, dtype)
    compare_specs(expected.name, given, expected, "codec's params")
    return tokenizer.num_codes


def load(bundle: Bundle, settings: SessionSettings) -> tuple[Glm4VoiceTokenizer, Glm4VoiceDecoder]:
    """Return the bundle's speech tokenizer and decoder.

    Raises:
        BundleError: params or graphs are missing or wrong.
        DeviceError: the device is not there.
    """
    tokenizer, decoder = _params(bundle)

    def session(name: str) -> GraphSession:
        entry = bundle.codec_graph(name)
        return GraphSession(bundle.file(entry.file), entry.spec, settings)

    return assemble(tokenizer, decoder, session)


def _params(bundle: Bundle) -> tuple[TokenizerParams, DecoderParams]:
    codec = bundle.config.codec
    params = dict(codec.params) if codec is not None else {}
    params.pop("audio_front_end", None)  # the input chain's
    if params.keys() != {"tokenizer", "decoder"}:
        raise BundleError(
            f"bundle {bundle.config.name}: the codec's params need exactly the keys decoder and "
            f"tokenizer, they have {', '.join(sorted(params)) or 'none'}; export it again"
        )
    tokenizer = TokenizerParams.from_dict(params["tokenizer"])
    decoder = DecoderParams.from_dict(params["decoder"])
    if tokenizer.num_codes != decoder.num_codes:
        raise BundleError(
            f"bundle {bundle.config.name}: the speech tokenizer has {tokenizer.num_codes} codes, "
            f"the decoder {decoder.num_codes}; export both from one release"
        )
    return tokenizer, decoder
