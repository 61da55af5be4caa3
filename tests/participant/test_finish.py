"""The second phase over a real Postgres: every way a branch can end, and what proves it."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from fixtures.clusters import Database, MakeDatabase
from fixtures.second_phase import (
    COMPENSATION,
    EPOCH,
    FINGERPRINT,
    INSERT,
    JOURNAL,
    RESULTS,
    WORK,
    Statements,
    applied,
    empty,
    gid_of,
    make_purse,
    managing,
    prepare,
    psql,
    rows,
    until,
    value,
)
from twophase.contract.names import Gid
from twophase.participant import Refused, resource, running
from twophase.participant.outcomes import (
    Aborted,
    Applied,
    CannotFinish,
    Committed,
    Forgotten,
    Lost,
    No,
    OutcomeUnknown,
    Prepared,
    ReadOnly,
    RefusedForGood,
    Retry,
    StillRunning,
    Tombstoned,
)
from twophase.participant.resource import ResourceManager
from twophase.participant.work import Deadline, SyncConnection
from twophase.sandbox.postgres import Cluster
from twophase.v1 import participant_pb2, types_pb2

ABORT = types_pb2.DECISION_ABORT
COMMIT = types_pb2.DECISION_COMMIT
DELEGATED = types_pb2.DECISION_DELEGATED

GID = gid_of()


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[Database]:
    database = make_purse(cluster, "second_phase")
    yield database
    cluster.drop_database(database.name)


@pytest.fixture
def purse(shared: Database) -> Database:
    return empty(shared)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with much else to do, what ends within a moment may take longer."""
    monkeypatch.setattr(resource, "_PATIENCE", 10.0)


