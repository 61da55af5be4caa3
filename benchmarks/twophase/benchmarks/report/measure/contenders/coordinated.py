"""The contenders of this project: its client, asking a coordinator for two-phase commit or for a saga.

Lives here: the calls, as an application makes them. Must not live here: the coordinator and the participants, which are
processes of their own.
"""

from __future__ import annotations

from twophase.benchmarks.report.measure.business import Deed, name_of, operations_of
from twophase.benchmarks.report.measure.contenders.places import Places
from twophase.benchmarks.report.measure.pacing import run_tasks
from twophase.benchmarks.report.measure.task import Log, Task, Tell, Told
from twophase.coordinator.client import (
    AsyncClient,
    CoordinatorUnavailable,
    OutcomeUnknown,
    Protocol,
    SagaCompensated,
    TransactionAborted,
)


async def run(places: Places, task: Task, tell: Tell, *, protocol: Protocol, in_turn: bool = False) -> Log:
    """A load: every deed is a call of one `AsyncClient`. It answers once every branch is applied, and tries once."""
    async with AsyncClient(places.coordinator) as client:

        async def do(deed: Deed) -> Told:
            try:
                done = await client.execute(
                    *operations_of(deed),
                    protocol=protocol,
                    in_turn=in_turn,
                    request_id=name_of(deed),
                    deadline=task.timeout,
                    give_up_after=task.timeout,
                )
            except SagaCompensated:
                return Told.UNDONE
            except TransactionAborted as aborted:
                return Told.CONFLICT if aborted.retryable else Told.REFUSED
            except CoordinatorUnavailable:
                return Told.AWAY
            except OutcomeUnknown:
                return Told.UNKNOWN
            return Told.OK if done.applied else Told.UNKNOWN

        return await run_tasks(do, task, tell)
