"""An outside checker: reads the databases of a drill at rest, and knows nothing of twophase but its names.

    python outside.py [--pruned] < databases     with a line NAME=DSN for every database

Prints a JSON list of what is wrong, in words, and ends with 1 if there is anything, with 3 if it cannot tell.

Lives here: one script that imports nothing of the project, so that no mistake of the project can hide in it. Must not
live here: what clients were told; only the databases are asked.

Which transaction booked a row is not asked of the business, either: a row and the ledger's row of its branch come out
of one local transaction, so that both have the same xmin (the manual, 5.6, "System Columns"). So do a row that takes
back and the row of a compensation. With `--pruned` old rows may be missing in the ledger.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, LiteralString

import psycopg

_PREPARED: Final[LiteralString] = "SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'tp-%' ORDER BY gid"

# What every account and item had at the start, as its books say: the same for all, if nothing was lost or made.
_OPENING: Final[LiteralString] = """
SELECT 'account', id, balance - coalesce((SELECT sum(amount) FROM movement WHERE account = account.id), 0) FROM account
UNION ALL
SELECT 'item', item, pieces + coalesce((SELECT sum(pieces) FROM sale WHERE item = stock.item), 0) FROM stock"""

# Every row of the business, with the branch that wrote it, and whether as work or as a compensation.
_BOOKED: Final[LiteralString] = """
SELECT transfer, what, number, amount, undo, gid, kind
FROM (SELECT transfer, 'account' AS what, account AS number, amount, undo, xmin AS writer FROM movement
      UNION ALL SELECT transfer, 'item', item, pieces, undo, xmin FROM sale) AS booked
