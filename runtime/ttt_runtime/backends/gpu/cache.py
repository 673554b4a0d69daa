"""The KV cache in device memory: one block a tensor, read and written at the same address."""

from __future__ import annotations

from ttt_ref.errors import BundleError, ConfigError
from ttt_runtime.backends.gpu.memory import Memory
from ttt_runtime.backends.kv_cache import WrittenRows
from ttt_runtime.bundle.graph_spec import GraphSpec


class DeviceCache(WrittenRows):
    """K and V of all layers for up to `capacity` rows; see `cache.WrittenRows`.

    Args:
        memory: where the blocks come from; they begin as zeros, since masked rows have no weight
            but must be finite.
        spec: the decoder's spec.
        capacity: rows to keep.

    Attributes:
        addresses: device address of every past and present tensor; the two of a pair are one.
        committed: rows that a forward has written.
    """

    def __init__(self, memory: Memory, spec: GraphSpec, capacity: int) -> None:
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
        self.addresses: dict[str, int] = {}
        self._blocks = []
        for tensor in tensors:
            block = memory.allocate(tensor.bytes({"C": capacity}))
            self._blocks.append(block)  # the addresses alone would not keep them
            present = tensor.name.replace("past_", "present_", 1)
            self.addresses[tensor.name] = self.addresses[present] = block.address
