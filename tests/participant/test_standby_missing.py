"""What was committed or prepared while its synchronous standby was away: on this server only, and so no proof.

Should the standby be promoted, none of it has happened. Whoever asks again waits for the standby as the first one did.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import pytest

from fixtures.branches import Do, apply, compensate, opened, vote
from fixtures.clusters import Database
from fixtures.second_phase import INSERT, WORK, applied, gid_of, rows
from fixtures.standbys import Standby
from twophase.participant.errors import Refused
from twophase.participant.outcomes import Answer, Applied, Lost, OutcomeUnknown, Prepared, RefusedForGood, Tombstoned
from twophase.participant.resource import ResourceManager
from twophase.v1 import types_pb2

ABORT: Final = types_pb2.DECISION_ABORT
GID: Final = gid_of()
Call = Callable[[ResourceManager], Awaitable[Answer]]


@pytest.fixture
async def manager(standby: Standby, slow: Database) -> AsyncIterator[ResourceManager]:
    async with opened(slow) as manager:
        yield manager
        standby.forget()


def refuse(_: object) -> None:
    raise Refused("NO_FUNDS", "there is nothing left")


async def cut_short(standby: Standby, call: Awaitable[Answer]) -> None:
    """The call waits for the standby; the wait is cut short, and its answer is none."""
    waiting = asyncio.ensure_future(call)
    standby.stop_waiting(await standby.waited_for(), "pg_cancel_backend")
    with pytest.raises(OutcomeUnknown, match="cut short"):
        await waiting


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("work", "outcome"),
    [(INSERT, Applied), (refuse, RefusedForGood)],
    ids=["applied", "refused"],
)
async def test_r7_a_local_commit_that_no_standby_has_is_no_answer_to_a_copy(
    manager: ResourceManager, standby: Standby, work: Any, outcome: type[Answer], *, asynchronous: bool
) -> None:
    def call() -> Awaitable[Answer]:
        return apply(manager, Do(work, asynchronous=asynchronous))

    await standby.expect()
    for _ in range(2):
        await cut_short(standby, call())
    standby.forget()
    assert isinstance(await call(), outcome)


async def test_r7_nor_where_the_deadline_cut_the_wait_short(
    manager: ResourceManager, standby: Standby, slow: Database
) -> None:
    """Nobody has to do anything for it: a standby that is away for longer than an attempt may take is enough."""
    await standby.expect()
    for _ in range(2):
        with pytest.raises(OutcomeUnknown, match="cut short"):
            await apply(manager, Do(INSERT), seconds=0.5)
    standby.forget()
    assert isinstance(await apply(manager, Do(INSERT)), Applied)
    assert applied(slow) == 1


async def test_r3_a_branch_that_no_standby_has_is_no_yes_of_its_twin(
    manager: ResourceManager, standby: Standby, slow: Database
) -> None:
    await standby.expect()
    for _ in range(2):
        await cut_short(standby, vote(manager, Do(INSERT)))
    assert len(slow.prepared()) == 1
    standby.forget()
    assert isinstance(await vote(manager, Do(INSERT)), Prepared)


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        (lambda manager: manager.commit(GID), Lost),
        (lambda manager: manager.abort(GID, WORK, ABORT), Tombstoned),
        (lambda manager: compensate(manager, Do(INSERT)), Tombstoned),
    ],
    ids=["commit", "abort", "compensate"],
)
async def test_r7_a_tombstone_that_no_standby_has_is_no_proof_to_whoever_finds_it(
    manager: ResourceManager, standby: Standby, slow: Database, call: Call, outcome: type[Answer]
) -> None:
    await standby.expect()
    for _ in range(2):
        await cut_short(standby, call(manager))
    assert len(rows(slow)) == 1
    standby.forget()
    assert isinstance(await call(manager), outcome)


@pytest.mark.parametrize("where", ["role", "branch"])
async def test_r3_whoever_wants_no_warnings_hears_this_one(standby: Standby, slow: Database, where: str) -> None:
    """That the standby was not waited for is a warning, and client_min_messages = error would keep it back."""
    quiet = "SET client_min_messages = error"
    work = Do(INSERT, *([quiet] if where == "branch" else []))
    with slow.connect() as connection:
        connection.execute(
            f"ALTER ROLE CURRENT_USER {quiet if where == 'role' else 'RESET client_min_messages'}".encode()
        )
    try:
        async with opened(slow) as manager:
            await standby.expect()
            await cut_short(standby, vote(manager, work))
            await cut_short(standby, apply(manager, work, gid_of(8)))
            await cut_short(standby, manager.abort(gid_of(9), WORK, ABORT))
            standby.forget()
    finally:
        standby.forget()
        with slow.connect() as connection:
            connection.execute(b"ALTER ROLE CURRENT_USER RESET client_min_messages")