LEFT JOIN twophase.ledger ON ledger.xmin = booked.writer AND outcome = 'applied'"""

# Work that returned something is a look: it books nothing. Everything else that is applied does.
_LEDGER: Final[LiteralString] = """
SELECT gid, kind, outcome, coalesce(octet_length(results[1]), 0) > 0 FROM twophase.ledger"""


@dataclass(frozen=True)
class Row:
    """A row of the business: of which transfer, what it changed, and whether it takes back; by which branch it was
    written, and as which of its deeds, if by one.
    """

    transfer: str
    what: str
    number: int
    amount: Decimal
    undo: bool = False
    gid: str | None = None
    kind: str | None = None


@dataclass(frozen=True)
class Bank:
    """What one database holds. `applied` is work, `looks` such work that books nothing; `compensated` are branches
    whose compensation is applied, `resolved` those whose compensation is barred: a person took it upon himself.
    """

    prepared: tuple[str, ...]
    openings: tuple[tuple[str, int, Decimal], ...]
    booked: tuple[Row, ...]
    applied: frozenset[str]
    looks: frozenset[str] = frozenset()
    compensated: frozenset[str] = frozenset()
    resolved: frozenset[str] = frozenset()


def read(dsn: str) -> Bank:
    """Reads one database, in one snapshot."""
    with psycopg.connect(dsn) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        ledger = connection.execute(_LEDGER).fetchall()
        return Bank(
            tuple(gid for (gid,) in connection.execute(_PREPARED).fetchall()),
            tuple(connection.execute(_OPENING).fetchall()),
            tuple(Row(*row) for row in connection.execute(_BOOKED).fetchall()),
            _those(ledger, "work", "applied"),
            frozenset(gid for gid, kind, outcome, look in ledger if look and (kind, outcome) == ("work", "applied")),
            _those(ledger, "compensation", "applied"),
            _those(ledger, "compensation", "tombstone"),
        )


def _those(ledger: Sequence[tuple[str, str, str, bool]], kind: str, outcome: str) -> frozenset[str]:
    return frozenset(gid for gid, *is_, _ in ledger if is_ == [kind, outcome])


def wrong(banks: Mapping[str, Bank], *, pruned: bool = False) -> list[str]:
    """Everything that contradicts itself, over all databases. `pruned`: old rows may be missing in the ledger."""
    found = [
        f"{gid} is still prepared on the server of {name}" for name, bank in banks.items() for gid in bank.prepared
    ]
    found += _made_or_lost(banks)
    found += _sums(banks)
    found += _branches(banks, pruned=pruned)
    if not pruned:
        found += _compensations(banks)
    return found


def transaction_of(gid: str) -> str:
    """The name of the transaction in the name of its branch: everything but the number at the end."""
    return gid.rpartition("-")[0]


def _made_or_lost(banks: Mapping[str, Bank]) -> list[str]:
    found = []
    for kind in ("account", "item"):
        at_start = defaultdict(list)
        for name, bank in banks.items():
            for what, number, opening in bank.openings:
                if what == kind:
                    at_start[opening].append(f"{kind} {number} of {name}")
        if len(at_start) > 1:
            *odd, _ = sorted(at_start.items(), key=lambda item: len(item[1]))
            found += [f"{', '.join(who)} began with {opening}, the others did not" for opening, who in odd]
    return found


def _sums(banks: Mapping[str, Bank]) -> list[str]:
    sums: defaultdict[str, Decimal] = defaultdict(Decimal)
    for bank in banks.values():
        for row in bank.booked:
            if row.what == "account":
                sums[row.transfer] += row.amount
    return [f"the movements of transfer {name} sum to {total}, not to 0" for name, total in sums.items() if total]


def _branches(banks: Mapping[str, Bank], *, pruned: bool) -> list[str]:
    """Every transfer was booked by one transaction, wherever that was applied, and nowhere else."""
    found = []
    transactions: defaultdict[str, set[str]] = defaultdict(set)
    booked_at: defaultdict[str, set[str]] = defaultdict(set)
    applied_at: defaultdict[str, set[str]] = defaultdict(set)
    for name, bank in banks.items():
        for branch in bank.applied - bank.looks:
            applied_at[transaction_of(branch)].add(name)
        if not pruned:
            found += [
                f"transfer {row.transfer} is booked at {name} by no branch of the ledger"
                for row in bank.booked
                if row.gid is None and not _by_hand(row, bank)
            ]
        for row in bank.booked:
            if row.gid is not None:
                transactions[row.transfer].add(transaction_of(row.gid))
                booked_at[transaction_of(row.gid)].add(name)
    for transfer, names in transactions.items():
        if len(names) > 1:
            found.append(f"transfer {transfer} is booked by several transactions: {', '.join(sorted(names))}")
    for transaction, there in booked_at.items():
        if there != applied_at[transaction]:
            only = f"applied at {sorted(applied_at[transaction])} and booked at {sorted(there)}"
            found.append(f"transaction {transaction} is {only}")
    return found


def _by_hand(row: Row, bank: Bank) -> bool:
    """A person took back what a branch did whose compensation is barred. That leaves no row in the ledger."""
    taken_back = (row.transfer, row.what, row.number, -row.amount)
    return row.undo and any(
        taken_back == (each.transfer, each.what, each.number, each.amount)
        for each in bank.booked
        if each.gid in bank.resolved and each.kind == "work"
    )


def _compensations(banks: Mapping[str, Bank]) -> list[str]:
    """A compensation takes back, once, exactly what its branch did, and it does so at all branches or at none."""
    found = []
    undone: set[str] = set()
    left: defaultdict[str, set[str]] = defaultdict(set)
    for name, bank in banks.items():
        found += [
            f"{gid} is compensated at {name}, and was never applied" for gid in sorted(bank.compensated - bank.applied)
        ]
        written: defaultdict[tuple[str | None, str | None], Counter[tuple[str, int, Decimal]]] = defaultdict(Counter)
        for row in bank.booked:
            if row.gid is not None and row.undo != (row.kind == "compensation"):
                found.append(f"a row of transfer {row.transfer} at {name} was written by the {row.kind} of {row.gid}")
            amount = -row.amount if row.undo else row.amount
            written[row.gid, row.kind][row.what, row.number, amount] += 1
        for gid in sorted(bank.compensated & bank.applied):
            if written[gid, "work"] != written[gid, "compensation"]:
                found.append(f"the compensation of {gid} at {name} does not take back what the work did, once")
        undone |= {transaction_of(gid) for gid in bank.compensated - bank.looks}
        for gid in bank.applied - bank.looks - bank.compensated - bank.resolved:
            left[transaction_of(gid)].add(name)
    found += [
        f"transaction {transaction} is compensated, and not at {sorted(left[transaction])}"
        for transaction in sorted(undone & left.keys())
    ]
    return found


def main(arguments: list[str]) -> int:
    """Reads the lines of standard input, where no password is seen by others. Returns the exit code."""
    lines = [line.strip() for line in sys.stdin if line.strip()]
    if not lines or any("=" not in line for line in lines) or arguments not in ([], ["--pruned"]):
        sys.stderr.write("usage: outside.py [--pruned] < databases, with a line NAME=DSN for every database\n")
        return 2
    try:
        banks = {name: read(dsn) for name, _, dsn in (line.partition("=") for line in lines)}
    except psycopg.Error as error:
        sys.stderr.write(f"outside.py: a database cannot be read: {error}\n")
        return 3
    found = wrong(banks, pruned=bool(arguments))
    sys.stdout.write(json.dumps(found) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
