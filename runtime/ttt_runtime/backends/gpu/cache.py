"""The KV cache in device memory.

Most graphs write it where they read it: one block a tensor. A graph that returns the whole cache as
a new tensor (basic operators in an engine) reads one block and writes another, by turns.
"""

from __future__ import annotations

from ttt_ref.errors import BundleError, ConfigError
from ttt_runtime.backends.gpu.memory import Memory
from ttt_runtime.backends.kv_cache import WrittenRows
from ttt_runtime.bundle.graph_spec import GraphSpec


class DeviceCache(WrittenRows):
    """K and V of all layers for up to `capacity` rows; see `kv_cache.WrittenRows`.

    Args:
        memory: where the blocks come from; they begin as zeros, since masked rows have no weight
            but must be finite.
        spec: the decoder's spec.
        capacity: rows to keep.
        in_place: the graph writes the cache at the address where it reads it.

    Attributes:
        addresses: device address of every past and present tensor as the next forward takes them.
        turn: tells the sets of addresses apart.
        committed: rows that a forward has written.
    """

    def __init__(
        self, memory: Memory, spec: GraphSpec, capacity: int, *, in_place: bool = True
    ) -> None:
        tensors = [t for t in spec.inputs if t.name.startswith("past_")]
        if not tensors:
            raise BundleError(f"graph {spec.name!r} has no past_k / past_v inputs")
        fixed = spec.input("mask").shape[1]
        if isinstance(fixed, int) and capacity != fixed:
            raise ConfigError(f"cache of {capacity} rows; this decoder is built for {fixed}")
        if isinstance(fixed, str) and spec.attributes.get("cache_layout", "rows") != "rows":
            raise BundleError(
                f"graph {spec.name!r} has a cache of open length whose rows are not contiguous; "
                "export it again"
            )
        super().__init__(capacity)
        self.turn = 0
        self._turns: list[dict[str, int]] = [{} for _ in range(1 if in_place else 2)]
        self._blocks = []
        for tensor in tensors:
            size = tensor.bytes({"C": capacity})
            blocks = [memory.allocate(size) for _ in self._turns]
            self._blocks += blocks  # the addresses alone would not keep them
            present = tensor.name.replace("past_", "present_", 1)
            for turn, addresses in enumerate(self._turns):
                addresses[tensor.name] = blocks[turn].address
                addresses[present] = blocks[turn - 1].address  # with one block, the same

    @property
    def addresses(self) -> dict[str, int]:
        """See the class."""
        return self._turns[self.turn]

    def advance(self) -> None:
        """Let the next forward read what the one before has written."""
        self.turn = (self.turn + 1) % len(self._turns)
