"""What the device runner asks of a loaded graph, whichever library has loaded it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from ttt_runtime.bundle.graph_spec import GraphSpec

# Starts a graph on the tensors it was bound to; what is launched after it sees its results.
Launch = Callable[[], None]


class Graph(Protocol):
    """A loaded graph."""

    @property
    def spec(self) -> GraphSpec:
        """Names, types and shapes."""

    @property
    def all_outputs(self) -> bool:
        """True if every output needs an address, asked for or not."""

    @property
    def in_place(self) -> bool:
        """True if a decoder writes its cache at the address where it reads it."""

    @property
    def most_rows(self) -> int | None:
        """The largest number of rows that one launch takes; None for any."""

    def bind(self, dims: Mapping[str, int], addresses: Mapping[str, int]) -> Launch:
        """Return what runs the graph on tensors at these device addresses.

        Args:
            dims: number of every named dimension.
            addresses: of all inputs, and of the outputs that are wanted.
        """
