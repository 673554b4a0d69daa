"""The vocoder as two graphs: mel to pitch, and mel with excitation to audio.

The excitation itself is made outside: it needs a sum over the whole sound in float64 and noise.
Fourier transforms are convolutions; the inverse one divides by the overlapped window that the
very same convolution makes of ones, so the edges are exact at any length.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from torch import Tensor, nn

from ttt_export.codec.ops import Ops, Precision, array
from ttt_ref.codec.glm4voice.hift import (
    AUDIO_LIMIT,
    LAST_SLOPE,
    MAX_MAGNITUDE,
    SLOPE,
    Hift,
    SnakeBlock,
)
from ttt_ref.codec.glm4voice.istft import BINS, HOP, N_FFT
from ttt_runtime.bundle.graph_spec import GraphSpec
from ttt_runtime.codec.glm4voice.graphs import vocoder_f0_spec, vocoder_spec


def write_vocoder_f0(path: Path, hift: Hift, precision: Precision) -> GraphSpec:
    """Write the graph mel -> f0 and return its spec."""
    spec = vocoder_f0_spec(hift.config.mel_bins)
    ops = Ops(path, precision)
    x = ops.computed("mel")
    for index, part in enumerate(hift.f0_predictor.condnet):
        x = ops.conv(x, f"f0.{index}", part) if isinstance(part, nn.Conv1d) else ops.node("Elu", x)
    classifier = hift.f0_predictor.classifier
    x = ops.to_float32(ops.transpose(x, 0, 2, 1))
    weight = ops.const32(np.ascontiguousarray(array(classifier.weight).T))
    x = ops.node("Add", ops.node("MatMul", x, weight), ops.const32(classifier.bias))
    ops.node("Abs", ops.node("Squeeze", x, ops.ints(2)), out="f0_hz")
    ops.finish(spec)
    return spec


def _snake(ops: Ops, x: str, alpha: nn.Parameter) -> str:
    values = array(alpha)[None, None, :] if _by_rows(ops) else array(alpha)[None, :, None]
    sine = ops.node("Sin", ops.node("Mul", x, ops.const(values)))
    wave = ops.node("Mul", ops.node("Mul", sine, sine), ops.const(1.0 / (values + 1e-9)))
    return ops.node("Add", x, wave)


def _by_rows(ops: Ops) -> bool:
    """True if the blocks run channels last, which integer products want."""
    return ops.precision.conv == "dynamic"


def _snake_block(ops: Ops, name: str, block: SnakeBlock, x: str) -> str:
    conv = ops.conv_rows if _by_rows(ops) else ops.conv
    for index in range(len(block.convs1)):
        h = _snake(ops, x, block.activations1[index].alpha)  # type: ignore[arg-type]
        h = conv(h, f"{name}.convs1.{index}", block.convs1[index])  # type: ignore[arg-type]
        h = _snake(ops, h, block.activations2[index].alpha)  # type: ignore[arg-type]
        h = conv(h, f"{name}.convs2.{index}", block.convs2[index])  # type: ignore[arg-type]
        x = ops.node("Add", x, h)
    return x


def _analyse(ops: Ops, hift: Hift) -> str:
    """Return the excitation's Fourier transform [1, 18, L]."""
    half = N_FFT // 2
    padded = ops.node("Pad", "source", ops.ints(0, 0, half, 0, 0, half), mode="reflect")
    kernel = ops.const32(hift.analysis)
    return ops.node("Conv", padded, kernel, kernel_shape=[N_FFT], strides=[HOP])


def _synthesise(ops: Ops, hift: Hift, spectrum: str) -> None:
    """Turn 9 log magnitudes and 9 phase arguments [1, 18, L] into `audio` [1, T]."""
    level, angle = ops.split(spectrum, [BINS, BINS], axis=1)
    magnitude = ops.node("Min", ops.node("Exp", level), ops.const32(MAX_MAGNITUDE))
    phase = ops.node("Sin", angle)
    real = ops.node("Mul", magnitude, ops.node("Cos", phase))
    imag = ops.node("Mul", magnitude, ops.node("Sin", phase))
    parts = ops.node("Concat", real, imag, axis=1)
    one = onnx.numpy_helper.from_array(np.ones(1, dtype=np.float32))
    ones = ops.node("ConstantOfShape", ops.node("Shape", ops.slice(angle, 0, 1, 1)), value=one)

    def overlap_add(frames: str, kernel: Tensor) -> str:
        # The padding cuts the half window before the first and after the last sample.
        return ops.node(
            "ConvTranspose",
            frames,
            ops.const32(kernel),
            kernel_shape=[N_FFT],
            strides=[HOP],
            pads=[N_FFT // 2, N_FFT // 2],
        )

    summed, weight = overlap_add(parts, hift.synthesis), overlap_add(ones, hift.envelope)
    audio = ops.node("Squeeze", ops.node("Div", summed, weight), ops.ints(1))
    limit = ops.const32(-AUDIO_LIMIT), ops.const32(AUDIO_LIMIT)
    ops.node("Clip", audio, *limit, out="audio")


def write_vocoder(path: Path, hift: Hift, precision: Precision) -> GraphSpec:
    """Write the graph (mel, source) -> audio and return its spec."""
    spec = vocoder_spec(hift.config.mel_bins)
    ops = Ops(path, precision)
    harmonics = ops.computed(_analyse(ops, hift))
    x = ops.conv(ops.computed("mel"), "pre", hift.conv_pre)
    for stage in range(2):
        x = ops.node("LeakyRelu", x, alpha=SLOPE)
        x = ops.conv_transpose(x, f"up.{stage}", hift.ups[stage])  # type: ignore[arg-type]
        if stage == 1:
            x = ops.node("Pad", x, ops.ints(0, 0, 1, 0, 0, 0), mode="reflect")
        source = ops.conv(
            harmonics,
            f"source_down.{stage}",
            hift.source_downs[stage],  # type: ignore[arg-type]
        )
        if _by_rows(ops):
            x, source = (ops.transpose(part, 0, 2, 1) for part in (x, source))
        block = hift.source_resblocks[stage]
        assert isinstance(block, SnakeBlock)
        x = ops.node("Add", x, _snake_block(ops, f"source.{stage}", block, source))
        three = []
        for index in range(3 * stage, 3 * stage + 3):
            block = hift.resblocks[index]
            assert isinstance(block, SnakeBlock)
            three.append(_snake_block(ops, f"res.{index}", block, x))
        total = ops.node("Add", ops.node("Add", three[0], three[1]), three[2])
        x = ops.node("Mul", total, ops.const(1.0 / 3.0))
        x = ops.transpose(x, 0, 2, 1) if _by_rows(ops) else x
    x = ops.conv(ops.node("LeakyRelu", x, alpha=LAST_SLOPE), "post", hift.conv_post)
    _synthesise(ops, hift, ops.to_float32(x))
    ops.finish(spec)
    return spec
