"""The seam between what a service declares (`operations`) and what runs it against Postgres (`resource`).

Lives here: the values and protocols both sides share. Must not live here: SQL, gRPC, declarations.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import psycopg

from twophase.participant.outcomes import Results
from twophase.v1 import types_pb2

SyncConnection: TypeAlias = psycopg.Connection[Any]
AsyncConnection: TypeAlias = psycopg.AsyncConnection[Any]

DEADLINE_CAP: Final = 60.0
"""The most seconds one branch may work, and what it gets where the request does not say."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """An instant of this process' monotonic clock, in seconds."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """The instant `seconds` from now."""
        return cls(time.monotonic() + seconds)

    def left(self) -> float:
        """Seconds from now until then; 0 if it has passed."""
        return max(0.0, self.at - time.monotonic())


class Work(Protocol):
    """The decoded operations of one branch, ready to run on a connection that is inside the branch's transaction.

    Exactly one of `run` and `run_async` is called, once, as `asynchronous` says. They return what the operations
    returned, in order, or raise: `Refused` (business), `PayloadError` (before any business code), or anything else.
    """

    @property
    def read_only(self) -> bool:
        """True if every operation is declared read-only (R12)."""
        ...

    @property
    def running(self) -> str:
        """The name of the operation at work, and of the one that failed once `run` has raised; else empty."""
        ...

    @property
    def asynchronous(self) -> bool:
        """True if the operations are coroutines that take an async connection."""
        ...

    def run(self, connection: SyncConnection) -> tuple[types_pb2.Payload, ...]:
        """Runs the operations in the calling thread."""
        ...

    async def run_async(self, connection: AsyncConnection) -> tuple[types_pb2.Payload, ...]:
        """Runs the operations in the running event loop."""
        ...


Undo: TypeAlias = Callable[[Results], Work]
"""What undoes a branch: from what its work returned to the work that does it. Never raises: what cannot be undone is
work that raises why."""
