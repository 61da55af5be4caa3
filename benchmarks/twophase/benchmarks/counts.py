"""What a transaction costs in things that can be counted: messages, syncs of journal and WAL, statements, round trips.

Lives here: counting, on real Postgres servers and over real connections. Must not live here: what the counts should be
(`baseline.json`, held by `baseline`).

Each participant has a server of its own, so that no sync is shared. What does not belong to a transaction (handshakes,
connections) cancels out: a longer run is compared with a shorter one.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, LiteralString

import psycopg

from twophase.benchmarks.round_trips import RoundTrips
from twophase.contract.addresses import Address
from twophase.coordinator import server
from twophase.coordinator.channels import GrpcLink, GrpcLinks
from twophase.coordinator.client import AsyncClient, Operation, Protocol, TransactionAborted, operation
from twophase.participant import Participant, Refused
from twophase.participant.migrations import migrate
from twophase.participant.server import ParticipantServer
from twophase.sandbox.postgres import Cluster

NAMES: Final = ("one", "two", "three", "four")
SETTINGS: Final = {
    "fsync": "on",
    "full_page_writes": "off",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "checkpoint_timeout": "1h",
    # Otherwise it may sync what a transaction has written so far, before that asks for it.
    "wal_writer_delay": "10s",
    "bgwriter_delay": "10s",
    "log_statement": "all",
}
"""For the servers: they sync for no reasons of their own, and write down every statement."""
_DATABASE: Final = "costs"
_SHORT: Final = 3
_LONG: Final = 11
_SYNCS: Final[LiteralString] = """
SELECT sum(fsyncs)::bigint FROM pg_stat_io WHERE object = 'wal' AND backend_type = 'client backend'"""
_SYNCS_BEFORE_18: Final[LiteralString] = "SELECT wal_sync FROM pg_stat_wal"  # of all processes of the server
# An entry of a server's log goes up to the next one; a statement may have several lines.
_ENTRY: Final = re.compile(r"^(?=\d{4}-\d\d-\d\d )", re.MULTILINE)
_STATEMENT: Final = re.compile(rf"\S+ \S+ \S+ \[\d+\] .*{_DATABASE} LOG:  (?:statement|execute [^:]*): ")
# What every new connection asks, and what the coordinator looks for now and then: both at times of their own.
_APART: Final = ("pg_control_system()", "quote_literal(' ' || current_user)", "FROM pg_prepared_xacts")


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of transaction: what is called, as `participant.operation`.

    In one that `races`, an abort may meet a branch before or after it is prepared: what that costs in the database is
    not always the same, and is not counted.
    """

    calls: tuple[str, ...]
    protocol: Protocol = Protocol.TWO_PHASE
    races: bool = False


