"""What the databases hold after a load: whether it adds up, and when each part of each deed was written and seen.

Lives here: reading with SQL, comparing with what clients were told. Must not live here: loads (`bench`). A report over
databases in which anything is wrong is void.

Times are the database's, in seconds since 1970: `written` was stamped with the row locked, `seen` is the commit's own
time stamp (`track_commit_timestamp`), for a prepared branch that of COMMIT PREPARED. The lock goes a moment after that,
when the commit record is flushed; for every contender alike.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, LiteralString, TypeAlias, assert_never

import psycopg

from twophase.benchmarks.report.measure.bank import MARKED, OPENING
from twophase.benchmarks.report.measure.business import Deed, Transfer
from twophase.benchmarks.report.measure.task import Answer, Told

_SHOWN: Final = 3
_MOVEMENTS: Final[LiteralString] = """
SELECT deed, account, amount, undo, extract(epoch FROM written)::float8,
       extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8
FROM movement ORDER BY id"""
_WRONG_BALANCES: Final[LiteralString] = """
SELECT id, balance, expected FROM account LEFT JOIN
  (SELECT account AS id, sum(amount) AS moved FROM movement GROUP BY account) AS told USING (id)
CROSS JOIN LATERAL (SELECT CASE id WHEN %(marked)s THEN 0 ELSE %(opening)s END + coalesce(moved, 0) AS expected) AS sums
WHERE balance <> expected ORDER BY id LIMIT 3"""
# A branch's row is of the same local transaction as what it books.
_WITHOUT_MOVEMENT: Final[LiteralString] = """
SELECT gid FROM twophase.ledger AS mine WHERE outcome = 'applied' AND recorded_at >= to_timestamp(%s)
AND NOT EXISTS (SELECT FROM movement WHERE movement.xmin::text = mine.xmin::text) LIMIT 3"""
_WITHOUT_ROW: Final[LiteralString] = """
SELECT deed FROM movement WHERE NOT EXISTS
  (SELECT FROM twophase.ledger AS mine WHERE mine.xmin::text = movement.xmin::text) LIMIT 3"""
_IN_DOUBT: Final[LiteralString] = """
SELECT extract(epoch FROM recorded_at)::float8, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8, gid
FROM twophase.ledger WHERE outcome = 'applied' AND kind = 'work' AND recorded_at >= to_timestamp(%s)"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One movement in the books of one bank."""

    bank: str
    account: int
    amount: int
    undo: bool
    written: float
    seen: float

    @property
    def held(self) -> float:
        """How long its row was locked, in seconds: from the write to the commit."""
        return self.seen - self.written


@dataclass(slots=True)
class Page:
    """What a deed has left, in all banks."""

    entries: list[Entry] = field(default_factory=list)

    @property
    def is_undone(self) -> bool:
        """Everything that was booked was taken back."""
        return bool(self.entries) and not self.standing()

    @property
    def was_undone(self) -> bool:
        """Something was taken back."""
        return any(entry.undo for entry in self.entries)

    @property
    def first_seen(self) -> float:
        """When others could see something of it."""
        return min(entry.seen for entry in self.entries)

    @property
    def last_seen(self) -> float:
        """When others could see all of it, or nothing any more."""
        return max(entry.seen for entry in self.entries)

    def standing(self) -> Counter[tuple[str, int, int]]:
        """What is booked and not taken back; what was taken back without having been booked counts less than 0."""
        found: Counter[tuple[str, int, int]] = Counter()
        for entry in self.entries:
            found[entry.bank, entry.account, -entry.amount if entry.undo else entry.amount] += -1 if entry.undo else 1
        return Counter({what: times for what, times in found.items() if times})


Books: TypeAlias = Mapping[str, Page]


def read(connections: Mapping[str, psycopg.Connection]) -> Books:
    """Everything, by deed."""
    found: defaultdict[str, Page] = defaultdict(Page)
    for bank, connection in connections.items():
        for deed, *rest in connection.execute(_MOVEMENTS):
            found[deed].entries.append(Entry(bank, *rest))
    return found


def problems(
    deed_of: Callable[[str], Deed], answers: Sequence[Answer], books: Books, *, may_be_half: bool = False
) -> Iterator[str]:
    """Every deed whose books are not what its client was told, in words."""
    told = {answer.name: answer.told for answer in answers}
    for name in books.keys() - told.keys():
        yield f"{name} is booked, and nobody sent it"
    for answer in answers:
        deed = deed_of(answer.name)
        assert isinstance(deed, Transfer)  # noqa: S101 - orders have books of their own
        whole = Counter((bank, each.account, each.amount) for bank, each in deed.movements)
        page = books.get(answer.name, Page())
        standing = page.standing()
        match answer.told:
            case Told.OK:
                fits = standing == whole
            case Told.UNKNOWN:
                fits = not standing or standing == whole
            case Told.HALF:
                fits = may_be_half and 0 < standing.total() < whole.total()
            case Told.UNDONE | Told.REFUSED | Told.CONFLICT | Told.AWAY:
                fits = not standing
            case _:
                assert_never(answer.told)
        if not fits:
            yield f"{answer.name} was told {answer.told}, and {_listed(standing)} is booked of {_listed(whole)}"


def problems_at(bank: str, connection: psycopg.Connection, *, since: float, has_ledger: bool) -> Iterator[str]:
    """What does not add up at one bank: balances against movements, and movements against the ledger, if there is one
    for this load, from the rows since then.
    """
    balances = connection.execute(_WRONG_BALANCES, {"marked": MARKED, "opening": OPENING}).fetchall()
    for account, balance, expected in balances:
        yield f"account {account} of {bank} holds {balance}, its movements say {expected}"
    if has_ledger:
        for (gid,) in connection.execute(_WITHOUT_MOVEMENT, [since]):
            yield f"the ledger of {bank} has applied {gid}, which moved nothing"
        for (deed,) in connection.execute(_WITHOUT_ROW):
            yield f"{bank} has booked {deed}, of which its ledger knows nothing"


def doubts(connections: Mapping[str, psycopg.Connection], *, since: float) -> dict[str, tuple[float, float]]:
    """By branch that is committed: when its work was done, so that it was prepared next, and when it was committed."""
    return {
        gid: (recorded, seen)
        for connection in connections.values()
        for recorded, seen, gid in connection.execute(_IN_DOUBT, [since])
    }


def holds_ms(books: Books, *banks: str) -> list[float]:
    """How long each row was locked, of all movements (at these banks), in milliseconds."""
    return [1000 * entry.held for page in books.values() for entry in page.entries if not banks or entry.bank in banks]


def shares(answers: Sequence[Answer], *told: Told) -> float:
    """How many of 10,000 were told so."""
    return 10_000 * sum(answer.told in told for answer in answers) / len(answers) if answers else 0.0


def first(found: Iterator[str]) -> list[str]:
    """Some of the problems, and how many more there are."""
    every = list(found)
    more = len(every) - _SHOWN
    return every[:_SHOWN] + ([f"and {more} more like these"] if more > 0 else [])


def _listed(entries: Counter[tuple[str, int, int]]) -> str:
    return ", ".join(f"{bank} {account}: {amount:+}" for bank, account, amount in sorted(entries)) or "nothing"
