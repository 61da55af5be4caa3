"""The engine's own tasks: nothing fails unseen, and after the end nothing is done any more."""

from __future__ import annotations

import asyncio
from typing import NoReturn

from twophase.coordinator.engine.peers import Slots
from twophase.coordinator.engine.tasks import Tasks


def fail(*_: object) -> NoReturn:
    raise ZeroDivisionError("a defect")


async def test_an_answer_is_heard_without_a_task() -> None:
    tasks, heard = Tasks(), []
    call: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    assert tasks.follow(call, lambda answered: heard.append(answered.result())) is call
    call.set_result(7)
    await asyncio.sleep(0)
    assert heard == [7]
    assert len(asyncio.all_tasks()) == 1


async def test_what_a_call_raises_is_for_whoever_hears_the_answer() -> None:
    tasks, heard = Tasks(), []
    call: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    tasks.follow(call, lambda answered: heard.append(answered.exception()))
    call.set_exception(OSError("no answer"))
    await asyncio.sleep(0)
    assert str(heard[0]) == "no answer"
    assert not tasks.failed.done()


async def test_r10_an_error_of_whoever_hears_the_answer_fails_the_engine() -> None:
    tasks = Tasks()
    call: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    tasks.follow(call, fail)
    call.set_result(None)
    await asyncio.sleep(0)
    assert isinstance(tasks.failed.exception(), ZeroDivisionError)


async def test_r10_an_error_at_a_deadline_fails_the_engine() -> None:
    tasks = Tasks()
    tasks.later(0, fail)
    await asyncio.wait([tasks.failed])
    assert isinstance(tasks.failed.exception(), ZeroDivisionError)


async def test_r10_an_error_of_a_task_fails_the_engine() -> None:
    tasks = Tasks()

    async def work() -> None:
        fail()

    tasks.spawn(work(), name="work")
    await asyncio.wait([tasks.failed])
    assert isinstance(tasks.failed.exception(), ZeroDivisionError)


async def test_after_the_end_nothing_is_heard_and_nothing_is_late() -> None:
    tasks = Tasks()
    heard: list[object] = []
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[None] = loop.create_future()
    waiting: asyncio.Future[None] = loop.create_future()
    tasks.follow(answered, heard.append)
    tasks.follow(waiting, heard.append)
    tasks.later(0, lambda: heard.append(None))
    answered.set_exception(OSError("answered at the very moment of the end"))
    await tasks.cancel()
    begun_after: asyncio.Future[None] = loop.create_future()
    tasks.follow(begun_after, heard.append)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert heard == []
    assert waiting.cancelled()
    assert begun_after.cancelled()


async def test_a_slot_is_had_at_once_if_it_is_free_and_goes_to_who_waits_if_not() -> None:
    slots = Slots(1)
    assert slots.take()
    assert not slots.take()
    waiting = asyncio.ensure_future(slots.acquire())
    await asyncio.sleep(0)
    slots.give_back(None)
    assert not slots.take(), "somebody has waited for it"
    assert await waiting
    slots.give_back(None)
    assert slots.take()
