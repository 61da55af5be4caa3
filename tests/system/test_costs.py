"""R14 and R12, counted on real Postgres: what a transaction costs in messages, journal syncs and WAL flushes.

Each participant has a server of its own, so that no flush is shared. What does not belong to a transaction (handshakes,
connections) cancels out: a longer run is compared with a shorter one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from fixtures.clusters import MakeCluster
from twophase.contract.addresses import Address
from twophase.coordinator import server
from twophase.coordinator.channels import GrpcLinks
from twophase.coordinator.client import AsyncClient, Operation, TransactionAborted, operation
from twophase.coordinator.engine.links import Link
from twophase.participant import Participant, Refused
from twophase.participant.migrations import migrate
from twophase.participant.server import ParticipantServer
from twophase.sandbox.postgres import Cluster

NAMES = ("one", "two", "three", "four")
SHORT, LONG = 3, 11
# A server flushes for reasons of its own, too; a cost that is really higher is so every time.
_TRIES = 3
QUIET = {
    "fsync": "on",
    "full_page_writes": "off",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "checkpoint_timeout": "1h",
    # Otherwise it may flush what a transaction has written so far, before that asks for it.
    "wal_writer_delay": "10s",
    "bgwriter_delay": "10s",
}


_SYNCS = "SELECT sum(fsyncs)::bigint FROM pg_stat_io WHERE object = 'wal' AND backend_type = 'client backend'"
_SYNCS_BEFORE_18 = "SELECT wal_sync FROM pg_stat_wal"  # of all processes of the server


@dataclass(frozen=True)
class Cost:
    """What transactions cost: in the journal, at all participants together, and by message."""

    journal_syncs: int
    wal_flushes: int
    messages: Counter[str]

    def per_transaction(self, shorter: Cost) -> tuple[float, float, dict[str, float]]:
        """The difference to a shorter run, for each transaction more."""
        more = LONG - SHORT
        messages = {name: (count - shorter.messages[name]) / more for name, count in self.messages.items()}
        return (
            (self.journal_syncs - shorter.journal_syncs) / more,
            (self.wal_flushes - shorter.wal_flushes) / more,
            {name: count for name, count in messages.items() if count},
        )


class CountingLinks(GrpcLinks):
    """The network, with a count of the calls that belong to transactions."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def connect(self, address: str) -> Link:
        link = super().connect(address)
        for name in ("prepare", "apply", "commit", "abort"):
            self._count(link, name)
        return link

    def _count(self, link: Link, name: str) -> None:
        call = getattr(link, name)
        if hasattr(call, "counted"):
            return

        async def counted(request: object, *, timeout: float) -> object:
            self.count[name] += 1
            return await call(request, timeout=timeout)

        counted.counted = True  # type: ignore[attr-defined]
        setattr(link, name, counted)


def make_participant(name: str) -> Participant:
    participant = Participant(name)

    @participant.operation
    def write(connection: psycopg.Connection, value: int) -> None:
        connection.execute("INSERT INTO written (value) VALUES (%s)", [value])

    @participant.operation
    def refuse(connection: psycopg.Connection) -> None:
        raise Refused("NO", "never")

    @participant.operation(read_only=True)
    def read(connection: psycopg.Connection) -> int:
        row = connection.execute("SELECT count(*) FROM written").fetchone()
        return int(row[0]) if row else 0

    return participant


