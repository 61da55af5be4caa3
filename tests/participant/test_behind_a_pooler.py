"""Behind a pooler the next transaction may be another session's: no statement is prepared for later.

There it would be missing, or another client's statement would have its name and be executed instead.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from fixtures.branches import Do, Pooler, opened, vote
from fixtures.clusters import Database
from fixtures.second_phase import INSERT, JOURNAL, WORK, empty, gid_of, make_purse
from twophase.participant.outcomes import Prepared, Tombstoned
from twophase.participant.resource import ResourceManager
from twophase.sandbox.postgres import Cluster
from twophase.v1 import types_pb2

OFTEN = 7
"""More often than psycopg executes a statement before it prepares it."""


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[Database]:
    database = make_purse(cluster, "behind_a_pooler")
    yield database
    cluster.drop_database(database.name)


@pytest.fixture
def purse(shared: Database) -> Database:
    return empty(shared)


async def do_everything(manager: ResourceManager, number: int, *, asynchronous: bool) -> None:
    """The work's own statement, and those about its row; what recovery reads; what people ask."""
    for _ in range(2):
        work = Do(*[_insert] * 2, asynchronous=asynchronous)
        assert isinstance(await vote(manager, work, gid_of(number)), Prepared)
        manager._votes.clear()
    await manager.commit(gid_of(number))
    assert isinstance(await manager.abort(gid_of(1_000 + number), WORK, types_pb2.DECISION_ABORT), Tombstoned)
    await manager.list_prepared(JOURNAL)
    await manager.inspect(JOURNAL, gid_of(number).txid)
    await manager.diagnose(JOURNAL)


def _insert(connection: psycopg.Connection) -> object:
    return connection.execute(INSERT)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("pooled", [True, False], ids=["pooled", "direct"])
async def test_nothing_is_prepared_for_later(purse: Database, *, asynchronous: bool, pooled: bool) -> None:
    port = purse.cluster.port
    async with Pooler("127.0.0.1", port, numbers=pooled).serving() as pooler:
        settings = {"work_connections": 1, "finish_connections": 1, "lock_timeout": 0.01}
        async with opened(purse.dsn.replace(f":{port}/", f":{pooler.port}/"), **settings) as manager:
            # Who only looks is gone before it could be used again.
            assert pooler.statements == set()
            await manager.diagnose(JOURNAL)
            assert pooler.statements == set()
            for number in range(OFTEN):
                await do_everything(manager, number, asynchronous=asynchronous)
    assert (pooler.statements == set()) is pooled
