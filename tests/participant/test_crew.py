"""Threads that take jobs, and the outbox that tells their answers: who is called, in which order, and how often."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from twophase.participant import crew as module
from twophase.participant.crew import Crew, Outbox


class Job:
    """Done when it is told to."""

    def __init__(self) -> None:
        self.by: Clerk | None = None
        self.begun = threading.Event()
        self.leave = threading.Event()

    def finish(self) -> None:
        assert self.begun.wait(20)
        self.leave.set()


class Clerk:
    """Counts how often it was told to rest."""

    def __init__(self) -> None:
        self.rests: queue.SimpleQueue[None] = queue.SimpleQueue()

    def perform(self, job: Job) -> None:
        job.by = self
        job.begun.set()
        assert job.leave.wait(20)

    def rest(self) -> None:
        self.rests.put(None)


@pytest.fixture
def crew() -> Iterator[Crew[Job]]:
    crew: Crew[Job] = Crew(Clerk, size=2, name="test")
    yield crew
    crew.close()


def idle(crew: Crew[Job], number: int) -> None:
    """Returns when so many threads wait for something to do."""
    while len(crew._idle) < number:
        pass


def done(crew: Crew[Job]) -> Clerk:
    """The thread that does a job now."""
    job = Job()
    crew.submit(job)
    job.finish()
    assert job.by is not None
    return job.by


def test_who_became_idle_last_is_called_first(crew: Crew[Job]) -> None:
    first, second = Job(), Job()
    crew.submit(first)
    crew.submit(second)
    second.finish()
    idle(crew, 1)
    first.finish()
    idle(crew, 2)
    for _ in range(3):
        assert done(crew) is first.by
        idle(crew, 2)


def test_what_finds_nobody_idle_waits_in_order_and_can_be_withdrawn_until_it_is_begun(crew: Crew[Job]) -> None:
    at_work, waiting, withdrawn, last = [Job(), Job()], Job(), Job(), Job()
    for job in (*at_work, waiting, withdrawn, last):
        crew.submit(job)
    assert crew.withdraw(withdrawn)
    assert not crew.withdraw(withdrawn)
    at_work[0].finish()
    assert waiting.begun.wait(20)
    assert not crew.withdraw(waiting)
    assert not last.begun.is_set()
    waiting.finish()
    last.finish()
    at_work[1].finish()
    idle(crew, 2)
    assert not withdrawn.begun.is_set()


def test_a_thread_without_work_gives_back_what_it_keeps_and_works_again(
    crew: Crew[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REST", 0.01)
    clerk = done(crew)
    clerk.rests.get(timeout=20)
    assert done(crew) is clerk


def test_closing_waits_for_the_work_and_everything_is_given_back(crew: Crew[Job]) -> None:
    jobs = [Job(), Job()]
    for job in jobs:
        crew.submit(job)
    jobs[1].finish()
    closing = threading.Thread(target=crew.close)
    closing.start()
    jobs[0].finish()
    closing.join(20)
    for job in jobs:
        assert job.by is not None
        job.by.rests.get(timeout=1)


class Loop:
    """Notes what is to be called."""

    def __init__(self) -> None:
        self.called: list[Callable[[], Any]] = []

    def call_soon_threadsafe(self, callback: Callable[[], Any]) -> None:
        self.called.append(callback)


async def test_the_loop_is_woken_once_for_all_answers_that_are_ready() -> None:
    loop = Loop()
    outbox = Outbox(cast("asyncio.AbstractEventLoop", loop))
    futures: list[asyncio.Future[int]] = [asyncio.get_running_loop().create_future() for _ in range(4)]
    outbox.put(futures[0], 1, None)
    outbox.put(futures[1], None, ValueError("no"))
    outbox.put(futures[2], 3, None)
    futures[2].cancel()  # nobody waits for it any more
    (deliver,) = loop.called
    deliver()
    assert futures[0].result() == 1
    with pytest.raises(ValueError, match="no"):
        futures[1].result()
    outbox.put(futures[3], 4, None)
    assert len(loop.called) == 2
    loop.called[1]()
    assert futures[3].result() == 4
