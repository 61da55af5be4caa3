"""What a drill's clients want booked, as values, and what they know of it.

Lives here: transfers, sagas and answers. Must not live here: which ones there are (`transfers`, `sagas`), who sends
them (`load`), whether they are booked (`check`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import TypeAlias, assert_never

from twophase.sandbox.bank import Movement, Question, Sale

# What a deed leaves in a bank's books: on which account or item, and how much.
Entry: TypeAlias = tuple[str, int, Decimal]
Deed: TypeAlias = Movement | Sale | Question


class Told(Enum):
    """What a client knows of its transfer. UNKNOWN is never guessed away: the checker takes either outcome, whole."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Business(Enum):
    """What the clients of a drill do: transfers alone, by two-phase commit, or sagas with some transfers among them."""

    TRANSFERS = "transfers"
    SAGAS = "sagas"


@dataclass(frozen=True, slots=True)
class Transfer:
    """Movements, and sales, that belong together, by bank. `looks` are banks that are only asked."""

    name: str
    movements: tuple[tuple[str, Movement], ...]
    looks: tuple[str, ...] = ()
    sales: tuple[tuple[str, Sale], ...] = ()

    def deeds(self) -> Iterator[tuple[str, Deed]]:
        """Everything that it does, with the bank where."""
        yield from self.movements
        yield from self.sales
        yield from ((bank, Question(1)) for bank in self.looks)


@dataclass(frozen=True, slots=True)
class SagaStep:
    """One step of a saga; `after` and `pivot` as in the client's `step`."""

    name: str
    bank: str
    deed: Deed
    after: tuple[str, ...] | None = None
    pivot: bool = False


@dataclass(frozen=True, slots=True)
class Saga:
    """Steps that are all done in the end, or undone. `deadline` in seconds. `doomed`: it is made to be undone."""

    name: str
    steps: tuple[SagaStep, ...]
    deadline: float
    doomed: bool = False

    def deeds(self) -> Iterator[tuple[str, Deed]]:
        """Everything that it does, with the bank where."""
        for step in self.steps:
            yield step.bank, step.deed


@dataclass(frozen=True, slots=True)
class Answered:
    """When a client had its answer (monotonic clock), after how long, in seconds, and what it was told."""

    at: float
    seconds: float
    told: Told


@dataclass(slots=True)
class Record:
    """Everything that was sent, what is told of it by now, and the answers in their order."""

    told: dict[str, tuple[Transfer | Saga, Told]]
    answers: list[Answered] = field(default_factory=list)

    def count(self) -> Counter[Told]:
        """How many of each."""
        return Counter(told for _, told in self.told.values())


def entries_of(sent: Transfer | Saga) -> dict[str, Counter[Entry]]:
    """What it leaves in the books of every bank, if it is done."""
    found: dict[str, Counter[Entry]] = {}
    for bank, deed in sent.deeds():
        match deed:
            case Movement():
                entry = ("account", deed.account, deed.amount)
            case Sale():
                entry = ("item", deed.item, Decimal(deed.pieces))
            case Question():
                continue
            case _:
                assert_never(deed)
        found.setdefault(bank, Counter())[entry] += 1
    return found
