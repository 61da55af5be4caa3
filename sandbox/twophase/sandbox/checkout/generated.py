"""Orders made up from a seed: the same seed, the same orders.

Lives here: a small wholesale business in which, with the demo's defaults, some orders fail for each reason.
"""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Final

from twophase.sandbox.checkout.orders import Line, Order

CLOSED_AREA: Final = "Atlantis"
_AREAS: Final = ("Århus", "Bräcke", "Cork", "Genève", "Köln", "Lisboa", "São Paulo", "Walla Walla", CLOSED_AREA)
_CUSTOMERS: Final = 30
_SKUS: Final = 18


def generate_orders(count: int, seed: int) -> list[Order]:
    """`count` orders of a few lines each; not two lines of an order have the same SKU."""
    chance = random.Random(seed)  # noqa: S311 - no secret, and it must be repeatable
    catalogue = {f"SKU-{number:02}": Decimal(chance.randrange(200, 4500, 25)) / 100 for number in range(1, _SKUS + 1)}
    customers = [f"C{number:03}" for number in range(1, _CUSTOMERS + 1)]
    home = {customer: _AREAS[number % len(_AREAS)] for number, customer in enumerate(customers)}
    orders = []
    for number in range(1, count + 1):
        customer = chance.choice(customers)
        skus = chance.sample(sorted(catalogue), chance.choice((1, 2, 2, 3, 4)))
        lines = tuple(Line(sku, chance.randint(1, 50), catalogue[sku]) for sku in skus)
        orders.append(Order(f"O-{number:05}", customer, home[customer], lines))
    return orders
