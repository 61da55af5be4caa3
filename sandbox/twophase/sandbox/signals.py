"""How a command of the sandbox ends when it is told to: in order, once.

Lives here: signals, and the error inside a group. Must not live here: what is stopped.
"""

from __future__ import annotations

import asyncio
import signal
from typing import Final

INTERRUPTED: Final = 130
"""The exit code of a command that was interrupted."""


def end_on_signals() -> None:
    """SIGTERM and a closed terminal end the task as Ctrl-C does; while it stops, further signals change nothing."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine runs in a task
    asked = False

    def stop() -> None:
        nonlocal asked
        if not asked:
            asked = True
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop)


def first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error in a group of groups."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