@asynccontextmanager
async def running(
    directory: Path, dsns: dict[str, str], links: list[CountingLinks], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[server.Running]:
    """A coordinator and its participants, in this process, over real connections."""

    def counting() -> CountingLinks:
        links.append(CountingLinks())
        return links[-1]

    monkeypatch.setattr(server, "GrpcLinks", counting)
    async with AsyncExitStack() as stack:
        settings = server.Settings(directory / "journal", Address("127.0.0.1", 0))
        coordinator = await stack.enter_async_context(server.running(settings))
        for name, dsn in dsns.items():
            participant = await stack.enter_async_context(ParticipantServer(make_participant(name), dsn=dsn))
            await coordinator.engine.register(name, participant.address)
        yield coordinator


def flushes(cluster: Cluster) -> int:
    """WAL syncs since the server started. The sessions that made them must have ended: then they are counted."""
    with cluster.connect() as connection:
        row = connection.execute(_SYNCS if connection.info.server_version >= 180000 else _SYNCS_BEFORE_18).fetchone()
    assert row is not None
    return int(row[0])


async def cost_of(
    calls: Sequence[str],
    times: int,
    *,
    directory: Path,
    clusters: dict[str, Cluster],
    monkeypatch: pytest.MonkeyPatch,
) -> Cost:
    """What `times` transactions of these calls cost, with all that comes before and after."""
    before = {name: flushes(cluster) for name, cluster in clusters.items()}
    links: list[CountingLinks] = []
    dsns = {name: cluster.dsn("costs") for name, cluster in clusters.items()}
    async with running(directory, dsns, links, monkeypatch) as coordinator, AsyncClient(coordinator.address) as client:
        syncs = coordinator.journal.syncs
        for number in range(times):
            operations = [_operation(call, number) for call in calls]
            try:
                await client.execute(*operations)
            except TransactionAborted:
                assert any(call.endswith("refuse") for call in calls)
        spent = coordinator.journal.syncs - syncs
    after = {name: flushes(cluster) for name, cluster in clusters.items()}
    return Cost(spent, sum(after[name] - before[name] for name in clusters), links[0].count)


def _operation(call: str, value: int) -> Operation:
    participant, name = call.split(".")
    return operation(participant, name, value if name == "write" else None)


CASES: dict[str, tuple[list[str], tuple[float, float, dict[str, float]]]] = {
    "two writing branches": (["one.write", "two.write"], (1, 4, {"prepare": 2, "commit": 2})),
    "four writing branches": ([f"{name}.write" for name in NAMES], (1, 8, {"prepare": 4, "commit": 4})),
    "two operations at one participant are one branch": (["one.write", "one.write"], (1, 1, {"apply": 1})),
    "one writing branch": (["one.write"], (1, 1, {"apply": 1})),
    "one writer and two readers": (["two.read", "one.write", "three.read"], (1, 1, {"prepare": 2, "apply": 1})),
    "readers only": (["one.read", "two.read"], (1, 0, {"prepare": 2})),
}


async def test_r14_what_a_transaction_costs(
    tmp_path: Path, make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    clusters = {name: make_cluster(name, **QUIET) for name in NAMES}
    for name, cluster in clusters.items():
        dsn = cluster.create_database("costs")
        with cluster.connect("costs") as connection:
            connection.execute("CREATE TABLE written (value int)")
        migrate(dsn, name)
    found = {}
    for case, (calls, expected) in CASES.items():
        used = {name: clusters[name] for name in dict.fromkeys(call.split(".")[0] for call in calls)}
        for number in range(_TRIES):
            costs = []
            for times in (SHORT, LONG):
                directory = tmp_path / f"{case} {number} {times}"
                directory.mkdir()
                costs.append(await cost_of(calls, times, directory=directory, clusters=used, monkeypatch=monkeypatch))
            found[case] = costs[1].per_transaction(costs[0])
            if found[case] == expected:
                break
    assert found == {case: expected for case, (_, expected) in CASES.items()}


async def test_r14_an_abort_forces_nothing(
    tmp_path: Path, make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    clusters = {name: make_cluster(name, **QUIET) for name in ("one", "two")}
    for name, cluster in clusters.items():
        dsn = cluster.create_database("costs")
        with cluster.connect("costs") as connection:
            connection.execute("CREATE TABLE written (value int)")
        migrate(dsn, name)
    cost = await cost_of(
        ["one.write", "two.refuse"], LONG, directory=tmp_path, clusters=clusters, monkeypatch=monkeypatch
    )
    assert cost.journal_syncs == 0
    # The branch that refused is told nothing; the other one is, once.
    assert cost.messages == {"prepare": 2 * LONG, "abort": LONG}
