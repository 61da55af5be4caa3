"""What the clients of a drill send, one after the other: transfers, or sagas with transfers among them.

Lives here: the mixture. Must not live here: the kinds (`transfers`, `sagas`), the clients (`load`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from twophase.sandbox.drill.business import Business, Saga, Transfer
from twophase.sandbox.drill.chance import Chance
from twophase.sandbox.drill.sagas import Sagas
from twophase.sandbox.drill.transfers import Transfers

# How many are transfers where sagas are the business, and how many of the sagas are made to be undone.
_TRANSFERS_AMONG_SAGAS: Final = 0.2
_DOOMED: Final = 0.4


def work_of(business: Business, seed: int) -> Iterator[Transfer | Saga]:
    """Without an end; the same from the same seed."""
    chance = Chance(seed)
    transfers, sagas = Transfers(chance), Sagas(chance)
    for number in itertools.count(1):
        name = f"s{seed}/{number}"
        match business:
            case Business.SAGAS if not chance.happens(_TRANSFERS_AMONG_SAGAS):
                yield sagas.doomed(name) if chance.happens(_DOOMED) else sagas.fine(name)
            case _:
                yield transfers.any(name)


def sagas_of(number: int, seed: int, *, doomed: float) -> Iterator[Saga]:
    """So many sagas, of which this part is made to be undone."""
    chance = Chance(seed)
    sagas = Sagas(chance)
    for each in range(1, number + 1):
        name = f"s{seed}/{each}"
        yield sagas.doomed(name) if chance.happens(doomed) else sagas.fine(name)
