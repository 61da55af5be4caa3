"""Loads under way: an open one keeps its times whatever the answers do; what is late counts from when it was due."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from twophase.benchmarks.report.measure.business import Deed, Mix, Workload, name_of
from twophase.benchmarks.report.measure.pacing import Do, run_tasks, run_threads
from twophase.benchmarks.report.measure.task import Answer, Log, Task, Told

MIX = Mix(Workload.UNIFORM, accounts=50)
OPEN = Task("r1", MIX, "seed", seconds=0.2, warm_up=0.1, clients=4, rate=100.0, timeout=0.05)
CLOSED = Task("r1", MIX, "seed", seconds=0.1, warm_up=0.05, clients=3)


def nothing(_: str) -> None:
    """Nobody listens."""


async def test_an_open_load_sends_everything_although_nothing_is_answered() -> None:
    sent: list[str] = []

    async def never(deed: Deed) -> Told:
        sent.append(name_of(deed))
        await asyncio.Event().wait()
        return Told.OK

    log = await run_tasks(never, OPEN, nothing)
    assert sent == [f"r1/{number}" for number in range(30)]
    assert {answer.name for answer in log.answers} == set(sent)
    assert all(answer.told is Told.UNKNOWN and answer.seconds >= OPEN.timeout for answer in log.answers)


async def test_an_open_load_counts_a_latency_from_when_it_was_due() -> None:
    begun = asyncio.Event()

    async def blocks_the_loop_once(deed: Deed) -> Told:
        if not begun.is_set():
            begun.set()
            threading.Event().wait(0.15)  # nothing can be sent meanwhile
        return Told.OK

    log = await run_tasks(blocks_the_loop_once, OPEN, nothing)
    delayed = next(answer for answer in log.answers if answer.name == "r1/3")
    assert delayed.at == pytest.approx(3 / OPEN.rate - OPEN.warm_up)
    assert delayed.seconds > 0.1


async def test_a_client_that_fails_ends_an_open_load() -> None:
    async def fails(_: Deed) -> Told:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        await run_tasks(fails, OPEN, nothing)


@contextmanager
def slow_in_line() -> Iterator[Do]:
    yield lambda _: (threading.Event().wait(0.05), Told.OK)[1]


def test_in_threads_what_waits_in_line_for_a_connection_has_waited() -> None:
    task = Task("r1", MIX, "seed", seconds=0.2, warm_up=0.0, clients=1, rate=100.0)
    log = run_threads(slow_in_line, task, nothing)
    assert sorted(answer.at for answer in log.answers) == pytest.approx([n / 100 for n in range(20)])
    # 20 of 50 ms each, due within 200 ms: the last one was due long before it was done.
    assert max(answer.seconds for answer in log.answers) > 0.7
    assert len(log.due()) == 20


def test_in_threads_a_closed_load_waits_for_every_answer() -> None:
    moments: list[str] = []
    log = run_threads(slow_in_line, CLOSED, moments.append)
    assert moments == ["begin", "end"]
    for client in range(CLOSED.clients):
        mine = [answer for answer in log.answers if answer.name.startswith(f"r1/{client}.")]
        assert all(later.at >= sooner.end for sooner, later in itertools.pairwise(mine))


async def test_in_tasks_a_closed_load_waits_for_every_answer() -> None:
    under_way: set[str] = set()
    most = 0

    async def do(deed: Deed) -> Told:
        nonlocal most
        under_way.add(name_of(deed))
        most = max(most, len(under_way))
        await asyncio.sleep(0.005)
        under_way.remove(name_of(deed))
        return Told.REFUSED

    log = await run_tasks(do, CLOSED, nothing)
    assert most == CLOSED.clients
    assert log.inside()


def test_in_threads_the_client_that_fails_says_why() -> None:
    @contextmanager
    def fails() -> Iterator[Do]:
        if CLOSED.clients:
            raise RuntimeError("no server")
        yield lambda _: Told.OK

    with pytest.raises(RuntimeError, match="no server"):
        run_threads(fails, CLOSED, nothing)


def test_a_log_and_a_task_survive_their_way_between_processes() -> None:
    log = Log(5.0, 1.0, [Answer("r1/1", -0.5, 0.25, Told.HALF), Answer("r1/2", 0.5, 0.75, Told.OK)])
    assert Log.from_json(log.to_json()) == log
    assert [answer.name for answer in log.due()] == ["r1/2"]
    assert log.inside() == []
    assert Task.from_json(OPEN.to_json()) == OPEN
