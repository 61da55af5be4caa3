"""What there is before the first order.

Lives here: one value, so that options can be checked before anything heavy is imported. Must not live here: how it gets
into the databases (`services`).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Opening:
    """Pieces of every SKU, money of every customer, areas where nobody drives."""

    stock: int
    funds: Decimal
    closed_areas: tuple[str, ...]
