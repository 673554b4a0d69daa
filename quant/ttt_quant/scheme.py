"""What a weight becomes: storage schemes, and the blocked integer form of a matrix.

A matrix is W [K, N], K the input and N the output channels, as a graph's MatMul holds it. Integer
schemes share one scale between `block` consecutive input channels of one output channel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttt_ref.errors import ConfigError

Float32Array = NDArray[np.float32]

FLOAT_KINDS = ("float32", "float16", "bfloat16")
INTEGER_KINDS = ("int8", "int4")
# float8 e4m3 on both sides of a product: weights with a scale for each output channel, inputs with
# one scale that calibration finds. Its largest number is 448.
FP8 = "fp8"
FP8_LARGEST = 448.0
ALGORITHMS = ("rtn", "clip", "hqq", "gptq", "awq")
# onnxruntime's blocked kernels want a power of two of at least 16.
BLOCKS = (128, 64, 32, 16)


@dataclass(frozen=True)
class Scheme:
    """How one weight is stored.

    Attributes:
        kind: a float type, int8 / int4 in blocks, or fp8 (inputs and weights).
        block: input channels that share a scale; a smaller one is taken where K needs it.
        algorithm: how the integers are found.
        symmetric: no zero points. HQQ is asymmetric by nature and ignores this.
        whole_columns: one scale for each output channel, whatever `block` says (8 bit only).
    """

    kind: str = "float32"
    block: int = 128
    algorithm: str = "rtn"
    symmetric: bool = True
    whole_columns: bool = False

    def __post_init__(self) -> None:
        if self.kind not in (*FLOAT_KINDS, *INTEGER_KINDS, FP8):
            known = ", ".join((*FLOAT_KINDS, *INTEGER_KINDS, FP8))
            raise ConfigError(f"weight scheme {self.kind!r} is unknown; expected one of {known}")
        if self.whole_columns and (self.kind != "int8" or self.has_zeros):
            raise ConfigError(
                f"whole_columns is for int8 without zero points, not for {self.kind} "
                f"{self.algorithm}"
            )
        if self.block not in BLOCKS and not self.whole_columns:
            raise ConfigError(
                f"block size {self.block!r} is not supported; expected one of "
                f"{', '.join(map(str, BLOCKS))}"
            )
        if self.algorithm not in ALGORITHMS:
            raise ConfigError(
                f"quantization algorithm {self.algorithm!r} is unknown; expected one of "
                f"{', '.join(ALGORITHMS)}"
            )

    @property
    def is_integer(self) -> bool:
        """True for the blocked integer kinds."""
        return self.kind in INTEGER_KINDS

    @property
    def rounds_inputs(self) -> bool:
        """True if the graph itself rounds what the matrix receives, by a calibrated scale."""
        return self.kind == FP8

    @property
    def has_zeros(self) -> bool:
        """True if blocks have zero points."""
        asymmetric = not self.symmetric and self.algorithm in ("rtn", "clip", "gptq", "awq")
        return self.is_integer and (self.algorithm == "hqq" or asymmetric)

    @property
    def bits(self) -> int:
        """Bits of one stored weight."""
        sizes = {"float32": 32, "float16": 16, "bfloat16": 16, "int8": 8, FP8: 8, "int4": 4}
        return sizes[self.kind]

    def fitted(self, input_width: int) -> Scheme:
        """Return the scheme for a matrix of this K: the largest block that divides K.

        A K that no block divides stays float16: rare, small, and never silently wrong.
        """
        if not self.is_integer:
            return self
        if self.whole_columns:
            return replace(self, block=input_width)
        for block in BLOCKS:
            if block <= self.block and input_width % block == 0:
                return replace(self, block=block)
        return replace(self, kind="float16")

    def describe(self) -> str:
        """Return a short name such as `int4 b128 gptq`."""
        if not self.is_integer:
            return self.kind
        size = "column" if self.whole_columns else f"b{self.block}"
        return f"{self.kind} {size} {self.algorithm}"


@dataclass(frozen=True)
class BlockQuantized:
    """A matrix as integers with a scale for each block.

    Attributes:
        codes: int8 [K, N], inside -2^(bits-1) .. 2^(bits-1)-1.
        scales: float32 [K / block, N].
        zeros: int8 [K / block, N], subtracted from the codes before scaling, or None.
        bits: 4 or 8.
        block: input channels to a scale.
    """

    codes: NDArray[np.int8]
    scales: Float32Array
    zeros: NDArray[np.int8] | None
    bits: int
    block: int

    def dequantize(self) -> Float32Array:
        """Return the matrix that an engine computes with, float32 [K, N]."""
        values = self.codes.astype(np.float32, order="C")
        blocks = values.reshape(len(self.scales), self.block, -1)  # a view: no copy of the matrix
        if self.zeros is not None:
            blocks -= self.zeros[:, None, :]
        blocks *= self.scales[:, None, :]
        return values

    def columns(self, start: int, stop: int) -> BlockQuantized:
        """Return output channels start..stop-1."""
        zeros = None if self.zeros is None else self.zeros[:, start:stop]
        scales = self.scales[:, start:stop]
        return replace(self, codes=self.codes[:, start:stop], scales=scales, zeros=zeros)


def code_range(bits: int) -> tuple[int, int]:
    """Return the smallest and the largest code."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def pack_nibbles(codes: NDArray[Any]) -> NDArray[np.uint8]:
    """Pack 4-bit codes two to a byte, row-major, the first in the low half; odd counts get a 0."""
    # Views and work in place: the text head of a 3B model has 310 million codes.
    flat = np.ascontiguousarray(codes, dtype=np.int8).reshape(-1).view(np.uint8)
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    packed: NDArray[np.uint8] = np.left_shift(flat[1::2], np.uint8(4))
    packed |= np.bitwise_and(flat[0::2], np.uint8(15))
    return packed


def unpack_nibbles(packed: NDArray[np.uint8], count: int) -> NDArray[np.int8]:
    """Return `count` signed 4-bit codes as int8; the inverse of `pack_nibbles`."""
    codes = np.empty(2 * packed.size, dtype=np.int8)
    # Shifting a signed byte to the right repeats its sign.
    np.right_shift(packed.view(np.int8), 4, out=codes[1::2])
    codes[0::2] = np.left_shift(packed, np.uint8(4)).view(np.int8)
    np.right_shift(codes[0::2], 4, out=codes[0::2])
    return codes[:count]
