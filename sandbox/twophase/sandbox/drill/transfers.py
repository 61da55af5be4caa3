"""The transfers and orders of a drill's clients, of every kind that two-phase commit treats differently.

Lives here: the kinds, and how often each comes up. Must not live here: who sends them (`load`), sagas (`sagas`).
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Final

from twophase.sandbox.bank import Movement
from twophase.sandbox.drill.business import Transfer
from twophase.sandbox.drill.chance import FORTUNE, Chance

_SLOW: Final = 0.25


class Transfers:
    """Makes them up."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self._kinds: Final[dict[Callable[[str], Transfer], int]] = {
            self._between_two: 6,
            self._among_three: 2,
            self._among_four: 1,
            self._order: 3,
            self._order_elsewhere: 1,
            self._inside_one: 3,
            self._inside_one_refused: 1,
            self._looks: 1,
            self._refused: 2,
            self._refused_while_slow: 1,
        }

    def any(self, name: str) -> Transfer:
        """One of them."""
        return self._chance.one_of(self._kinds)(name)

    def probe(self, name: str, here: str, there: str) -> Transfer:
        """One between two banks, on accounts that nobody else uses."""
        amount, account = self._chance.amount(), self._chance.kept_account()
        return Transfer(name, ((here, Movement(name, account, -amount)), (there, Movement(name, account, amount))))

    def _between_two(self, name: str) -> Transfer:
        here, there = self._chance.banks(2)
        amount = self._chance.amount()
        return Transfer(name, ((here, self._move(name, -amount)), (there, self._move(name, amount))))

    def _among_three(self, name: str) -> Transfer:
        first, second, third = self._chance.banks(3)
        amount = self._chance.amount()
        movements = (first, -2 * amount), (second, amount), (third, amount)
        return Transfer(name, tuple((bank, self._move(name, each)) for bank, each in movements))

    def _among_four(self, name: str) -> Transfer:
        payer, *others = self._chance.banks(4)
        amount = self._chance.amount()
        movements = (payer, self._move(name, -3 * amount)), *((bank, self._move(name, amount)) for bank in others)
        return Transfer(name, movements)

    def _order(self, name: str) -> Transfer:
        """From the shop of one bank, paid from an account of another. The shops sell out, so some are refused."""
        shop, payer = self._chance.banks(2)
        return self._sold(name, shop, (shop, self._chance.amount()), payer)

    def _order_elsewhere(self, name: str) -> Transfer:
        """The shop's account is at a third bank."""
        shop, seller, payer = self._chance.banks(3)
        return self._sold(name, shop, (seller, self._chance.amount()), payer)

    def _sold(self, name: str, shop: str, price: tuple[str, Decimal], payer: str) -> Transfer:
        seller, amount = price
        movements = (payer, self._move(name, -amount)), (seller, self._move(name, amount))
        return Transfer(name, movements, sales=((shop, self._chance.sale(name)),))

    def _inside_one(self, name: str) -> Transfer:
        bank, other = self._chance.banks(2)
        amount = self._chance.amount()
        looks = (other,) if self._chance.happens(1 / 2) else ()
        return Transfer(name, ((bank, self._move(name, -amount)), (bank, self._move(name, amount))), looks)

    def _inside_one_refused(self, name: str) -> Transfer:
        return Transfer(name, ((self._chance.bank(), self._move(name, -FORTUNE)),))

    def _looks(self, name: str) -> Transfer:
        return Transfer(name, (), tuple(self._chance.banks(2)))

    def _refused(self, name: str) -> Transfer:
        here, there = self._chance.banks(2)
        return Transfer(name, ((here, self._move(name, FORTUNE)), (there, self._move(name, -FORTUNE))))

    def _refused_while_slow(self, name: str) -> Transfer:
        here, there = self._chance.banks(2)
        slow = self._chance.move(name, FORTUNE, seconds=_SLOW)
        return Transfer(name, ((here, slow), (there, self._move(name, -FORTUNE))))

    def _move(self, name: str, amount: Decimal) -> Movement:
        return self._chance.move(name, amount)
