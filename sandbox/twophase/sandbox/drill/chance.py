"""Chance, under a seed: which banks, accounts and amounts.

Lives here: the drawing. Must not live here: what is made of it (`transfers`, `sagas`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final, TypeVar

from twophase.sandbox.bank import ACCOUNTS, ITEMS, NAMES, Movement, Sale

_T = TypeVar("_T")

# More than anybody has.
FORTUNE: Final = Decimal(1_000_000)
# Accounts that only probes use, so that no probe waits for a row which a transaction of the load holds.
_KEPT: Final = 8


class Chance:
    """Draws; the same things from the same seed, if they are asked for in the same order."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - no secret, and it must be repeatable

    def happens(self, probability: float) -> bool:
        """True with this probability."""
        return self._random.random() < probability

    def one_of(self, weights: Mapping[Callable[[str], _T], int]) -> Callable[[str], _T]:
        """One of these, by their weights."""
        (chosen,) = self._random.choices(list(weights), list(weights.values()))
        return chosen

    def bank(self) -> str:
        """One bank."""
        return self._random.choice(NAMES)

    def banks(self, number: int) -> list[str]:
        """So many, none twice."""
        return self._random.sample(NAMES, number)

    def amount(self) -> Decimal:
        """Some money, little of what an account holds."""
        return Decimal(self._random.randint(1, 500)) / 100

    def move(self, name: str, amount: Decimal, *, seconds: float = 0.0) -> Movement:
        """A movement on some account."""
        return Movement(name, self._random.randint(1, ACCOUNTS - _KEPT), amount, seconds)

    def sale(self, name: str) -> Sale:
        """A piece of something, or two."""
        return Sale(name, self._random.randint(1, ITEMS), self._random.randint(1, 2))

    def kept_account(self) -> int:
        """An account that is kept for probes."""
        return self._random.randint(ACCOUNTS - _KEPT + 1, ACCOUNTS)
