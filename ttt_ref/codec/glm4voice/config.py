"""Shapes and constants of the codec's four networks, read from the released configurations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttt_ref.errors import CodecError

TOKEN_RATE_HZ = 12.5
TOKENIZER_RATE_HZ = 16_000
SAMPLES_PER_TOKEN = 1_280  # 16 kHz / 12.5 Hz
SEGMENT_SAMPLES = 480_000  # 30 s: positions and attention start anew in each segment
DECODER_RATE_HZ = 22_050
DECODER_HOP = 256
MEL_BINS = 80


def _get(table: Mapping[str, Any], key: str, where: str) -> Any:
    if not isinstance(table, Mapping) or key not in table:
        raise CodecError(f"{where} lacks {key!r}; the codec config is damaged or of another codec")
    return table[key]


def _integer(table: Mapping[str, Any], key: str, where: str) -> int:
    value = _get(table, key, where)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= 1 << 24:
        raise CodecError(f"{where}: {key!r} is {value!r:.40}; expected a positive whole number")
    return value


def _expect(table: Mapping[str, Any], where: str, **wanted: Any) -> None:
    """Refuse settings under which the released code computes something else than we do."""
    for key, value in wanted.items():
        if key in table and table[key] != value:
            raise CodecError(
                f"{where}: {key!r} is {table[key]!r:.40}; this codec is implemented for {value!r}"
            )


@dataclass(frozen=True)
class TokenizerConfig:
    """The speech tokenizer: a Whisper encoder cut off after `layers` layers and quantized."""

    d_model: int
    heads: int
    ffn_dim: int
    layers: int
    mel_bins: int
    max_frames: int
    pool_frames: int
    block_frames: int
    num_codes: int

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        if self.d_model % self.heads:
            raise CodecError(f"tokenizer: width {self.d_model} is not a multiple of {self.heads}")
        if self.block_frames % self.pool_frames or self.max_frames % self.pool_frames:
            raise CodecError("tokenizer: block and segment must be whole numbers of tokens")

    @property
    def max_tokens(self) -> int:
        """Tokens in a full 30 s segment."""
        return self.max_frames // self.pool_frames

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TokenizerConfig:
        """Read the tokenizer's config.json; CodecError names what does not fit."""
        where = "tokenizer config.json"
        _expect(
            data,
            where,
            activation_function="gelu",
            scale_embedding=False,
            pooling_type="avg",
            quantize_causal_encoder=False,
            encoder_causal_attention=False,
            encoder_causal_convolution=True,
        )
        layers = _integer(data, "quantize_position", where)
        _expect(data, where, pooling_position=layers)
        return cls(
            d_model=_integer(data, "d_model", where),
            heads=_integer(data, "encoder_attention_heads", where),
            ffn_dim=_integer(data, "encoder_ffn_dim", where),
            layers=layers,
            mel_bins=_integer(data, "num_mel_bins", where),
            max_frames=_integer(data, "max_source_positions", where),
            pool_frames=_integer(data, "pooling_kernel_size", where),
            block_frames=_integer(data, "quantize_causal_block_size", where),
            num_codes=_integer(data, "quantize_vocab_size", where),
        )


