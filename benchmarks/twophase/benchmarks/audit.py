"""The check at the end of every round: money is conserved to the last account, and every ledger is exact.

Lives here: what the databases must hold, read with SQL. Must not live here: the rounds (`transfer`). A benchmark that
loses money measures nothing, so a run in which anything is found here is void.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Set
from typing import Final, LiteralString

from twophase.benchmarks.bank import NAMES, OPENING
from twophase.benchmarks.workload import Books
from twophase.contract.names import Gid
from twophase.sandbox.system import System

_REST_SECONDS: Final = 10.0
_POLL: Final = 0.02
_SHOWN: Final = 5
_PREPARED: Final[LiteralString] = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY gid"
_BALANCES: Final[LiteralString] = "SELECT id, balance FROM account WHERE balance <> %s"
# What is compensated was claimed under the same key (R7).
_APPLIED: Final[LiteralString] = """
SELECT gid FROM twophase.ledger AS done WHERE kind = 'work' AND outcome = 'applied' AND NOT EXISTS
  (SELECT FROM twophase.ledger AS undone WHERE undone.gid = done.gid AND undone.kind = 'compensation')"""


def wait_for_rest(system: System) -> list[str]:
    """Waits until nothing is prepared; returns what still is after a while, in words."""
    end = time.monotonic() + _REST_SECONDS
    found: list[str] = []
    for name in NAMES:
        with system.cluster_of(name).connect(name) as connection:
            while (gids := connection.execute(_PREPARED).fetchall()) and time.monotonic() < end:
                time.sleep(_POLL)
            found += [f"{gid} is still prepared at {name}" for (gid,) in gids]
    return found


def problems_with_money(system: System, books: Books) -> list[str]:
    """Every account that does not hold what the transfers that were told done have left on it."""
    return [problem for name in NAMES for problem in _at(system, name, books)]


def _at(system: System, name: str, books: Books) -> Iterator[str]:
    with system.cluster_of(name).connect(name) as connection:
        held = {account: balance - OPENING for account, balance in connection.execute(_BALANCES, [OPENING])}
    told = {account: amount for account, amount in books.changes[name].items() if amount}
    wrong = sorted(account for account in held.keys() | told.keys() if held.get(account, 0) != told.get(account, 0))
    for account in wrong[:_SHOWN]:
        has, should = OPENING + held.get(account, 0), OPENING + told.get(account, 0)
        yield f"account {account} of {name} holds {has}, what was told done makes {should}"
    if len(wrong) > _SHOWN:
        yield f"and {len(wrong) - _SHOWN} more accounts of {name}"


def problems_with_ledgers(system: System, told: Set[str]) -> list[str]:
    """Every transaction that a ledger has and that was not told done, and every one that was and that it has not."""
    found: list[str] = []
    for name in NAMES:
        with system.cluster_of(name).connect(name) as connection:
            applied = [str(Gid.parse(gid).txid) for (gid,) in connection.execute(_APPLIED)]
        found += [f"{name} has applied {txid}, which nobody was told" for txid in sorted(set(applied) - told)[:_SHOWN]]
        found += [f"{name} has not applied {txid}, which was told" for txid in sorted(told - set(applied))[:_SHOWN]]
        if len(applied) != len(set(applied)):
            found.append(f"{name} has {len(applied)} rows for {len(set(applied))} transactions")
    return found