CASES: Final[Mapping[str, Case]] = {
    "two writing branches": Case(("one.write", "two.write")),
    "four writing branches": Case(tuple(f"{name}.write" for name in NAMES)),
    "two operations at one participant": Case(("one.write", "one.write")),
    "one writing branch": Case(("one.write",)),
    "one writer and two readers": Case(("two.read", "one.write", "three.read")),
    "two readers": Case(("one.read", "two.read")),
    "one of two refuses": Case(("one.write", "two.refuse"), races=True),
    "saga of two steps": Case(("one.write", "two.write"), Protocol.SAGA),
    "saga whose second step refuses": Case(("one.write", "two.refuse"), Protocol.SAGA),
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one transaction: syncs of the journal, and at all participants together of WAL; statements that reach Postgres
    (several in one string count once), and round trips to it; messages from the coordinator to participants by kind,
    each with its answer, and the `frames` that carry them on streams.
    """

    journal_syncs: float
    messages: Mapping[str, float]
    wal_syncs: float | None = None
    statements: float | None = None
    round_trips: float | None = None
    frames: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in the baseline."""
        counted = {
            "journal_syncs": self.journal_syncs,
            "wal_syncs": self.wal_syncs,
            "statements": self.statements,
            "round_trips": self.round_trips,
            "frames": self.frames,
        }
        return {
            **{name: _plain(number) for name, number in counted.items() if number is not None},
            "messages": {name: _plain(count) for name, count in sorted(self.messages.items()) if count},
        }


class _CountingLinks(GrpcLinks):
    """The network, with a count of the calls that belong to transactions, and of what carries them."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self._seen: dict[str, GrpcLink] = {}

    @property
    def frames(self) -> int:
        """How many were sent on streams, over all links that there are."""
        return sum(link.frames for link in self._seen.values())

    def connect(self, address: str) -> GrpcLink:
        link = super().connect(address)
        if self._seen.get(address) is not link:
            self._seen[address] = link
            for name in ("prepare", "apply", "commit", "abort"):
                self._count(link, name)
        return link

    def _count(self, link: GrpcLink, name: str) -> None:
        call = getattr(link, name)

        def counted(request: object, *, timeout: float) -> object:
            self.count[name] += 1
            return call(request, timeout=timeout)

        setattr(link, name, counted)


def prepare_servers(clusters: Mapping[str, Cluster]) -> None:
    """Makes what is needed in running clusters, one for each of `NAMES`, that were made with `SETTINGS`."""
    for name, cluster in clusters.items():
        dsn = cluster.create_database(_DATABASE)
        with cluster.connect(_DATABASE) as connection:
            connection.execute("CREATE TABLE written (value int)")
        migrate(dsn, name)


async def cost_of(case: Case, clusters: Mapping[str, Cluster], directory: Path) -> Cost:
    """Counts one case. `directory` is empty, and for the journals."""
    used = {name: clusters[name] for name in dict.fromkeys(call.partition(".")[0] for call in case.calls)}
    shorter = await _run(case, used, _SHORT, directory / "shorter")
    longer = await _run(case, used, _LONG, directory / "longer")
    more = _LONG - _SHORT
    each = {name: (longer.totals[name] - shorter.totals[name]) / more for name in longer.totals}
    messages = {name: (count - shorter.messages[name]) / more for name, count in longer.messages.items()}
    return Cost(each["journal_syncs"], messages) if case.races else Cost(messages=messages, **each)


@dataclass(frozen=True, slots=True)
class _Spent:
    """What several transactions cost, with all that comes before and after. `totals` by the names in `Cost`."""

    totals: Mapping[str, int]
    messages: Counter[str]


async def _run(case: Case, clusters: Mapping[str, Cluster], times: int, directory: Path) -> _Spent:
    await asyncio.to_thread(directory.mkdir)
    before = await asyncio.to_thread(_wal_syncs, clusters)
    logs = {name: cluster.log.stat().st_size for name, cluster in clusters.items()}
    links = _CountingLinks()
    async with AsyncExitStack() as stack:
        ways = {name: RoundTrips(cluster.address, apart=_APART) for name, cluster in clusters.items()}
        databases = {
            name: (await stack.enter_async_context(way)).through(clusters[name].dsn(_DATABASE))
            for name, way in ways.items()
        }
        coordinator = await stack.enter_async_context(_running(databases, directory, links))
        client = await stack.enter_async_context(AsyncClient(coordinator.address))
        journal = coordinator.journal.syncs
        for number in range(times):
            try:
                await client.execute(*(_operation(call, number) for call in case.calls), protocol=case.protocol)
            except TransactionAborted:
                if not any(call.endswith(".refuse") for call in case.calls):
                    raise
        totals = {
            "journal_syncs": coordinator.journal.syncs - journal,
            "frames": links.frames,
            "round_trips": sum(way.count for way in ways.values()),
        }
    wal = await asyncio.to_thread(_wal_syncs, clusters) - before
    statements = sum(_statements(cluster, logs[name]) for name, cluster in clusters.items())
    return _Spent({**totals, "wal_syncs": wal, "statements": statements}, links.count)


@asynccontextmanager
async def _running(databases: Mapping[str, str], directory: Path, links: GrpcLinks) -> AsyncIterator[server.Running]:
    """A coordinator and its participants, in this process, over real connections."""
    async with AsyncExitStack() as stack:
        settings = server.Settings(directory / "journal", Address("127.0.0.1", 0), ballast=0)
        coordinator = await stack.enter_async_context(server.running(settings, links=links))
        for name, dsn in databases.items():
            served = ParticipantServer(_participant(name), dsn=dsn)
            await stack.enter_async_context(served)
            await coordinator.engine.register(name, served.address)
        yield coordinator


def _participant(name: str) -> Participant:
    participant = Participant(name)

    @participant.operation
    def write(connection: psycopg.Connection, value: int) -> None:
        connection.execute("INSERT INTO written (value) VALUES (%s)", [value])

    @participant.compensation(write)
    def erase(connection: psycopg.Connection, value: int) -> None:
        connection.execute("DELETE FROM written WHERE value = %s", [value])

    @participant.operation
    def refuse(connection: psycopg.Connection) -> None:  # noqa: ARG001 - every operation is given one
        raise Refused("NO", "never")

    @participant.compensation(refuse)
    def nothing(connection: psycopg.Connection) -> None:
        """A saga takes only steps that could be undone."""

    @participant.operation(read_only=True)
    def read(connection: psycopg.Connection) -> int:
        row = connection.execute("SELECT count(*) FROM written").fetchone()
        return int(row[0]) if row else 0

    return participant


def _plain(number: float) -> float:
    """A whole number without a point."""
    return int(number) if number == int(number) else number


def _operation(call: str, value: int) -> Operation:
    participant, _, name = call.partition(".")
    return operation(participant, name, value if name == "write" else None)


def _wal_syncs(clusters: Mapping[str, Cluster]) -> int:
    """Since the servers started. The sessions that made them must have ended: then they are counted."""
    found = 0
    for cluster in clusters.values():
        with cluster.connect() as connection:
            statement = _SYNCS if connection.info.server_version >= 180000 else _SYNCS_BEFORE_18
            row = connection.execute(statement).fetchone()
        found += int(row[0]) if row else 0
    return found


def _statements(cluster: Cluster, since: int) -> int:
    """Statements of branches in the participant's database that are in the server's log behind a position."""
    with cluster.log.open("rb") as log:
        log.seek(since)
        entries = _ENTRY.split(log.read().decode(errors="replace"))
    return sum(bool(_STATEMENT.match(entry)) and not any(text in entry for text in _APART) for entry in entries)
