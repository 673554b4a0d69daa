"""What a draw needs of long logits, found by the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ttt_runtime.backends.base import Floats, Ids
from ttt_runtime.backends.native.kernels import Kernels
from ttt_runtime.backends.native.structures import TopKFinder, address

PARTS: Final = 2
LONGEST: Final = 256  # more of the largest are found faster by a partition


class NativeTopK:
    """See `base.TopKFinder`."""

    def __init__(self, kernels: Kernels) -> None:
        self._kernels = kernels
        self._ids: Ids = np.zeros(LONGEST, np.int64)
        self._values: Floats = np.zeros(LONGEST, np.float32)
        self._sum: NDArray[np.float64] = np.zeros(1)
        self._call = TopKFinder(
            ids=address(self._ids), values=address(self._values), sum=address(self._sum)
        )

    def is_worthwhile(self, parts: Sequence[Floats], count: int) -> bool:
        """See `base.TopKFinder.is_worthwhile`."""
        return 0 < count <= min(LONGEST, sum(map(len, parts))) and len(parts) <= PARTS

    def find(
        self, parts: Sequence[Floats], count: int, per_unit: np.float32
    ) -> tuple[Ids, Floats, float]:
        """See `base.TopKFinder.find`."""
        call = self._call
        with self._kernels.lock:
            call.widths[1] = 0
            for number, part in enumerate(parts):
                call.parts[number], call.widths[number] = address(part), len(part)
            call.count, call.per_unit = count, per_unit
            self._kernels.find(call)
            return self._ids[:count].copy(), self._values[:count].copy(), float(self._sum[0])
