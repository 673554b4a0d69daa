"""Boards and graphics cards with their makers' figures, for estimates of what nobody here has run.

Sources: NVIDIA's data sheets of Jetson Orin Nano (Super), Orin NX, AGX Orin and Thor T5000 and of
the GeForce cards; Raspberry Pi's of the Pi 5 and Arm's guide to the Cortex-A76.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


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
