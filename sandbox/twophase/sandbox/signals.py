"""How a command of the sandbox runs and ends: in order, once, with a line and an exit code.

Lives here: signals, and what an early end is told as. Must not live here: what is stopped.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from twophase.sandbox.errors import SandboxError

T = TypeVar("T")

FAILED: Final = 3
"""The exit code of a command whose system could not be started or stopped."""
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


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a command ends early: one line, and its exit code."""

    message: str
    code: int


def run(work: Coroutine[Any, Any, T]) -> T | Failure:
    """Runs the work of a command. What the sandbox reports, and an interruption, come back as a `Failure`."""
    failures: list[Failure] = []
    try:
        return asyncio.run(work)
    except* SandboxError as errors:
        failures.append(Failure(str(_first_of(errors)), FAILED))
    except* (KeyboardInterrupt, asyncio.CancelledError):
        failures.append(Failure("interrupted; everything that was started is stopped and removed", INTERRUPTED))
    return failures[0]


def _first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