@pytest.fixture
def impatient(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manager asks to be asked again sooner than it does in life."""
    monkeypatch.setattr(resource, "_PATIENCE", 0.2)
    monkeypatch.setattr(running, "_STOPPING", 0.2)


@pytest.fixture
async def manager(purse: Database) -> AsyncIterator[ResourceManager]:
    async with managing(purse) as manager:
        yield manager


@pytest.fixture
async def other(purse: Database) -> AsyncIterator[ResourceManager]:
    """Another process of the same participant."""
    async with managing(purse) as manager:
        yield manager


class Refusing(Statements):
    def run(self, connection: SyncConnection) -> tuple[types_pb2.Payload, ...]:
        super().run(connection)
        raise Refused("NO_FUNDS", "there is nothing left")


_numbers = itertools.count(1)


def new_role(cluster: Cluster) -> str:
    role = f"finisher_{next(_numbers)}"
    cluster.create_role(role)
    return role


async def apply(
    manager: ResourceManager, gid: Gid = GID, work: Statements | None = None
) -> Applied | RefusedForGood | Retry | Tombstoned:
    return await manager.apply(
        gid, work or Statements(), deadline=Deadline.after(20), position=43, fingerprint=FINGERPRINT
    )


async def undo(manager: ResourceManager, statement: str) -> Applied | RefusedForGood | Retry | Tombstoned:
    return await manager.compensate(
        GID, lambda _: Statements(statement), deadline=Deadline.after(20), position=43, fingerprint=FINGERPRINT
    )


async def abort(manager: ResourceManager, gid: Gid = GID) -> Aborted | Tombstoned | RefusedForGood | Applied:
    return await manager.abort(gid, WORK, ABORT)


def barred(answer: object) -> bool:
    return isinstance(answer, No) and answer.refusal.kind == types_pb2.REFUSAL_KIND_ABORTED


@contextmanager
def holding_the_key(database: Database, gid: Gid = GID) -> Iterator[psycopg.Connection]:
    """A branch in another process: its ledger row is written, and it is about to be prepared."""
    with database.connect(autocommit=False) as session:
        session.execute(INSERT.encode())
        session.execute(
            "INSERT INTO twophase.ledger (gid, kind, outcome, journal_position) VALUES (%s, 'work', 'applied', 42)",
            (str(gid),),
        )
        yield session


async def gone(connection: psycopg.Connection, database: Database) -> None:
    """Closes a session, and waits until the server knows."""
    pid = connection.info.backend_pid
    connection.close()
    await until(lambda: not value(database, "SELECT count(*) FROM pg_stat_activity WHERE pid = %s", pid))


# Commit


async def test_r8_a_prepared_branch_is_committed_once_however_often_it_is_asked_for(
    manager: ResourceManager, purse: Database
) -> None:
    assert isinstance(await prepare(manager, GID), Prepared)
    assert applied(purse) == 0
    for _ in range(3):
        answer = await manager.commit(GID)
        assert isinstance(answer, Committed)
        assert answer.identity == manager.identity
    assert (applied(purse), purse.prepared()) == (1, [])
    assert rows(purse) == [(str(GID), "work", "applied", None)]


async def test_r11_a_branch_never_prepared_is_lost_and_a_tombstone_proves_it(
    manager: ResourceManager, other: ResourceManager, purse: Database
) -> None:
    for _ in range(2):
        assert isinstance(await manager.commit(GID), Lost)
    assert rows(purse) == [(str(GID), "work", "tombstone", "commit")]
    for late in (manager, other):
        assert barred(await prepare(late, GID))
        assert isinstance(await apply(late), Tombstoned)
    assert (applied(purse), purse.prepared()) == (0, [])


async def test_r11_a_branch_rolled_back_by_hand_is_lost(manager: ResourceManager, purse: Database) -> None:
    await prepare(manager, GID)
    by_hand = psql(purse.cluster, purse.dsn, f"ROLLBACK PREPARED '{GID}';")
    assert by_hand.returncode == 0, by_hand.stderr
    assert isinstance(await manager.commit(GID), Lost)
    assert barred(await prepare(manager, GID))
    assert (applied(purse), purse.prepared()) == (0, [])


async def test_r11_a_branch_committed_by_hand_is_committed(manager: ResourceManager, purse: Database) -> None:
    await prepare(manager, GID)
    assert psql(purse.cluster, purse.dsn, f"COMMIT PREPARED '{GID}';").returncode == 0
    assert isinstance(await manager.commit(GID), Committed)
    assert isinstance(await abort(manager), Applied)


async def test_r11_a_refused_branch_that_should_commit_is_lost(manager: ResourceManager, purse: Database) -> None:
    assert isinstance(await apply(manager, work=Refusing()), RefusedForGood)
    assert isinstance(await manager.commit(GID), Lost)
    assert rows(purse) == [(str(GID), "work", "refused", None)]


async def test_r9_a_branch_in_another_database_of_the_cluster_is_left_alone(
    manager: ResourceManager, databases: MakeDatabase, purse: Database
) -> None:
    elsewhere = databases()
    with elsewhere.connect() as connection:
        connection.execute("CREATE TABLE purse (piece integer NOT NULL)")
    async with managing(elsewhere) as there:
        await prepare(there, GID)
        for finish in (manager.commit(GID), abort(manager)):
            with pytest.raises(CannotFinish, match=r"(?s)another database of this cluster \(0A000.*Point the"):
                await finish
        assert rows(purse) == []
        assert elsewhere.prepared() == [str(GID)]
        assert isinstance(await there.commit(GID), Committed)


async def test_r9_a_branch_of_another_role_is_left_alone_until_that_role_ends_it(purse: Database) -> None:
    role = new_role(purse.cluster)
    with purse.connect() as connection:
        connection.execute(f"GRANT USAGE ON SCHEMA twophase TO {role}".encode())
        connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA twophase TO {role}".encode())
    async with managing(purse) as owner, managing(purse, dsn=purse.dsn_for(role)) as manager:
        await prepare(owner, GID)
        for finish in (manager.commit(GID), abort(manager)):
            with pytest.raises(CannotFinish, match=r"(?s)another role \(42501.*Connect as that role"):
                await finish
        assert (rows(purse), purse.prepared()) == ([], [str(GID)])
        assert isinstance(await owner.commit(GID), Committed)
        assert isinstance(await manager.commit(GID), Committed)


# Abort


async def test_a_prepared_branch_is_rolled_back(manager: ResourceManager, purse: Database) -> None:
    await prepare(manager, GID)
    assert isinstance(await abort(manager), Aborted)
    assert (applied(purse), purse.prepared(), rows(purse)) == (0, [], [])
    assert isinstance(await abort(manager), Tombstoned)
    assert barred(await prepare(manager, GID))


@pytest.mark.parametrize(("decision", "kept"), [(ABORT, "abort"), (COMMIT, "commit"), (DELEGATED, "delegated")])
async def test_r7_a_tombstone_keeps_the_decision_it_was_placed_under(
    manager: ResourceManager, purse: Database, decision: types_pb2.Decision.ValueType, kept: str
) -> None:
    for asked in (decision, ABORT):
        assert isinstance(await manager.abort(GID, WORK, asked), Tombstoned)
    assert rows(purse) == [(str(GID), "work", "tombstone", kept)]
    [entry] = (await manager.inspect(JOURNAL, GID.txid)).entries
    assert (entry.outcome, entry.decision) == (participant_pb2.LEDGER_OUTCOME_TOMBSTONE, decision)


async def test_r7_a_late_prepare_finds_the_tombstone_in_whichever_process(
    manager: ResourceManager, other: ResourceManager, purse: Database
) -> None:
    await abort(manager)
    for late in (manager, other):
        assert barred(await prepare(late, GID))
        assert isinstance(await apply(late), Tombstoned)
    assert (applied(purse), purse.prepared()) == (0, [])


async def test_r2_an_applied_branch_is_not_aborted(manager: ResourceManager, purse: Database) -> None:
    await apply(manager)
    for _ in range(2):
        answer = await abort(manager)
        assert isinstance(answer, Applied)
        assert answer.results == RESULTS
    assert applied(purse) == 1


async def test_r2_a_refused_branch_stays_refused(manager: ResourceManager, purse: Database) -> None:
    await apply(manager, work=Refusing())
    answer = await abort(manager)
    assert isinstance(answer, RefusedForGood)
    assert (answer.refusal.code, answer.refusal.message) == ("NO_FUNDS", "there is nothing left")
    assert applied(purse) == 0


async def test_work_that_runs_here_is_stopped_and_barred(manager: ResourceManager, purse: Database) -> None:
    endless = Statements("SELECT pg_sleep(60)")
    running = asyncio.create_task(prepare(manager, GID, endless, seconds=60))
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND datname = %s"
    await until(lambda: value(purse, sleeping, purse.name))
    assert isinstance(await abort(manager), Tombstoned)
    assert barred(await running)
    assert (rows(purse), purse.prepared()) == ([(str(GID), "work", "tombstone", "abort")], [])
    assert barred(await prepare(manager, GID))


async def test_work_that_does_not_hear_is_barred_all_the_same(
    manager: ResourceManager, purse: Database, impatient: None
) -> None:
    gate = threading.Event()
    deaf = Statements(gate=gate)
    running = asyncio.create_task(prepare(manager, GID, deaf))
    await asyncio.to_thread(deaf.entered.wait, 20)
    assert isinstance(await abort(manager), Tombstoned)
    gate.set()
    assert barred(await running)
    assert (applied(purse), purse.prepared()) == (0, [])


async def test_a_branch_that_holds_its_key_elsewhere_still_runs_and_is_aborted_once_prepared(
    manager: ResourceManager, purse: Database, impatient: None
) -> None:
    with holding_the_key(purse) as session:
        with pytest.raises(StillRunning, match="ask again"):
            await abort(manager)
        with pytest.raises(StillRunning, match="ask again"):
            await manager.commit(GID)
        session.execute(f"PREPARE TRANSACTION '{GID}'".encode())
    assert isinstance(await abort(manager), Aborted)
    assert (applied(purse), purse.prepared(), rows(purse)) == (0, [], [])


async def test_a_branch_prepared_while_it_is_being_aborted_is_rolled_back(
    manager: ResourceManager, purse: Database
) -> None:
    """The tombstone waits behind the branch; the branch gets prepared; the abort starts again and finds it."""
    with holding_the_key(purse) as session:
        aborting = asyncio.create_task(abort(manager))
        await until(lambda: _waits_for_a_lock(purse))
        session.execute(f"PREPARE TRANSACTION '{GID}'".encode())
        assert isinstance(await aborting, Aborted)
    assert (applied(purse), purse.prepared(), rows(purse)) == (0, [], [])


async def test_a_branch_that_dies_while_it_is_being_aborted_leaves_a_tombstone(
    manager: ResourceManager, purse: Database
) -> None:
    with holding_the_key(purse) as session:
        aborting = asyncio.create_task(abort(manager))
        await until(lambda: _waits_for_a_lock(purse))
        session.rollback()
        assert isinstance(await aborting, Tombstoned)


async def test_a_slow_branch_is_committed_once_it_is_prepared(manager: ResourceManager, purse: Database) -> None:
    """COMMIT PREPARED came before PREPARE TRANSACTION was through: not lost, but asked again."""
    with holding_the_key(purse) as session:
        committing = asyncio.create_task(manager.commit(GID))
        await until(lambda: _waits_for_a_lock(purse))
        session.execute(f"PREPARE TRANSACTION '{GID}'".encode())
        assert isinstance(await committing, Committed)
    assert applied(purse) == 1


async def test_a_tombstone_over_a_prepared_row_does_not_wait_for_ever(
    manager: ResourceManager, purse: Database, impatient: None
) -> None:
    """Another name's transaction holds the key, as nothing of ours does: no branch answers, and nothing hangs."""
    with holding_the_key(purse) as session:
        session.execute("PREPARE TRANSACTION 'foreign'")
    async with asyncio.timeout(10):
        with pytest.raises(StillRunning):
            await abort(manager)
    assert purse.prepared() == ["foreign"]


def _waits_for_a_lock(database: Database) -> bool:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(value(database, query))


# Compensations


async def test_a_compensation_never_touches_the_prepared_work_of_its_name(
    manager: ResourceManager, purse: Database
) -> None:
    await prepare(manager, GID)
    assert isinstance(await manager.abort(GID, COMPENSATION, ABORT), Tombstoned)
    assert purse.prepared() == [str(GID)]
    assert isinstance(await manager.commit(GID), Committed)
    assert rows(purse) == [(str(GID), "compensation", "tombstone", "abort"), (str(GID), "work", "applied", None)]
    assert isinstance(await undo(manager, "DELETE FROM purse"), Retry)
    assert applied(purse) == 1


async def test_an_applied_compensation_has_a_row_of_its_own(manager: ResourceManager, purse: Database) -> None:
    await apply(manager)
    assert isinstance(await undo(manager, "DELETE FROM purse"), Applied)
    assert isinstance(await manager.abort(GID, COMPENSATION, ABORT), Applied)
    assert applied(purse) == 0
    both = (await manager.inspect(JOURNAL, GID.txid)).entries
    assert [entry.kind for entry in both] == [WORK, COMPENSATION]


# Two at once (R8)


async def test_r8_two_recoverers_that_commit_equal_one(
    manager: ResourceManager, other: ResourceManager, purse: Database
) -> None:
    gids = [gid_of(sequence) for sequence in range(8)]
    for gid in gids:
        assert isinstance(await prepare(manager, gid), Prepared)
    answers = await asyncio.gather(*(each.commit(gid) for gid in gids for each in (manager, other, manager)))
    assert all(isinstance(answer, Committed) for answer in answers)
    assert (applied(purse), purse.prepared()) == (8, [])


async def test_r8_two_recoverers_that_abort_equal_one(
    manager: ResourceManager, other: ResourceManager, purse: Database
) -> None:
    gids = [gid_of(sequence) for sequence in range(8)]
    for gid in gids[:4]:
        assert isinstance(await prepare(manager, gid), Prepared)
    answers = await asyncio.gather(*(abort(each, gid) for gid in gids for each in (manager, other, manager)))
    assert all(isinstance(answer, Aborted | Tombstoned) for answer in answers)
    assert (applied(purse), purse.prepared()) == (0, [])


async def test_r8_two_that_find_a_branch_lost_place_one_tombstone(
    manager: ResourceManager, other: ResourceManager, purse: Database
) -> None:
    answers = await asyncio.gather(*(each.commit(GID) for _ in range(4) for each in (manager, other)))
    assert all(isinstance(answer, Lost) for answer in answers)
    assert rows(purse) == [(str(GID), "work", "tombstone", "commit")]


async def test_r2_a_late_work_and_its_abort_agree(
    manager: ResourceManager, other: ResourceManager, purse: Database
) -> None:
    """Whoever takes the key first wins, and both say so."""
    gids = [gid_of(sequence) for sequence in range(12)]
    for gid in gids:
        worked, ended = await asyncio.gather(apply(manager, gid), _until_ended(other, gid))
        assert type(worked) is type(ended)
    known = [outcome for _, _, outcome, _ in rows(purse)]
    assert len(known) == len(gids)
    assert applied(purse) == known.count("applied")


async def _until_ended(manager: ResourceManager, gid: Gid) -> object:
    while True:
        try:
            return await abort(manager, gid)
        except StillRunning:
            continue


async def test_r13_a_caller_that_hangs_up_does_not_stop_the_commit(manager: ResourceManager, purse: Database) -> None:
    """Not even between two attempts: the first one comes too early, and nobody asks for the second."""
    with holding_the_key(purse) as session:
        call = asyncio.create_task(manager.commit(GID))
        await until(lambda: _waits_for_a_lock(purse))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        session.execute(f"PREPARE TRANSACTION '{GID}'".encode())
    await until(lambda: purse.prepared() == [])
    assert applied(purse) == 1


# Below the horizon (R5)


async def test_r5_nothing_is_concluded_of_a_branch_below_the_horizon(manager: ResourceManager, purse: Database) -> None:
    await apply(manager)
    await manager.remember(JOURNAL, EPOCH, {EPOCH: GID.txid.sequence + 1})
    assert rows(purse) == []
    for ask in (manager.commit(GID), abort(manager), apply(manager)):
        with pytest.raises(Forgotten, match="horizon"):
            await ask
    assert barred(await prepare(manager, GID))
    assert (applied(purse), purse.prepared(), rows(purse)) == (1, [], [])


async def test_r9_what_is_prepared_below_the_horizon_can_be_finished(manager: ResourceManager, purse: Database) -> None:
    first, second = gid_of(1), gid_of(2)
    await prepare(manager, first)
    await prepare(manager, second)
    await manager.remember(JOURNAL, EPOCH, {EPOCH: 100})
    assert purse.prepared() == [str(first), str(second)]
    assert isinstance(await manager.commit(first), Committed)
    assert isinstance(await abort(manager, second), Aborted)
    assert isinstance(await manager.commit(first), Committed)
    assert applied(purse) == 1


# Restarted sessions


async def test_sessions_that_died_meanwhile_do_not_hide_the_outcome(manager: ResourceManager, purse: Database) -> None:
    await prepare(manager, GID)
    await asyncio.gather(*(manager.list_prepared(JOURNAL) for _ in range(4)))
    value(
        purse,
        "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    assert isinstance(await manager.commit(GID), Committed)
    assert applied(purse) == 1


async def test_a_ledger_that_refuses_leaves_the_outcome_open(manager: ResourceManager, purse: Database) -> None:
    """Rights taken away while it runs: no guess, and the same call succeeds once they are back."""
    role = new_role(purse.cluster)
    with purse.connect() as connection:
        connection.execute(f"GRANT USAGE ON SCHEMA twophase TO {role}".encode())
        connection.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA twophase TO {role}".encode())
        async with managing(purse, dsn=purse.dsn_for(role)) as manager:
            connection.execute(f"REVOKE INSERT ON twophase.ledger FROM {role}".encode())
            for ask in (manager.commit(GID), abort(manager)):
                with pytest.raises(OutcomeUnknown, match=r"42501 permission denied.*ask again"):
                    await ask
            connection.execute(f"REVOKE SELECT ON twophase.ledger FROM {role}".encode())
            with pytest.raises(OutcomeUnknown, match=r"42501 permission denied.*ask again"):
                await manager.inspect(JOURNAL, GID.txid)
            connection.execute(f"GRANT SELECT, INSERT ON twophase.ledger TO {role}".encode())
            assert isinstance(await manager.commit(GID), Lost)


async def test_r12_a_read_only_branch_has_nothing_to_finish(manager: ResourceManager, purse: Database) -> None:
    class Reading(Statements):
        read_only = True

    assert isinstance(await prepare(manager, GID, Reading("SELECT 1")), ReadOnly)
    assert (purse.prepared(), rows(purse)) == ([], [])
