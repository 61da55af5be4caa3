"""An outside checker: reads the databases of a drill at rest, and knows nothing of twophase but its names.

    python outside.py [--pruned] < databases     with a line NAME=DSN for every database

Prints a JSON list of what is wrong, in words, and ends with 1 if there is anything, with 3 if it cannot tell.

Lives here: one script that imports nothing of the project, so that no mistake of the project can hide in it. Must not
live here: what clients were told; only the databases are asked.

Which transaction booked a row is not asked of the business, either: a row and the ledger's row of its branch come out
of one local transaction, so that both have the same xmin (the manual, 5.6, "System Columns"). With `--pruned` old rows
may be missing in the ledger.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Mapping
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

# Every row of the business, with the branch that wrote it.
_BOOKED: Final[LiteralString] = """
SELECT transfer, amount, gid FROM (SELECT transfer, amount, xmin AS writer FROM movement
                                   UNION ALL SELECT transfer, 0, xmin FROM sale) AS booked
LEFT JOIN twophase.ledger ON ledger.xmin = booked.writer AND outcome = 'applied' AND kind = 'work'"""

_APPLIED: Final[LiteralString] = "SELECT gid FROM twophase.ledger WHERE outcome = 'applied' AND kind = 'work'"


@dataclass(frozen=True)
class Bank:
    """What one database holds. `booked` are transfer, amount and the branch that wrote it, if one did."""

    prepared: tuple[str, ...]
    openings: tuple[tuple[str, int, Decimal], ...]
    booked: tuple[tuple[str, Decimal, str | None], ...]
    applied: tuple[str, ...]


def read(dsn: str) -> Bank:
    """Reads one database, in one snapshot."""
    with psycopg.connect(dsn) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return Bank(
            tuple(gid for (gid,) in connection.execute(_PREPARED).fetchall()),
            tuple(connection.execute(_OPENING).fetchall()),
            tuple(connection.execute(_BOOKED).fetchall()),
            tuple(gid for (gid,) in connection.execute(_APPLIED).fetchall()),
        )


def wrong(banks: Mapping[str, Bank], *, pruned: bool = False) -> list[str]:
    """Everything that contradicts itself, over all databases. `pruned`: old rows may be missing in the ledger."""
    found = [
        f"{gid} is still prepared on the server of {name}" for name, bank in banks.items() for gid in bank.prepared
    ]
    found += _made_or_lost(banks)
    found += _sums(banks)
    found += _branches(banks, pruned=pruned)
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
        for transfer, amount, _ in bank.booked:
            sums[transfer] += amount
    return [f"the movements of transfer {name} sum to {total}, not to 0" for name, total in sums.items() if total]


def _branches(banks: Mapping[str, Bank], *, pruned: bool) -> list[str]:
    """Every transfer was booked by one transaction, wherever that was applied, and nowhere else."""
    found = []
    transactions: defaultdict[str, set[str]] = defaultdict(set)
    booked_at: defaultdict[str, set[str]] = defaultdict(set)
    applied_at: defaultdict[str, set[str]] = defaultdict(set)
    for name, bank in banks.items():
        for branch in bank.applied:
            applied_at[transaction_of(branch)].add(name)
        for transfer, _, gid in bank.booked:
            if gid is None:
                if not pruned:
                    found.append(f"transfer {transfer} is booked at {name} by no branch of the ledger")
            else:
                transactions[transfer].add(transaction_of(gid))
                booked_at[transaction_of(gid)].add(name)
    for transfer, names in transactions.items():
        if len(names) > 1:
            found.append(f"transfer {transfer} is booked by several transactions: {', '.join(sorted(names))}")
    for transaction, there in booked_at.items():
        if there != applied_at[transaction]:
            only = f"applied at {sorted(applied_at[transaction])} and booked at {sorted(there)}"
            found.append(f"transaction {transaction} is {only}")
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
