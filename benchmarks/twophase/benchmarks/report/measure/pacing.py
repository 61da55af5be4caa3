"""Loads under way: closed loops and open ones, in threads and in asyncio tasks, which keep the same time.

Lives here: when what is sent. Must not live here: how a deed is done (`contenders`).

An open loop has its times fixed before it begins. Nothing that is answered late, or never, moves them, and a latency
counts from the time at which the deed was due: a client that had to wait for its turn has waited (no coordinated
omission). Threads have as many connections as clients, and what is due waits in line for one of them, as in a pool.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from typing import Final, TypeAlias

from twophase.benchmarks.report.measure.business import Deed, name_of
from twophase.benchmarks.report.measure.task import Answer, Log, Task, Tell, Told

Do: TypeAlias = Callable[[Deed], Told]
Client: TypeAlias = Callable[[], AbstractContextManager[Do]]
"""Connects one client, in its own thread."""
AsyncDo: TypeAlias = Callable[[Deed], Awaitable[Told]]

_CONNECT_SECONDS: Final = 60.0


def run_threads(client: Client, task: Task, tell: Tell) -> Log:
    """A load in threads. Raises what the first client that fails raises."""
    return _Threads(client, task, tell).run()


class _Threads:
    def __init__(self, client: Client, task: Task, tell: Tell) -> None:
        self._client = client
        self._task = task
        self._tell = tell
        self._stop = threading.Event()
        self._connected = threading.Barrier(task.clients + 1)
        self._begun = threading.Event()
        self._zero = 0.0
        self._planned = task.planned() if task.rate else iter(())
        self._taking = threading.Lock()
        self._answers: list[list[Answer]] = [[] for _ in range(task.clients)]

    def run(self) -> Log:
        task, log = self._task, Log()
        with ThreadPoolExecutor(task.clients, thread_name_prefix="client") as pool:
            running = [pool.submit(self._work, number) for number in range(task.clients)]
            try:
                self._connected.wait(_CONNECT_SECONDS)
                self._zero = time.perf_counter() + task.warm_up
                self._begun.set()
                self._stop.wait(task.warm_up)
                log.begin = time.time() + self._zero - time.perf_counter()
                self._tell("begin")
                self._stop.wait(self._zero + task.seconds - time.perf_counter())
                log.seconds = time.perf_counter() - self._zero
                self._tell("end")
            except threading.BrokenBarrierError:
                pass  # the client that failed says why
            finally:
                self._begun.set()
                if not task.rate:
                    self._stop.set()
            failed = [done for done in wait(running, return_when=FIRST_EXCEPTION).done if done.exception() is not None]
            self._stop.set()
            # Those that only waited for it fail by the broken barrier.
            failed.sort(key=lambda done: isinstance(done.exception(), threading.BrokenBarrierError))
            for done in failed or running:
                done.result()
        log.answers = [answer for answers in self._answers for answer in answers]
        return log

    def _work(self, number: int) -> None:
        try:
            with self._client() as do:
                self._connected.wait(_CONNECT_SECONDS)
                self._begun.wait()
                for at, deed in self._due() if self._task.rate else self._own(number):
                    self._answers[number].append(self._answered(do, at, deed))
        except BaseException:
            self._connected.abort()
            self._stop.set()
            raise

    def _answered(self, do: Do, at: float, deed: Deed) -> Answer:
        told = do(deed)
        return Answer(name_of(deed), at, time.perf_counter() - self._zero - at, told)

    def _own(self, number: int) -> Iterator[tuple[float, Deed]]:
        for deed in self._task.of_client(number):
            yield time.perf_counter() - self._zero, deed
            if self._stop.is_set():
                return

    def _due(self) -> Iterator[tuple[float, Deed]]:
        while not self._stop.is_set():
            with self._taking:
                found = next(self._planned, None)
            if found is None:
                return
            time.sleep(max(0.0, self._zero + found[0] - time.perf_counter()))
            yield found


async def run_tasks(do: AsyncDo, task: Task, tell: Tell) -> Log:
    """A load in the tasks of this event loop. Raises what the first client that fails raises, in a group."""
    return await (_open(do, task, tell) if task.rate else _closed(do, task, tell))


async def _closed(do: AsyncDo, task: Task, tell: Tell) -> Log:
    stop = asyncio.Event()
    zero = time.perf_counter() + task.warm_up
    log = Log(time.time() + task.warm_up)

    async def work(number: int) -> None:
        for deed in task.of_client(number):
            at = time.perf_counter() - zero
            told = await do(deed)
            log.answers.append(Answer(name_of(deed), at, time.perf_counter() - zero - at, told))
            if stop.is_set():
                return

    async with asyncio.TaskGroup() as clients:
        for number in range(task.clients):
            clients.create_task(work(number))
        await asyncio.sleep(task.warm_up)
        tell("begin")
        await asyncio.sleep(max(0.0, zero + task.seconds - time.perf_counter()))
        log.seconds = time.perf_counter() - zero
        tell("end")
        stop.set()
    return log


async def _open(do: AsyncDo, task: Task, tell: Tell) -> Log:
    zero = time.perf_counter() + task.warm_up
    log = Log(time.time() + task.warm_up, task.seconds)
    waiting: dict[asyncio.Task[None], tuple[str, float]] = {}
    failed: list[BaseException] = []

    async def send(at: float, deed: Deed) -> None:
        told = await do(deed)
        log.answers.append(Answer(name_of(deed), at, time.perf_counter() - zero - at, told))

    def ended(sent: asyncio.Task[None]) -> None:
        waiting.pop(sent, None)
        if not sent.cancelled() and (error := sent.exception()) is not None:
            failed.append(error)

    def moments() -> Iterator[tuple[float, Callable[[], None]]]:
        yield 0.0, lambda: tell("begin")
        yield task.seconds, lambda: tell("end")

    timers = [asyncio.get_running_loop().call_later(task.warm_up + at, call) for at, call in moments()]
    for at, deed in task.planned():
        await asyncio.sleep(max(0.0, zero + at - time.perf_counter()))
        sent = asyncio.create_task(send(at, deed))
        waiting[sent] = name_of(deed), at
        sent.add_done_callback(ended)
        if failed:
            break
    await asyncio.sleep(max(0.0, zero + task.seconds - time.perf_counter()))
    if waiting and not failed:
        await asyncio.wait(tuple(waiting), timeout=task.timeout)
    for timer in timers:
        timer.cancel()
    left = dict(waiting)
    for sent in left:
        sent.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    if failed:
        raise failed[0]
    # Their connection is not asked what became of them: whoever waited so long has gone.
    log.answers += [
        Answer(name, at, max(task.timeout, time.perf_counter() - zero - at), Told.UNKNOWN) for name, at in left.values()
    ]
    return log
