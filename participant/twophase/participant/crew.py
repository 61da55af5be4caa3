"""Threads for what blocks, and the way back to the event loop.

Lives here: which thread takes what, and how answers are told in the event loop, many at a time. Must not live here:
what the threads do, connections (`lanes`).
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar

_J = TypeVar("_J")
_J_contra = TypeVar("_J_contra", contravariant=True)
_T = TypeVar("_T")

# In seconds: how long a thread that has nothing to do keeps what it holds.
_REST: Final = 1.0


class Worker(Protocol[_J_contra]):
    """What one thread does. It may keep something from one job to the next."""

    def perform(self, job: _J_contra) -> None:
        """Does a job. Never raises."""
        ...

    def rest(self) -> None:
        """Gives back what it kept: nothing came for a while, or nothing will come any more."""
        ...


class Crew(Generic[_J]):
    """At most `size` threads, started when they are wanted.

    Who became idle last is called first: its connection is warm, on both sides. Jobs that find nobody idle wait in the
    order in which they came.
    """

    def __init__(self, hire: Callable[[], Worker[_J]], *, size: int, name: str) -> None:
        self._hire = hire
        self._size = size
        self._name = name
        self._lock = threading.Lock()
        self._waiting: deque[_J] = deque()
        self._idle: list[queue.SimpleQueue[_J | None]] = []
        self._threads: list[threading.Thread] = []
        self._closed = False

    def submit(self, job: _J) -> None:
        """Has the job done. Never blocks."""
        with self._lock:
            if self._idle:
                self._idle.pop().put(job)
                return
            if len(self._threads) >= self._size:
                self._waiting.append(job)
                return
            # A daemon: whoever forgets to close can still end the process.
            name = f"{self._name}-{len(self._threads)}"
            thread = threading.Thread(target=self._work, args=(job,), name=name, daemon=True)
            self._threads.append(thread)
        thread.start()

    def withdraw(self, job: _J) -> bool:
        """True if the job was not begun, and never will be."""
        with self._lock:
            try:
                self._waiting.remove(job)
            except ValueError:
                return False
            return True

    def close(self) -> None:
        """Waits until everything submitted is done. Blocks."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for inbox in idle:
            inbox.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self, first: _J) -> None:
        worker = self._hire()
        inbox: queue.SimpleQueue[_J | None] = queue.SimpleQueue()
        job: _J | None = first
        while job is not None:
            worker.perform(job)
            job = self._next(inbox, worker)
        worker.rest()

    def _next(self, inbox: queue.SimpleQueue[_J | None], worker: Worker[_J]) -> _J | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            if self._closed:
                return None
            self._idle.append(inbox)
        try:
            return inbox.get(timeout=_REST)
        except queue.Empty:
            worker.rest()
            return inbox.get()


class Outbox:
    """Answers from threads to futures of the event loop: it is woken once for all that are ready."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._ready: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []

    def put(self, future: asyncio.Future[_T], value: _T | None, error: BaseException | None) -> None:
        """Answers `future` with the error if there is one, else with the value. From any thread."""
        with self._lock:
            self._ready.append((future, value, error))
            first = len(self._ready) == 1
        if first:
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            ready, self._ready = self._ready, []
        for future, value, error in ready:
            if future.done():  # nobody waits for it any more
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(value)
