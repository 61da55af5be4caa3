"""Closed loops: so many clients, each with its next transfer as soon as the last one is done.

Lives here: the loop in threads and the loop in asyncio tasks, which keep the same time. Must not live here: how a
transfer is made.

The clients never pause between warming up and being measured, so at both limits of the time that counts about as many
transfers are under way: what is done in between is the throughput, with no start and no end in it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from typing import Final, TypeAlias

from twophase.benchmarks.workload import Order, Tally, Transfer, transfers

Tell: TypeAlias = Callable[[str], None]
"""Is told `begin` and `end` of the time that counts, at those moments."""
Move: TypeAlias = Callable[[Transfer], str]
"""Makes one transfer; returns the coordinator's name of it, or nothing. Raises `NotDone`."""
Client: TypeAlias = Callable[[], AbstractContextManager[Move]]
"""Connects one client, in its own thread."""
AsyncMove: TypeAlias = Callable[[Transfer], Awaitable[str]]

_CONNECT_SECONDS: Final = 60.0


class NotDone(Exception):
    """The transfer was refused: nothing of it happened, or nothing of it is left."""


def run_threads(client: Client, order: Order, tell: Tell) -> Tally:
    """A round in threads. Raises what the first client that fails raises."""
    stop = threading.Event()
    connected = threading.Barrier(order.clients + 1)
    tallies = [Tally() for _ in range(order.clients)]

    def work(number: int) -> None:
        try:
            _work(client, order, number, tallies[number], connected, stop)
        except BaseException:
            connected.abort()
            stop.set()
            raise

    whole = Tally()
    with ThreadPoolExecutor(order.clients, thread_name_prefix="client") as pool:
        running = [pool.submit(work, number) for number in range(order.clients)]
        try:
            connected.wait(_CONNECT_SECONDS)
            stop.wait(order.warm_up)
            whole.begin = time.perf_counter()
            tell("begin")
            stop.wait(order.seconds)
            whole.end = time.perf_counter()
            tell("end")
        except threading.BrokenBarrierError:
            pass  # the client that failed says why
        finally:
            stop.set()
        failed = [done for done in wait(running, return_when=FIRST_EXCEPTION).done if done.exception() is not None]
        # Those that only waited for it fail by the broken barrier.
        failed.sort(key=lambda done: isinstance(done.exception(), threading.BrokenBarrierError))
        for done in failed or running:
            done.result()
    for tally in tallies:
        whole.add(tally)
    return whole


def _work(
    client: Client, order: Order, number: int, tally: Tally, connected: threading.Barrier, stop: threading.Event
) -> None:
    with client() as move:
        connected.wait(_CONNECT_SECONDS)
        for transfer in transfers(order.seed, number, order.accounts):
            began = time.perf_counter()
            try:
                txid = move(transfer)
            except NotDone:
                tally.refused += 1
            else:
                tally.done(transfer, txid, began=began, now=time.perf_counter())
            if stop.is_set():
                return


async def run_tasks(move: AsyncMove, order: Order, tell: Tell) -> Tally:
    """A round in the tasks of this event loop. Raises what the first client that fails raises, in a group."""
    stop = asyncio.Event()
    tally = Tally()

    async def work(number: int) -> None:
        for transfer in transfers(order.seed, number, order.accounts):
            began = time.perf_counter()
            try:
                txid = await move(transfer)
            except NotDone:
                tally.refused += 1
            else:
                tally.done(transfer, txid, began=began, now=time.perf_counter())
            if stop.is_set():
                return

    async with asyncio.TaskGroup() as clients:
        for number in range(order.clients):
            clients.create_task(work(number))
        await asyncio.sleep(order.warm_up)
        tally.begin = time.perf_counter()
        tell("begin")
        await asyncio.sleep(order.seconds)
        tally.end = time.perf_counter()
        tell("end")
        stop.set()
    return tally