@dataclass(frozen=True)
class FlowConfig:
    """The flow: speech tokens to log-mel frames."""

    num_codes: int
    width: int
    speaker_width: int
    encoder_heads: int
    encoder_ffn: int
    encoder_layers: int
    encoder_block: int
    estimator_channels: int
    estimator_heads: int
    estimator_head_dim: int
    estimator_layers: int
    estimator_mid_blocks: int
    guidance: float
    mel_bins: int = MEL_BINS

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        if self.width % (2 * self.encoder_heads):
            raise CodecError(
                f"flow: width {self.width} does not divide into {self.encoder_heads} even heads"
            )
        if self.estimator_channels % 8:
            raise CodecError(f"flow: {self.estimator_channels} channels; expected a multiple of 8")

    @property
    def estimator_inputs(self) -> int:
        """Channels that the estimator sees: x, mu, speaker, cond."""
        return 4 * self.mel_bins

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FlowConfig:
        """Read the `flow` section of config.yaml; CodecError names what does not fit."""
        where = "config.yaml flow"
        encoder = _get(data, "encoder", where)
        decoder = _get(data, "decoder", where)
        estimator = _get(decoder, "estimator", f"{where}.decoder")
        regulator = _get(data, "length_regulator", where)
        _expect(data, where, input_frame_rate=TOKEN_RATE_HZ, output_size=MEL_BINS)
        _expect(
            encoder,
            f"{where}.encoder",
            normalize_before=True,
            input_layer="linear",
            pos_enc_layer_type="rel_pos_espnet",
            use_cnn_module=False,
            macaron_style=False,
        )
        _expect(regulator, f"{where}.length_regulator", channels=80, sampling_ratios=[1, 1, 1, 1])
        cfm = _get(decoder, "cfm_params", f"{where}.decoder")
        cfm = cfm.get("content", cfm) if isinstance(cfm, Mapping) else cfm
        _expect(cfm, f"{where}.decoder.cfm_params", solver="euler", t_scheduler="cosine")
        guidance = float(_get(cfm, "inference_cfg_rate", f"{where}.decoder.cfm_params"))
        width = _integer(data, "input_size", where)
        _expect(encoder, f"{where}.encoder", output_size=width, input_size=width)
        where_e = f"{where}.decoder.estimator"
        _expect(estimator, where_e, in_channels=320, out_channels=80, act_fn="gelu")
        channels = _get(estimator, "channels", where_e)
        if not isinstance(channels, list) or len(channels) != 2 or channels[0] != channels[1]:
            raise CodecError(f"{where_e}: channels are {channels!r:.40}; expected two equal ones")
        return cls(
            num_codes=_integer(data, "vocab_size", where),
            width=width,
            speaker_width=_integer(data, "spk_embed_dim", where),
            encoder_heads=_integer(encoder, "attention_heads", f"{where}.encoder"),
            encoder_ffn=_integer(encoder, "linear_units", f"{where}.encoder"),
            encoder_layers=_integer(encoder, "num_blocks", f"{where}.encoder"),
            encoder_block=_integer(encoder, "block_size", f"{where}.encoder"),
            estimator_channels=_integer({"channels": channels[0]}, "channels", where_e),
            estimator_heads=_integer(estimator, "num_heads", where_e),
            estimator_head_dim=_integer(estimator, "attention_head_dim", where_e),
            estimator_layers=_integer(estimator, "n_blocks", where_e),
            estimator_mid_blocks=_integer(estimator, "num_mid_blocks", where_e),
            guidance=guidance,
        )


@dataclass(frozen=True)
class HiftConfig:
    """The vocoder: log-mel frames to 22.05 kHz audio."""

    channels: int
    f0_channels: int
    harmonics: int = 8
    sine_amplitude: float = 0.1
    noise_sigma: float = 0.003
    voiced_threshold_hz: float = 10.0
    mel_bins: int = MEL_BINS

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> HiftConfig:
        """Read the `hift` section of config.yaml; CodecError names what does not fit."""
        where = "config.yaml hift"
        three = [[1, 3, 5]]
        _expect(
            data,
            where,
            in_channels=MEL_BINS,
            sampling_rate=DECODER_RATE_HZ,
            upsample_rates=[8, 8],
            upsample_kernel_sizes=[16, 16],
            istft_params={"n_fft": 16, "hop_len": 4},
            resblock_kernel_sizes=[3, 7, 11],
            resblock_dilation_sizes=three * 3,
            source_resblock_kernel_sizes=[7, 11],
            source_resblock_dilation_sizes=three * 2,
            lrelu_slope=0.1,
            audio_limit=0.99,
        )
        predictor = _get(data, "f0_predictor", where)
        return cls(
            channels=_integer(data, "base_channels", where),
            f0_channels=_integer(predictor, "cond_channels", f"{where}.f0_predictor"),
            harmonics=_integer(data, "nb_harmonics", where),
            sine_amplitude=float(_get(data, "nsf_alpha", where)),
            noise_sigma=float(_get(data, "nsf_sigma", where)),
            voiced_threshold_hz=float(_get(data, "nsf_voiced_threshold", where)),
        )
