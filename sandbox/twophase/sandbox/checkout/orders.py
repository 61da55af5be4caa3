"""Orders as the demo's clients know them, and the operations that one becomes.

Lives here: the values. Must not live here: where they come from (`csv_orders`, `generated`), the services' own types.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

# Names that may stand in a request id as they are; others are hashed.
_PLAIN: Final = re.compile(r"[A-Za-z0-9._:-]{1,100}")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an order."""

    sku: str
    quantity: int
    unit_price: Decimal


@dataclass(frozen=True, slots=True)
class Order:
    """One order: what a client wants to happen in four databases or in none."""

    order_id: str
    customer_id: str
    area: str
    lines: tuple[Line, ...]

    @property
    def total(self) -> Decimal:
        """What it costs, exactly."""
        return sum((line.quantity * line.unit_price for line in self.lines), Decimal(0))

    @property
    def request_id(self) -> str:
        """The name of this piece of business for ever: the same order can commit only once, whoever sends it again."""
        if _PLAIN.fullmatch(self.order_id):
            return f"order/{self.order_id}"
        return f"order-sha256/{hashlib.sha256(self.order_id.encode()).hexdigest()}"

    def payloads(self) -> dict[str, dict[str, Any]]:
        """What each service is given. Money goes as strings, so that it stays exact."""
        lines = [
            {"sku": line.sku, "quantity": line.quantity, "unit_price": str(line.unit_price)} for line in self.lines
        ]
        items = [{"sku": line.sku, "quantity": line.quantity} for line in self.lines]
        return {
            "order": {
                "order_id": self.order_id,
                "customer_id": self.customer_id,
                "area": self.area,
                "lines": lines,
            },
            "inventory": {"order_id": self.order_id, "items": items},
            "payment": {
                "order_id": self.order_id,
                "customer_id": self.customer_id,
                "amount": str(self.total),
            },
            "delivery": {"order_id": self.order_id, "area": self.area},
        }
