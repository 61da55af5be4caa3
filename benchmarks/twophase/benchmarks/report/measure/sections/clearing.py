"""The section on clearing up: so many branches are in doubt when the coordinator starts.

Lives here: leaving them, as an owner does that dies, and the time until none is left. Must not live here: single deaths
(`crash`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final, LiteralString

from twophase.benchmarks.report.measure.bank import LEFT, RIGHT, Movement, move
from twophase.benchmarks.report.measure.bench import Bench
from twophase.benchmarks.report.measure.business import Transfer
from twophase.benchmarks.report.measure.sections.common import Work
from twophase.benchmarks.report.values import Section
from twophase.contract.names import Gid, Txid
from twophase.coordinator.journal.events import Begun, BranchRef
from twophase.coordinator.journal.port import Proposal
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.coordinator.protocol.decisions import COMMIT
from twophase.participant import ledger
from twophase.sandbox.errors import ProcessFailed
from twophase.v1 import types_pb2

_BANKS: Final = (LEFT, RIGHT)
_BEGIN: Final[LiteralString] = "SELECT set_config('twophase.branch', %s || ' ' || current_user, true)"
_LEFT: Final[LiteralString] = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()"
_CLEAR_SECONDS: Final = 60.0
_POLL: Final = 0.005


async def clearing(work: Work) -> None:
    """More and more of them, two for each transfer (one, if there is only one), decided and not decided."""
    plan, section = work.plan, Section.CLEARING
    every = [
        (repetition, branches, decided)
        for repetition in range(plan.clearing_repetitions)
        for branches in plan.clearing
        for decided in (True, False)
    ]
    for number, (repetition, branches, decided) in enumerate(every):
        named = "decided" if decided else "not decided"
        work.progress(section, number, len(every), f"{branches} branches, {named}")
        figures = await _measure(work.bench, branches, decided=decided)
        factors = {"branches": branches, "decided": "yes" if decided else "no"}
        for who in plan.whos[section]:
            work.add(section, who, factors, repetition, figures)


async def _measure(bench: Bench, branches: int, *, decided: bool) -> dict[str, float]:
    coordinator, run = bench.system.coordinator, bench.next_run()
    await coordinator.stop()
    began = time.time()
    banks = _BANKS[:branches]
    transfers = [
        Transfer(f"{run}/{n}", tuple((bank, Movement(f"{run}/{n}", n + 1, sign)) for bank, sign in _signs(banks)))
        for n in range(max(1, branches // len(_BANKS)))
    ]
    txids, journal_id = await _begin(bench, len(transfers), banks, decided=decided)
    gids = [[Gid(journal_id, txid, branch) for txid in txids] for branch in range(len(banks))]
    await asyncio.gather(
        *(
            asyncio.to_thread(_prepare, bench, bank, of_bank, transfers)
            for bank, of_bank in zip(banks, gids, strict=True)
        )
    )
    clock = time.monotonic()
    await coordinator.start()
    ready = time.monotonic()
    await asyncio.gather(*(asyncio.to_thread(_until_none, bench, bank) for bank in banks))
    clear = time.monotonic()
    await bench.settle(banks, {each.name: each for each in transfers}, since=began, done=decided)
    return {"clear_ms": 1000 * (clear - clock), "ready_ms": 1000 * (ready - clock)}


def _signs(banks: Sequence[str]) -> list[tuple[str, int]]:
    return [(bank, 1 if bank == RIGHT else -1) for bank in banks]


async def _begin(bench: Bench, number: int, banks: Sequence[str], *, decided: bool) -> tuple[Sequence[Txid], str]:
    """What the journal of a coordinator says that dies now: all are begun, and decided or not."""
    journal = await SqliteJournal.open(bench.system.journal)
    try:
        txids = [Txid(journal.epoch, sequence) for sequence in range(1, number + 1)]
        branches = tuple(BranchRef(branch, bank) for branch, bank in enumerate(banks))
        for txid in txids:
            journal.append(Begun(txid, None, branches))
        if decided:
            await asyncio.gather(
                *(journal.decide(Proposal(txid, COMMIT, journal.epoch, None, branches)) for txid in txids)
            )
        return txids, journal.journal_id
    finally:
        await journal.close()


def _prepare(bench: Bench, bank: str, gids: Sequence[Gid], transfers: Sequence[Transfer]) -> None:
    """As the participant does it: the work, the ledger row, PREPARE; as its own role."""
    with bench.system.connect(bank) as connection:
        for gid, transfer in zip(gids, transfers, strict=True):
            connection.execute("BEGIN")
            connection.execute(_BEGIN, [str(gid)])
            move(connection, dict(transfer.movements)[bank])
            connection.execute(ledger.applied(gid, types_pb2.BRANCH_KIND_WORK, (), fingerprint=b"", position=0))
            connection.execute(f"PREPARE TRANSACTION '{gid}'".encode())


def _until_none(bench: Bench, bank: str) -> None:
    end = time.monotonic() + _CLEAR_SECONDS
    with bench.connect(bank) as connection:
        while (row := connection.execute(_LEFT).fetchone()) is not None and row[0]:
            if time.monotonic() > end:
                raise ProcessFailed(f"{row[0]} branches are still in doubt at {bank} after {_CLEAR_SECONDS:g} s")
            time.sleep(_POLL)
