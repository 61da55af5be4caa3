"""Which row is wanted: uniform, Zipf, or one of a few hot ones.

Lives here: drawing row numbers. Must not live here: what is done to the rows (`business`).
"""

from __future__ import annotations

import bisect
import itertools
import random
from functools import lru_cache


class Zipf:
    """Draws 1..`size`, rank k as probable as 1/k**`exponent` in proportion, by the inverse of the distribution."""

    def __init__(self, size: int, exponent: float) -> None:
        """Raises ValueError for no rows, or a negative exponent. 0 is uniform."""
        if size < 1 or exponent < 0:
            raise ValueError(f"{size} rows with exponent {exponent}: give at least one row, and an exponent from 0")
        self._sums: list[float] = list(itertools.accumulate(float(rank) ** -exponent for rank in range(1, size + 1)))

    def draw(self, chance: random.Random) -> int:
        """One rank; each is one draw of `chance`."""
        at = chance.random() * self._sums[-1]
        return min(bisect.bisect_right(self._sums, at) + 1, len(self._sums))

    def share(self, rank: int) -> float:
        """How probable a rank is."""
        before = self._sums[rank - 2] if rank > 1 else 0.0
        return (self._sums[rank - 1] - before) / self._sums[-1]


@lru_cache(maxsize=8)
def zipf(size: int, exponent: float) -> Zipf:
    """The same, made once: its table is as long as there are rows."""
    return Zipf(size, exponent)
