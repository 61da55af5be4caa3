"""What recovery reads of a participant: its prepared branches, a transaction's rows, and what it knew of a journal."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import pytest
from psycopg import sql

from fixtures.clusters import Database, MakeDatabase
from fixtures.second_phase import (
    COMPENSATION,
    EPOCH,
    FINGERPRINT,
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
    rows,
    until,
    value,
)
from twophase.contract.names import MAX_SEQUENCE, Epoch, Gid, InvalidName, Txid
from twophase.participant import finish
from twophase.participant.outcomes import OutcomeUnknown
from twophase.participant.resource import ResourceManager
from twophase.participant.work import Deadline
from twophase.sandbox.postgres import Cluster
from twophase.v1 import participant_pb2, types_pb2

ABORT = types_pb2.DECISION_ABORT
LATER = Epoch(4, "00000000")


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[Database]:
    database = make_purse(cluster, "reading")
    yield database
    cluster.drop_database(database.name)


@pytest.fixture
def purse(shared: Database) -> Database:
    return empty(shared)


@pytest.fixture
async def manager(purse: Database) -> AsyncIterator[ResourceManager]:
    async with managing(purse) as manager:
        yield manager


@pytest.fixture
async def other(purse: Database) -> AsyncIterator[ResourceManager]:
    """Another process of the same participant."""
    async with managing(purse) as manager:
        yield manager


def prepare_foreign(database: Database, name: str) -> None:
    """A prepared transaction that is not of a coordinator."""
    with database.connect(autocommit=False) as session:
        session.execute("INSERT INTO purse VALUES (9)")
        session.execute(sql.SQL("PREPARE TRANSACTION {}").format(sql.Literal(name)))


async def apply(manager: ResourceManager, gid: Gid, *, position: int = 42, compensation: str = "") -> None:
    deadline = Deadline.after(20)
    if compensation:
        undo = Statements(compensation)
        await manager.compensate(gid, lambda _: undo, deadline=deadline, position=position, fingerprint=FINGERPRINT)
    else:
        await manager.apply(gid, Statements(), deadline=deadline, position=position, fingerprint=FINGERPRINT)


async def listed(manager: ResourceManager, journal: str = JOURNAL) -> list[str]:
    return sorted(str(branch.gid) for branch in (await manager.list_prepared(journal)).branches)


# Prepared branches (R9)

_OURS = str(gid_of())
_NEIGHBOURS = ["0123456789abcde0", "0123456789abcdee", "1123456789abcdef", "0123456789abcdf0"]
_FOREIGN = [
    "tp-",
    f"tp-{JOURNAL}",
    f"tp-{JOURNAL}-",
    f"tp-{JOURNAL}-{EPOCH}",
    f"{_OURS}x",
    f"{_OURS}-0001",
    f"{_OURS}\n",
    f"{_OURS}'; DROP TABLE purse; --",
    f"{_OURS[:-1]}",
    f"{_OURS[:-4]}000g",
    f"{_OURS[:-4]}000A",
    f"tp_{_OURS[3:]}",
    f"TP-{_OURS[3:]}",
    f"tp-{JOURNAL.upper()}{_OURS[19:]}",
    f" {_OURS}",
    f"tp-{JOURNAL}-' OR true --",
    f"tp-{JOURNAL}-Ünïcödé",
    f"tp-{JOURNAL}." + "x" * 100,
    "0123456789abcdef",
    "_",
    "%",
]


async def test_r9_only_the_branches_of_the_journal_are_listed_and_the_foreign_are_never_touched(
    manager: ResourceManager, purse: Database
) -> None:
    ours = [gid_of(), gid_of(8), gid_of(MAX_SEQUENCE - 1, 0xFFFF), gid_of(0, 0, epoch=Epoch(2**32 - 1, "ffffffff"))]
    near = [gid_of(journal=journal) for journal in _NEIGHBOURS]
    for gid in (*ours, *near):
        with purse.connect(autocommit=False) as session:
            session.execute("INSERT INTO purse VALUES (9)")
            session.execute(f"PREPARE TRANSACTION '{gid}'".encode())
    for name in _FOREIGN:
        prepare_foreign(purse, name)

    assert await listed(manager) == sorted(map(str, ours))
    for gid in near:
        assert await listed(manager, gid.journal) == [str(gid)]
    assert await listed(manager, "f" * 16) == []

    assert (await manager.inspect(JOURNAL, gid_of().txid)).prepared == (gid_of(),)
    for gid in ours:
        await manager.abort(gid, WORK, ABORT)
    assert sorted(purse.prepared()) == sorted([*_FOREIGN, *map(str, near)])


async def test_r9_a_branch_of_our_journal_in_another_database_is_not_listed(
    manager: ResourceManager, databases: MakeDatabase, purse: Database
) -> None:
    elsewhere = databases()
    with elsewhere.connect(autocommit=False) as session:
        session.execute("SELECT txid_current()")
        session.execute(f"PREPARE TRANSACTION '{gid_of()}'".encode())
    assert elsewhere.prepared() == [str(gid_of())]
    assert await listed(manager) == []
    assert (await manager.inspect(JOURNAL, gid_of().txid)).prepared == ()
    async with managing(elsewhere) as there:
        assert await listed(there) == [str(gid_of())]


async def test_a_prepared_branch_has_an_age_by_the_clock_of_the_database(
    manager: ResourceManager, purse: Database
) -> None:
    for sequence in (1, 2):
        await prepare(manager, gid_of(sequence))
    since = "SELECT extract(epoch FROM clock_timestamp() - min(prepared))::float8 FROM pg_prepared_xacts"
    least: float = value(purse, f"{since} WHERE database = current_database()")
    older, younger = sorted((await manager.list_prepared(JOURNAL)).branches, key=lambda branch: branch.gid)
    assert older.age >= least
    assert 0 <= younger.age < older.age < least + 20


@pytest.mark.parametrize(
    "journal", ["", "_" * 16, "0123456789ABCDEF", JOURNAL + "0", "0123456789abcde%", f"{JOURNAL}\n"]
)
async def test_what_is_no_journal_id_is_refused(manager: ResourceManager, journal: str) -> None:
    for call in (manager.list_prepared(journal), manager.inspect(journal, gid_of().txid)):
        with pytest.raises(InvalidName):
            await call
    with pytest.raises(InvalidName):
        await manager.remember(journal, EPOCH, {})


# One transaction


async def test_inspect_tells_rows_in_branch_order_with_results_and_what_is_prepared(
    manager: ResourceManager, purse: Database
) -> None:
    txid = gid_of().txid
    done, compensated, barred, waiting, later = (Gid(JOURNAL, txid, branch) for branch in (1, 2, 9, 10, 0x100))
    await prepare(manager, later)
    await prepare(manager, waiting)
    await manager.abort(barred, WORK, ABORT)
    await apply(manager, compensated)
    await apply(manager, compensated, position=77, compensation="SELECT 1")
    await prepare(manager, done)
    await manager.commit(done)
    # Its neighbours in the order of names.
    for near in (gid_of(6, 0xFFFF), gid_of(8, 0), gid_of(epoch=LATER), gid_of(journal=_NEIGHBOURS[0])):
        await apply(manager, near)

    seen = await manager.inspect(JOURNAL, txid)
    assert seen.prepared == (waiting, later)
    assert [(entry.gid, entry.kind) for entry in seen.entries] == [
        (done, WORK),
        (compensated, WORK),
        (compensated, COMPENSATION),
        (barred, WORK),
    ]
    first, _, undone, tombstone = seen.entries
    assert (first.outcome, first.results) == (participant_pb2.LEDGER_OUTCOME_APPLIED, RESULTS)
    assert (first.fingerprint, first.position, first.refusal) == (FINGERPRINT, 42, None)
    assert (first.decision, undone.position) == (types_pb2.DECISION_UNSPECIFIED, 77)
    assert (tombstone.outcome, tombstone.decision) == (participant_pb2.LEDGER_OUTCOME_TOMBSTONE, ABORT)
    assert (tombstone.results, tombstone.position) == ((), 0)
    nothing = await manager.inspect(JOURNAL, Txid(LATER, 1))
    assert (nothing.entries, nothing.prepared) == ((), ())


async def test_many_transactions_are_inspected_in_one_go(manager: ResourceManager, purse: Database) -> None:
    await apply(manager, gid_of(1), position=7)
    await apply(manager, gid_of(2), position=8)
    await apply(manager, gid_of(3), position=9)
    await prepare(manager, gid_of(4))
    await prepare(manager, gid_of(5))
    await apply(manager, gid_of(1, journal="f" * 16), position=1)
    wanted = frozenset(gid_of(number).txid for number in (1, 3, 4, 6))
    seen = await manager.inspect_all(JOURNAL, wanted)
    assert [(entry.gid, entry.position, entry.results) for entry in seen.entries] == [
        (gid_of(1), 7, ()),
        (gid_of(3), 9, ()),
    ]
    assert seen.prepared == (gid_of(4),)
    for number in (4, 5):
        await manager.abort(gid_of(number), WORK, types_pb2.DECISION_ABORT)


async def test_r7_inspect_misses_no_branch_that_is_committed_meanwhile(
    manager: ResourceManager, other: ResourceManager, purse: Database
) -> None:
    """Prepared first, rows second: the other order could see neither."""
    for sequence in range(10):
        gid = gid_of(sequence)
        await prepare(manager, gid)
        seen, _ = await asyncio.gather(other.inspect(JOURNAL, gid.txid), manager.commit(gid))
        assert gid in {*seen.prepared, *(entry.gid for entry in seen.entries)}


# The handshake


async def test_the_first_handshake_knows_nothing(manager: ResourceManager, purse: Database) -> None:
    first = await manager.remember(JOURNAL, EPOCH, {})
    assert (first.last_epoch, first.highest_position) == (None, 0)
    assert first.identity == manager.identity
    assert (await manager.remember("f" * 16, LATER, {})).last_epoch is None
    assert (await manager.remember(JOURNAL, EPOCH, {})).last_epoch == EPOCH


async def test_a_higher_epoch_is_kept_and_a_lower_one_changes_nothing(
    manager: ResourceManager, purse: Database
) -> None:
    epochs = [
        Epoch(3, "aaaaaaaa"),
        Epoch(5, "00000000"),
        Epoch(4, "ffffffff"),
        Epoch(1, "bbbbbbbb"),
        Epoch(2**32 - 1, "cccccccc"),
    ]
    told = [(await manager.remember(JOURNAL, epoch, {})).last_epoch for epoch in (*epochs, EPOCH)]
    assert told == [None, epochs[0], epochs[1], epochs[1], epochs[1], epochs[4]]


async def test_a_restored_journal_shows_in_every_later_handshake(manager: ResourceManager, purse: Database) -> None:
    """It gives out the number again, with another nonce: the first one stays, whoever asks."""
    await manager.remember(JOURNAL, EPOCH, {})
    restored = Epoch(EPOCH.number, "ffffffff")
    for _ in range(2):
        assert (await manager.remember(JOURNAL, restored, {})).last_epoch == EPOCH


async def test_a_look_leaves_no_trace(manager: ResourceManager, purse: Database) -> None:
    assert (await manager.recall(JOURNAL)).last_epoch is None
    assert (await manager.remember(JOURNAL, EPOCH, {})).last_epoch is None
    await apply(manager, gid_of(1), position=7)
    for _ in range(2):
        looked = await manager.recall(JOURNAL)
        assert (looked.last_epoch, looked.highest_position) == (EPOCH, 7)
        assert looked.identity == manager.identity
    await manager.remember(JOURNAL, EPOCH, {EPOCH: 2})
    assert (await manager.recall(JOURNAL)).highest_position == 7


async def test_r8_of_two_first_handshakes_at_once_one_is_first(
    manager: ResourceManager, other: ResourceManager, purse: Database
) -> None:
    for number in range(5):
        journal = f"{number:016x}"
        told = await asyncio.gather(*(each.remember(journal, EPOCH, {}) for each in (manager, other)))
        assert {answer.last_epoch for answer in told} == {None, EPOCH}


async def test_a_handshake_sees_the_higher_epoch_that_is_being_kept_at_that_moment(
    manager: ResourceManager, purse: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twophase.participant.finish.BRIEF", 10.0)
    await manager.remember(JOURNAL, EPOCH, {})
    with purse.connect(autocommit=False) as session:
        session.execute("SELECT FROM twophase.journal FOR UPDATE")
        meeting = asyncio.create_task(manager.remember(JOURNAL, LATER, {}))
        blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        await until(lambda: meeting.done() or value(purse, blocked))
        session.execute("UPDATE twophase.journal SET epoch = 9, nonce = '99999999'")
        session.commit()
    assert (await meeting).last_epoch == Epoch(9, "99999999")


async def test_the_highest_position_is_the_journals_own_and_outlives_its_rows(
    manager: ResourceManager, purse: Database
) -> None:
    await apply(manager, gid_of(1), position=7)
    await apply(manager, gid_of(2), position=90)
    await apply(manager, gid_of(3), position=8)
    await apply(manager, gid_of(9, journal="f" * 16), position=1_000)
    assert (await manager.remember(JOURNAL, EPOCH, {})).highest_position == 90
    await manager.remember(JOURNAL, EPOCH, {EPOCH: 3})
    assert [name for name, *_ in rows(purse)] == [str(gid_of(3)), str(gid_of(9, journal="f" * 16))]
    assert (await manager.remember(JOURNAL, EPOCH, {EPOCH: 4})).highest_position == 90
    assert (await manager.remember(JOURNAL, LATER, {})).highest_position == 90
    assert (await manager.remember("f" * 16, LATER, {})).highest_position == 1_000


async def test_a_handshake_behind_one_that_never_ends_says_so(manager: ResourceManager, purse: Database) -> None:
    await manager.remember(JOURNAL, EPOCH, {})
    with purse.connect(autocommit=False) as session:
        session.execute("SELECT FROM twophase.journal FOR UPDATE")
        with pytest.raises(OutcomeUnknown, match=r"55P03.*ask again"):
            await manager.remember(JOURNAL, LATER, {})
    assert (await manager.remember(JOURNAL, EPOCH, {})).last_epoch == EPOCH


# Horizons, and what is pruned below them


async def test_a_horizon_prunes_below_it_in_its_own_epoch_and_only_there(
    manager: ResourceManager, purse: Database
) -> None:
    twin = Epoch(EPOCH.number, "aabbccde")
    kept = [
        gid_of(5, 0),
        gid_of(6),
        gid_of(1, epoch=LATER),
        gid_of(1, epoch=twin),
        gid_of(1, journal=_NEIGHBOURS[0]),
    ]
    for gid in (gid_of(0, 0), gid_of(4, 0xFFFF), gid_of(4), *kept):
        await apply(manager, gid)
    await apply(manager, gid_of(4), compensation="SELECT 1")
    await manager.abort(gid_of(3), WORK, ABORT)
    await manager.remember(JOURNAL, EPOCH, {EPOCH: 5})
    assert [name for name, *_ in rows(purse)] == sorted(map(str, kept))


async def test_pruning_is_bounded_and_says_when_there_is_more(
    manager: ResourceManager, purse: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "_PRUNED_AT_ONCE", 2)
    for gid in (gid_of(1), gid_of(2), gid_of(3), gid_of(1, epoch=LATER)):
        await apply(manager, gid)
    both = {EPOCH: 5, LATER: 5}
    answers = [await manager.remember(JOURNAL, LATER, both) for _ in range(2)]
    assert [answer.pruning_left for answer in answers] == [True, False]
    assert rows(purse) == []
    assert not (await manager.remember(JOURNAL, LATER, {})).pruning_left


async def test_a_horizon_only_rises(manager: ResourceManager, purse: Database) -> None:
    for sequence in (5, 3, 0, 5):
        await manager.remember(JOURNAL, EPOCH, {EPOCH: sequence})
        assert value(purse, "SELECT sequence FROM twophase.horizon WHERE epoch = %s", f"{JOURNAL}-{EPOCH}") == 5
    await manager.remember(JOURNAL, EPOCH, {EPOCH: 6, LATER: 2})
    assert value(purse, "SELECT sum(sequence)::int FROM twophase.horizon") == 8


async def test_a_whole_epoch_can_lie_below_its_horizon(manager: ResourceManager, purse: Database) -> None:
    last = gid_of(MAX_SEQUENCE - 1, 0xFFFF)
    await apply(manager, last)
    await manager.remember(JOURNAL, EPOCH, {EPOCH: MAX_SEQUENCE})
    assert rows(purse) == []
    vote = await prepare(manager, last)
    assert getattr(vote, "refusal", types_pb2.Refusal()).kind == types_pb2.REFUSAL_KIND_ABORTED


async def test_a_horizon_and_its_pruning_are_one_transaction(manager: ResourceManager, purse: Database) -> None:
    """The second horizon cannot be kept: nothing of the first is."""
    await apply(manager, gid_of(1))
    with purse.connect() as connection:
        connection.execute(
            sql.SQL("ALTER TABLE twophase.horizon ADD CONSTRAINT no_later CHECK (epoch <> {})").format(
                sql.Literal(f"{JOURNAL}-{LATER}")
            )
        )
    try:
        with pytest.raises(OutcomeUnknown, match="23514"):
            await manager.remember(JOURNAL, LATER, {EPOCH: 5, LATER: 1})
    finally:
        with purse.connect() as connection:
            connection.execute("ALTER TABLE twophase.horizon DROP CONSTRAINT no_later")
    assert len(rows(purse)) == 1
    assert value(purse, "SELECT count(*) FROM twophase.horizon") == 0
    assert (await manager.remember(JOURNAL, EPOCH, {})).last_epoch is None


async def test_what_is_prepared_is_never_pruned(manager: ResourceManager, purse: Database) -> None:
    await prepare(manager, gid_of(1), position=50)
    await manager.remember(JOURNAL, EPOCH, {EPOCH: 100})
    assert purse.prepared() == [str(gid_of(1))]
    await manager.commit(gid_of(1))
    assert applied(purse) == 1
    assert len(rows(purse)) == 1
    # Committed below the horizon, its row goes with the next handshake, and its position stays known.
    assert (await manager.remember(JOURNAL, EPOCH, {EPOCH: 100})).highest_position == 50
    assert rows(purse) == []
    assert (await manager.remember(JOURNAL, EPOCH, {})).highest_position == 50


async def test_more_rows_than_are_pruned_at_once_go_with_the_next_handshakes(
    manager: ResourceManager, purse: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twophase.participant.finish._PRUNED_AT_ONCE", 2)
    for sequence in range(5):
        await apply(manager, gid_of(sequence), position=sequence + 1)
    left = []
    for _ in range(3):
        assert (await manager.remember(JOURNAL, EPOCH, {EPOCH: 10})).highest_position == 5
        left.append(len(rows(purse)))
    assert left == [3, 1, 0]


async def test_r8_two_handshakes_that_prune_at_once_equal_one(
    manager: ResourceManager, other: ResourceManager, purse: Database
) -> None:
    with purse.connect() as connection:
        connection.execute(
            "INSERT INTO twophase.ledger (gid, kind, outcome, journal_position)"
            " SELECT %s || lpad(to_hex(n), 12, '0') || '-0001', 'work', 'applied', n FROM generate_series(1, 500) AS n",
            (f"tp-{JOURNAL}-{EPOCH}-",),
        )
    calls = itertools.product(range(1, 6), (manager, other))
    told = await asyncio.gather(*(each.remember(JOURNAL, EPOCH, {EPOCH: 100 * n}) for n, each in calls))
    assert {answer.highest_position for answer in told} == {500}
    assert len(rows(purse)) == 1
    assert value(purse, "SELECT pruned_position FROM twophase.journal") == 499
