"""The drills in which a coordinator leaves a thousand branches in doubt.

Lives here: making them, as an owner leaves them that died, and having them resolved. Must not live here: single deaths
(`crashes`, `stops`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, LiteralString

from twophase.contract.names import Gid, Txid
from twophase.coordinator.journal.events import Begun, BranchRef
from twophase.coordinator.journal.port import Proposal
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.coordinator.protocol.decisions import COMMIT
from twophase.participant import ledger
from twophase.sandbox.bank import NAMES
from twophase.sandbox.drill.stage import COORDINATOR, Skipped, Stage
from twophase.sandbox.drill.values import Act, Drill
from twophase.v1 import types_pb2

CROWD: Final = 1_000
# What a cluster needs for it, with room for the load beside it.
SLOTS: Final = CROWD // 2 + 200
_BANKS: Final = NAMES[:2]

# A prepared branch that has done nothing but write its ledger row: the books stay as they are.
_BEGIN: Final[LiteralString] = "SELECT set_config('twophase.branch', %s || ' ' || current_user, true)"


def crowd(number: int, *, decided: bool) -> Act:
    """Leaves `number` branches in doubt, two for each transaction, and starts the coordinator."""

    async def act(stage: Stage) -> None:
        _check_slots(stage, number // len(_BANKS))
        await stage.program(COORDINATOR).kill()
        txids, journal_id = await _begin(stage, number // len(_BANKS), decided=decided)
        await asyncio.gather(
            *(
                asyncio.to_thread(_prepare, stage, bank, [Gid(journal_id, txid, branch) for txid in txids])
                for branch, bank in enumerate(_BANKS)
            )
        )
        await stage.revive(COORDINATOR)

    return act


def _check_slots(stage: Stage, wanted: int) -> None:
    for bank in _BANKS:
        with stage.system.connect(bank) as connection:
            row = connection.execute("SELECT current_setting('max_prepared_transactions')::int").fetchone()
        if row is None or row[0] <= wanted:
            raise Skipped(
                f"the server of {bank} takes {row[0] if row else 0} prepared transactions; {wanted} are needed"
            )


async def _begin(stage: Stage, number: int, *, decided: bool) -> tuple[Sequence[Txid], str]:
    """What the journal of a coordinator says that dies now: all are begun, and decided or not."""
    journal = await SqliteJournal.open(stage.system.journal)
    try:
        txids = [Txid(journal.epoch, sequence) for sequence in range(1, number + 1)]
        branches = tuple(BranchRef(branch, bank) for branch, bank in enumerate(_BANKS))
        for txid in txids:
            journal.append(Begun(txid, None, branches))
        if decided:
            await asyncio.gather(
                *(journal.decide(Proposal(txid, COMMIT, journal.epoch, None, branches)) for txid in txids)
            )
        return txids, journal.journal_id
    finally:
        await journal.close()


def _prepare(stage: Stage, bank: str, gids: Sequence[Gid]) -> None:
    with stage.system.connect(bank) as connection:
        for gid in gids:
            connection.execute("BEGIN")
            connection.execute(_BEGIN, [str(gid)])
            connection.execute(ledger.applied(gid, types_pb2.BRANCH_KIND_WORK, (), fingerprint=b"", position=0))
            connection.execute(f"PREPARE TRANSACTION '{gid}'".encode())


CROWDS: Final = (
    Drill("a thousand in doubt, undecided", f"{CROWD} branches that nobody decided", crowd(CROWD, decided=False)),
    Drill("a thousand in doubt, decided", f"{CROWD} branches that were to be committed", crowd(CROWD, decided=True)),
)
