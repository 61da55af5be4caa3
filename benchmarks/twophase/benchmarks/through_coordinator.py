"""The contenders of this project: its client, asking a coordinator for two-phase commit or for a saga.

Lives here: the calls, as an application makes them. Must not live here: the coordinator and the participants, which are
processes of their own.
"""

from __future__ import annotations

from twophase.benchmarks.bank import LEFT, RIGHT, Movement
from twophase.benchmarks.contenders import Places
from twophase.benchmarks.pacing import NotDone, Tell, run_tasks
from twophase.benchmarks.workload import Order, Tally, Transfer
from twophase.coordinator.client import AsyncClient, Protocol, TransactionAborted, operation


async def run(places: Places, order: Order, tell: Tell, *, protocol: Protocol) -> Tally:
    """A round: every client is a task, and all share one `AsyncClient`. It answers once every branch is applied."""
    async with AsyncClient(places.coordinator) as client:

        async def move(transfer: Transfer) -> str:
            try:
                done = await client.execute(
                    operation(LEFT, "move", Movement(transfer.left, -transfer.amount)),
                    operation(RIGHT, "move", Movement(transfer.right, transfer.amount)),
                    protocol=protocol,
                )
            except TransactionAborted as aborted:
                raise NotDone(str(aborted)) from aborted
            if not done.applied:
                raise RuntimeError(f"{done.txid} is committed and not applied yet at {', '.join(done.pending)}")
            return done.txid

        return await run_tasks(move, order, tell)
