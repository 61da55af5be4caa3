"""Bystanders: what a blocked update has waited, which looks count as half done, and how long is looked for branches."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Iterator

import psycopg
import pytest

from twophase.benchmarks.report.measure.bank import FILL, OPENING, SCHEMA, Movement, move, move_back
from twophase.benchmarks.report.measure.bench import Load
from twophase.benchmarks.report.measure.business import Mix, Workload
from twophase.benchmarks.report.measure.probes import TRANSFERS, Observer, PreparedWatch, Victim, _moments
from twophase.benchmarks.report.measure.task import Task
from twophase.sandbox.postgres import Cluster

pytestmark = pytest.mark.integration


@pytest.fixture
def load() -> Load:
    """One that has begun."""
    load = Load(Task("r1", Mix(Workload.UNIFORM), "seed", seconds=0.3))
    load.begun.set()
    return load


def bank(cluster: Cluster) -> tuple[str, psycopg.Connection]:
    name = f"probes_{secrets.token_hex(4)}"
    dsn = cluster.create_database(name)
    connection = cluster.connect(name)
    connection.execute(SCHEMA)
    connection.execute(FILL, (OPENING, 10))
    return dsn, connection


@pytest.fixture
def here(cluster: Cluster) -> Iterator[tuple[str, psycopg.Connection]]:
    dsn, connection = bank(cluster)
    with connection:
        yield dsn, connection


@pytest.fixture
def there(cluster: Cluster) -> Iterator[tuple[str, psycopg.Connection]]:
    dsn, connection = bank(cluster)
    with connection:
        yield dsn, connection


async def test_an_update_that_is_never_done_has_waited_at_least_its_timeout(
    here: tuple[str, psycopg.Connection], load: Load
) -> None:
    dsn, connection = here
    victim = Victim(dsn, [1, 2], rate=20, timeout=0.4, connections=30)
    with connection.transaction():
        connection.execute("UPDATE account SET balance = 0 WHERE id = 1")
        await victim.watch(load)
    assert len(victim.waits) == len(list(itertools.takewhile(lambda at: at < load.task.seconds, _moments(20))))
    assert all(waited >= 0.4 for _, waited in victim.waits[::2])


def test_no_point_of_a_loads_way_is_looked_at_more_often_than_another() -> None:
    """Of looks that go one way, beside a load that comes at half their rate."""
    one_way = list(itertools.islice(_moments(100), 0, 20_000, 2))
    phases = [at * 50 % 1 for at in one_way]
    shares = [sum(low <= phase < low + 0.25 for phase in phases) / len(phases) for low in (0, 0.25, 0.5, 0.75)]
    assert all(abs(share - 0.25) < 0.02 for share in shares), shares
    assert one_way[-1] == pytest.approx(200, rel=0.05)


async def test_a_look_counts_as_half_done_only_what_the_other_side_does_not_have(
    here: tuple[str, psycopg.Connection], there: tuple[str, psycopg.Connection], load: Load
) -> None:
    movements = [Movement(f"r1/{number}", 1, 5) for number in range(3)]
    for movement in movements[:2]:
        move(here[1], movement)
    move(there[1], movements[0])
    move(here[1], movements[2])
    move_back(here[1], movements[2])
    observer = Observer((here[0], TRANSFERS), (there[0], TRANSFERS), rate=20)
    await observer.watch(load)
    assert observer.looks == len(list(itertools.takewhile(lambda at: at < load.task.seconds, _moments(20)))) > 2
    assert (
        observer.looks_half == (observer.looks + 1) // 2
    )  # every other look begins at the other bank, which shows nothing half done
    assert observer.half == {"r1/1"}
    assert {deed for shown in observer.shown for deed in shown} == {"r1/0", "r1/1"}


async def test_branches_are_watched_until_none_of_a_moment_is_left(
    here: tuple[str, psycopg.Connection], load: Load
) -> None:
    dsn, connection = here
    gid = f"probes-{secrets.token_hex(4)}"
    with connection.transaction():
        connection.execute("UPDATE account SET balance = 0 WHERE id = 1")
        connection.execute(f"PREPARE TRANSACTION '{gid}'".encode())
    watch = PreparedWatch([dsn])
    watching = asyncio.create_task(watch.watch(load))
    while gid not in watch.seen:
        await asyncio.sleep(0)
    moment = watch.looks[-1]
    waiting = asyncio.create_task(watch.until_none_of(moment, within=30))
    looks = len(watch.looks)
    while len(watch.looks) < looks + 2:
        await asyncio.sleep(0)
    assert not waiting.done()
    connection.execute(f"ROLLBACK PREPARED '{gid}'".encode())
    await waiting
    await watching
    (seen,) = watch.left_at(moment)
    assert seen.prepared <= seen.first <= moment <= seen.last


async def test_what_stays_prepared_is_not_watched_for_ever(here: tuple[str, psycopg.Connection], load: Load) -> None:
    watch = PreparedWatch([here[0], here[0]])  # the second of them is never looked at
    await watch.until_none_of(0.0, within=0.05)
    await watch.watch(load)
    assert watch.looks == []
