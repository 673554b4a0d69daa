"""The released codec's configuration, and a tiny one of the same form, as plain data.

`ttt_ref.codec.glm4voice.random_weights` writes them out; nothing that reads a codec uses them.
"""

from __future__ import annotations

from typing import Any

TOKENIZER: dict[str, Any] = {
    "model_type": "whisper",
    "architectures": ["WhisperVQEncoder"],
    "activation_function": "gelu",
    "d_model": 1280,
    "encoder_attention_heads": 20,
    "encoder_causal_attention": False,
    "encoder_causal_convolution": True,
    "encoder_ffn_dim": 5120,
    "encoder_layers": 32,
    "max_source_positions": 1500,
    "num_mel_bins": 128,
    "pooling_kernel_size": 4,
    "pooling_position": 16,
    "pooling_type": "avg",
    "quantize_causal_block_size": 200,
    "quantize_causal_encoder": False,
    "quantize_encoder_only": True,
    "quantize_position": 16,
    "quantize_vocab_size": 16384,
    "scale_embedding": False,
    "torch_dtype": "float32",
}

PREPROCESSOR: dict[str, Any] = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "chunk_length": 30,
    "feature_size": 128,
    "hop_length": 160,
    "n_fft": 400,
    "n_samples": 480000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": False,
    "sampling_rate": 16000,
}

TINY_TOKENIZER: dict[str, Any] = TOKENIZER | {
    "d_model": 48,
    "encoder_attention_heads": 3,
    "encoder_ffn_dim": 96,
    "encoder_layers": 3,
    "pooling_position": 2,
    "quantize_position": 2,
    "quantize_vocab_size": 64,
}

# The tiny one with the released code book, for checkpoints that speak the released codes.
SMALL_TOKENIZER: dict[str, Any] = TINY_TOKENIZER | {"quantize_vocab_size": 16384}

# Values of the decoder's YAML that differ between the two sizes.
DECODER = {
    "codes": 16384,
    "width": 512,
    "heads": 8,
    "ffn": 2048,
    "blocks": 6,
    "channels": 256,
    "head_dim": 64,
    "n_blocks": 4,
    "mid_blocks": 12,
    "estimator_heads": 8,
    "base": 512,
    "f0": 512,
}
TINY_DECODER = {
    "codes": 64,
    "width": 32,
    "heads": 4,
    "ffn": 64,
    "blocks": 1,
    "channels": 16,
    "head_dim": 8,
    "n_blocks": 1,
    "mid_blocks": 1,
    "estimator_heads": 3,
    "base": 16,
    "f0": 8,
}

SMALL_DECODER = TINY_DECODER | {"codes": 16384}

# The tags are the released file's habit: a reader must get the values without obeying them.
DECODER_YAML = """\
sample_rate: 22050
spk_embed_dim: 192

flow: !new:cosyvoice.flow.flow.MaskedDiffWithXvec
    input_size: {width}
    output_size: 80
    spk_embed_dim: !ref <spk_embed_dim>
    vocab_size: {codes}
    input_frame_rate: 12.5
    encoder: !new:cosyvoice.transformer.encoder.BlockConformerEncoder
        input_size: {width}
        output_size: {width}
        attention_heads: {heads}
        linear_units: {ffn}
        num_blocks: {blocks}
        normalize_before: True
        input_layer: 'linear'
        pos_enc_layer_type: 'rel_pos_espnet'
        block_size: 10
        use_cnn_module: False
        macaron_style: False
    length_regulator: !new:cosyvoice.flow.length_regulator.InterpolateRegulator
        channels: 80
        sampling_ratios: [1, 1, 1, 1]
    decoder: !new:cosyvoice.flow.flow_matching.ConditionalCFM
        cfm_params: !new:omegaconf.DictConfig
            content:
                solver: 'euler'
                t_scheduler: 'cosine'
                inference_cfg_rate: 0.7
        estimator: !new:cosyvoice.flow.decoder.ConditionalDecoder
            in_channels: 320
            out_channels: 80
            channels: [{channels}, {channels}]
            attention_head_dim: {head_dim}
            n_blocks: {n_blocks}
            num_mid_blocks: {mid_blocks}
            num_heads: {estimator_heads}
            act_fn: 'gelu'

hift: !new:cosyvoice.hifigan.generator.HiFTGenerator
    in_channels: 80
    base_channels: {base}
    nb_harmonics: 8
    sampling_rate: !ref <sample_rate>
    nsf_alpha: 0.1
    nsf_sigma: 0.003
    nsf_voiced_threshold: 10
    upsample_rates: [8, 8]
    upsample_kernel_sizes: [16, 16]
    istft_params:
        n_fft: 16
        hop_len: 4
    resblock_kernel_sizes: [3, 7, 11]
    resblock_dilation_sizes: [[1, 3, 5], [1, 3, 5], [1, 3, 5]]
    source_resblock_kernel_sizes: [7, 11]
    source_resblock_dilation_sizes: [[1, 3, 5], [1, 3, 5]]
    lrelu_slope: 0.1
    audio_limit: 0.99
    f0_predictor: !new:cosyvoice.hifigan.f0_predictor.ConvRNNF0Predictor
        num_class: 1
        in_channels: 80
        cond_channels: {f0}
"""
