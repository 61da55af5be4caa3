"""The sagas of a drill's clients: in order and as graphs, with and without a pivot, done, refused and too slow.

Lives here: the kinds, and how often each comes up. Must not live here: who sends them (`load`), how they are drilled
(`undoing`).

A fortune is only ever asked for, never given: others would see it, and spend it.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Final

from twophase.sandbox.bank import Question, Sale
from twophase.sandbox.drill.business import Deed, Saga, SagaStep
from twophase.sandbox.drill.chance import FORTUNE, Chance

_DEADLINE: Final = 5.0
# Seconds: what a bank thinks about, and what its client gives it and everything else.
_SLOW: Final = 0.4
_SHORT: Final = 0.2


class Sagas:
    """Makes them up."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self._fine: Final[dict[Callable[[str], Saga], int]] = {
            self._between_two: 3,
            self._among_three: 3,
            self._order: 3,
            self._delivery: 3,
            self._looks_first: 1,
            self._inside_one: 1,
        }
        self._doomed: Final[dict[Callable[[str], Saga], int]] = {
            self._refused_at_once: 1,
            self._refused_in_the_middle: 2,
            self._refused_at_last: 2,
            self._refused_beside_others: 2,
            self._unpaid: 3,
            self._too_slow: 3,
        }

    def fine(self, name: str) -> Saga:
        """One that is done, unless something fails."""
        return self._chance.one_of(self._fine)(name)

    def doomed(self, name: str) -> Saga:
        """One that is refused at some step, or too slow."""
        return self._chance.one_of(self._doomed)(name)

    # --- done ---------------------------------------------------------------------------------------------------------

    def _between_two(self, name: str) -> Saga:
        here, there = self._chance.banks(2)
        return self._given(name, here, there)

    def _among_three(self, name: str) -> Saga:
        """The two that get something get it at the same time."""
        payer, *others = self._chance.banks(3)
        amount = self._chance.amount()
        gifts = (SagaStep(f"give-{bank}", bank, self._move(name, amount), ("take",)) for bank in others)
        return _saga(name, SagaStep("take", payer, self._move(name, -2 * amount)), *gifts)

    def _order(self, name: str) -> Saga:
        """Goods and a look at the price at the same time, then the payment: what follows it must be done."""
        shop, payer, seller = self._chance.banks(3)
        amount = self._chance.amount()
        return _saga(
            name,
            SagaStep("reserve", shop, self._chance.sale(name), ()),
            SagaStep("look", seller, Question(1), ()),
            SagaStep("pay", payer, self._move(name, -amount), ("reserve", "look"), pivot=True),
            SagaStep("cash", seller, self._move(name, amount)),
        )

    def _delivery(self, name: str) -> Saga:
        """The shop pays for what it gets, so that it does not sell out for ever."""
        shop, supplier = self._chance.banks(2)
        amount, sold = self._chance.amount(), self._chance.sale(name)
        return _saga(
            name,
            SagaStep("pay", shop, self._move(name, -amount), pivot=True),
            SagaStep("cash", supplier, self._move(name, amount), ("pay",)),
            SagaStep("store", shop, Sale(name, sold.item, -sold.pieces), ("pay",)),
        )

    def _looks_first(self, name: str) -> Saga:
        here, there, asked = self._chance.banks(3)
        amount = self._chance.amount()
        return _saga(
            name,
            SagaStep("look", asked, Question(1)),
            SagaStep("take", here, self._move(name, -amount)),
            SagaStep("give", there, self._move(name, amount)),
        )

    def _inside_one(self, name: str) -> Saga:
        """Two steps at one bank are two branches."""
        bank = self._chance.bank()
        return self._given(name, bank, bank)

    # --- undone -------------------------------------------------------------------------------------------------------

    def _refused_at_once(self, name: str) -> Saga:
        here, there = self._chance.banks(2)
        refused = SagaStep("refused", here, self._move(name, -FORTUNE))
        return _saga(name, refused, SagaStep("give", there, self._move(name, self._chance.amount())), doomed=True)

    def _refused_in_the_middle(self, name: str) -> Saga:
        here, there, beyond = self._chance.banks(3)
        amount = self._chance.amount()
        return _saga(
            name,
            SagaStep("take", here, self._move(name, -amount)),
            SagaStep("refused", there, self._move(name, -FORTUNE)),
            SagaStep("give", beyond, self._move(name, amount)),
            doomed=True,
        )

    def _refused_at_last(self, name: str) -> Saga:
        """What was done at three steps, two of them at one bank, is undone."""
        here, there, beyond = self._chance.banks(3)
        amount = self._chance.amount()
        return _saga(
            name,
            SagaStep("take", here, self._move(name, -2 * amount)),
            SagaStep("give", there, self._move(name, amount)),
            SagaStep("give-back", here, self._move(name, amount)),
            SagaStep("refused", beyond, self._move(name, -FORTUNE)),
            doomed=True,
        )

    def _refused_beside_others(self, name: str) -> Saga:
        """The others are done, under way or not yet there when one is refused."""
        first, second, third, fourth = self._chance.banks(4)
        amount = self._chance.amount()
        slow = self._chance.move(name, amount, seconds=_SLOW / 8)
        return _saga(
            name,
            SagaStep("take", first, self._move(name, -2 * amount), ()),
            SagaStep("refused", second, self._move(name, -FORTUNE), ()),
            SagaStep("give", third, slow, ("take",)),
            SagaStep("give-too", fourth, self._move(name, amount), ("take",)),
            doomed=True,
        )

    def _unpaid(self, name: str) -> Saga:
        """The goods are reserved, and the payment is refused: it is the pivot, so that the shop takes them back."""
        shop, payer, seller = self._chance.banks(3)
        return _saga(
            name,
            SagaStep("reserve", shop, self._chance.sale(name)),
            SagaStep("pay", payer, self._move(name, -FORTUNE), pivot=True),
            SagaStep("cash", seller, self._move(name, FORTUNE)),
            doomed=True,
        )

    def _too_slow(self, name: str) -> Saga:
        """The deadline passes while a bank thinks."""
        here, there, beyond = self._chance.banks(3)
        amount = self._chance.amount()
        steps = (
            SagaStep("take", here, self._move(name, -2 * amount)),
            SagaStep("think", there, self._chance.move(name, amount, seconds=_SLOW)),
            SagaStep("give", beyond, self._move(name, amount)),
        )
        return Saga(name, steps, _SHORT, doomed=True)

    def _given(self, name: str, here: str, there: str) -> Saga:
        amount = self._chance.amount()
        taken = SagaStep("take", here, self._move(name, -amount))
        return _saga(name, taken, SagaStep("give", there, self._move(name, amount)))

    def _move(self, name: str, amount: Decimal) -> Deed:
        return self._chance.move(name, amount)


def _saga(name: str, *steps: SagaStep, doomed: bool = False) -> Saga:
    return Saga(name, steps, _DEADLINE, doomed=doomed)
