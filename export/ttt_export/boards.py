"""Boards and graphics cards with their makers' figures, for estimates of what nobody here has run.

Sources: NVIDIA's data sheets of Jetson Orin Nano (Super), Orin NX, AGX Orin and Thor T5000 and of
the GeForce cards; Raspberry Pi's of the Pi 5 and Arm's guide to the Cortex-A76.

The shares say how much of those figures a forward reaches. Measured on our CPU kernels at 0.5B
(docs/performance.md, "the floor"): a text step takes 1.2 to 1.5 times the reading of its weights at
the rate that the machine reads with, a block 1.5 to 1.6 times its products at the measured peak. A
machine reads less than its maker's figure: 13.2 of 17.1 GB/s on a Raspberry Pi 5 (measured by users
of llama.cpp). For a GPU both shares are an assumption.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Shares:
    """Shares of a maker's figures that a forward reaches: of bandwidth, and of products."""

    bandwidth: float
    products: float


_GPU: Final = Shares(0.6, 0.35)
SHARES: Final[Mapping[str, Shares]] = {
    "cpu": Shares(0.75 * 0.8, 0.62 * 0.8),
    "tensorrt": _GPU,
    "rtx": _GPU,
}


@dataclass(frozen=True)
class Board:
    """One board or card.

    Attributes:
        name: as it is sold.
        target: row of `machine.targets`.
        engine: what would run the model.
        precision: of the weights in the estimate.
        bandwidth_gbps: peak of its memory, giga bytes a second.
        peak_tops: dense tera operations a second of the products that the engine makes.
        products: the type of those.
    """

    name: str
    target: str
    engine: str
    precision: str
    bandwidth_gbps: float
    peak_tops: float
    products: str


def _jetson(name: str, target: str, bandwidth_gbps: float, peak_tops: float) -> list[Board]:
    return [
        Board(name, target, "tensorrt", precision, bandwidth_gbps, peak_tops, "fp16")
        for precision in ("int4", "fp16")
    ]


def _card(name: str, bandwidth_gbps: float, peak_tops: float) -> list[Board]:
    return [
        Board(name, "desktop-rtx", "rtx", precision, bandwidth_gbps, peak_tops, "fp16")
        for precision in ("int4", "fp16")
    ]


BOARDS: Final = (
    *_jetson("Jetson Orin Nano 8 GB, 25 W", "jetson-orin-jp6", 102, 16.7),
    *_jetson("Jetson Orin NX 16 GB, 25 W", "jetson-orin-jp6", 102, 15),
    *_jetson("Jetson AGX Orin 64 GB, 60 W", "jetson-orin-jp7", 205, 42),
    *_jetson("Jetson Thor T5000, 130 W", "jetson-thor", 273, 258),
    # Four cores at 2.4 GHz, two 128-bit dot products of 16 multiply-adds a cycle.
    Board("Raspberry Pi 5", "raspberry-pi-5", "cpu", "int4", 17.1, 0.61, "int8"),
    *_card("GeForce RTX 3060 12 GB", 360, 25.5),
    *_card("GeForce RTX 4070", 504, 58),
    *_card("GeForce RTX 4090", 1008, 165),
)
