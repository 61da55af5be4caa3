"""The workload: transfers between two banks, from a seed, and the books of what was done.

Lives here: values. Must not live here: anything that carries a transfer out.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from twophase.benchmarks.bank import LEFT, NAMES, RIGHT

_LARGEST: Final = 100


@dataclass(frozen=True, slots=True)
class Transfer:
    """`amount` goes from an account of the left bank to one of the right bank; it may be negative, never zero."""

    left: int
    right: int
    amount: int


def transfers(seed: str, client: int, accounts: int) -> Iterator[Transfer]:
    """What one client sends, without end, uniform over the accounts: the same for every contender."""
    chance = random.Random(f"{seed}/{client}")  # noqa: S311 - no secret, and it must be repeatable
    while True:
        amount = chance.randint(1, _LARGEST) * chance.choice((-1, 1))
        yield Transfer(chance.randint(1, accounts), chance.randint(1, accounts), amount)


@dataclass(frozen=True, slots=True)
class Books:
    """By bank, by how much the transfers that were told done have changed each account."""

    changes: Mapping[str, Counter[int]] = field(default_factory=lambda: {name: Counter() for name in NAMES})

    def enter(self, transfer: Transfer) -> None:
        """One more transfer is done."""
        self.changes[LEFT][transfer.left] -= transfer.amount
        self.changes[RIGHT][transfer.right] += transfer.amount

    def add(self, other: Books) -> None:
        """All that is in the other books is done, too."""
        for name, changed in other.changes.items():
            for account, amount in changed.items():
                self.changes[name][account] += amount

    def to_json(self) -> dict[str, list[tuple[int, int]]]:
        """For `from_json`."""
        return {name: list(changed.items()) for name, changed in self.changes.items()}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What `to_json` made."""
        return cls({name: Counter(dict(map(tuple, found[name]))) for name in NAMES})


@dataclass(frozen=True, slots=True)
class Order:
    """One round of one contender: so many clients, each sending one transfer after the other (a closed loop).

    They send for `warm_up` seconds, and then for `seconds` that count. Same `seed`, same transfers.
    """

    clients: int
    seconds: float
    warm_up: float
    seed: str
    accounts: int


@dataclass(slots=True)
class Tally:
    """What happened in a round. `ends` and `latencies` in seconds, `txids` the coordinator's names of what is done.

    `refused` transfers left nothing behind. `begin` and `end` are the limits of the time that counts.
    """

    ends: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    txids: list[str] = field(default_factory=list)
    books: Books = field(default_factory=Books)
    refused: int = 0
    begin: float = 0.0
    end: float = 0.0

    def done(self, transfer: Transfer, txid: str, *, began: float, now: float) -> None:
        """A transfer that was told done."""
        self.ends.append(now)
        self.latencies.append(now - began)
        self.books.enter(transfer)
        if txid:
            self.txids.append(txid)

    def add(self, other: Tally) -> None:
        """What another client of the round did."""
        self.ends += other.ends
        self.latencies += other.latencies
        self.txids += other.txids
        self.books.add(other.books)
        self.refused += other.refused

    def to_json(self) -> dict[str, Any]:
        """The latencies (milliseconds) of what was done in the time that counts, and everything that was done."""
        inside = [
            round(1000 * latency, 3)
            for end, latency in zip(self.ends, self.latencies, strict=True)
            if self.begin <= end < self.end
        ]
        return {
            "latencies_ms": inside,
            "seconds": self.end - self.begin,
            "committed": len(self.ends),
            "refused": self.refused,
            "txids": self.txids,
            "books": self.books.to_json(),
        }
