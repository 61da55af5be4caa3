"""Participants without a database: the real participant's server and wire, over branches that nobody keeps.

Lives here: what answers in the place of a database, and the process that serves it. Must not live here: anything that
is measured. It is for measuring the coordinator alone: a database would be most of the time, and thirty-two of them the
whole machine. Nothing is stored, so what is committed here is gone.

Run as `python -m twophase.benchmarks.without_database HOST:PORT NAME=MILLISECONDS ...`: every participant answers the
messages of a transaction so many milliseconds after they arrive, those to different branches side by side. The ready
line tells where each listens.
"""

# ruff: noqa: ARG002 - a database would look at what it is given

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Final

import psycopg

from twophase.contract.names import Epoch, Gid, Txid
from twophase.participant import Participant
from twophase.participant.outcomes import (
    Aborted,
    Applied,
    Committed,
    Identity,
    Inspection,
    Prepared,
    PreparedBranches,
    Remembered,
)
from twophase.participant.resource import ResourceManager
from twophase.participant.server import ParticipantServer, ServerSettings
from twophase.participant.work import Deadline, Undo, Work
from twophase.sandbox.ports import LOOPBACK
from twophase.v1 import types_pb2

OPERATION: Final = "write"
"""What every participant offers, with a whole number as its payload."""
_ADDRESS: Final = re.compile(r"([\w-]+)=(\S+:\d+)")


class NoDatabase(ResourceManager):
    """Votes yes, applies and commits, each `delay` seconds after it was asked, and remembers nothing."""

    def __init__(self, participant: str, delay: float) -> None:
        super().__init__(participant, "")
        self._delay = delay

    async def open(self) -> None:
        """There is nothing to connect to."""

    @property
    def identity(self) -> Identity:
        """A database of its own for each participant: two would not be taken under one name."""
        return Identity(system_identifier="1", timeline=1, database=self._participant)

    async def prepare(self, gid: Gid, work: Work, *, deadline: Deadline, position: int, fingerprint: bytes) -> Prepared:
        """Yes."""
        await self._pause()
        return Prepared((types_pb2.Payload(),))

    async def apply(
        self, gid: Gid, work: Work, *, deadline: Deadline, position: int, fingerprint: bytes, must_succeed: bool = False
    ) -> Applied:
        """Done."""
        await self._pause()
        return Applied((types_pb2.Payload(),))

    async def compensate(
        self, gid: Gid, undo: Undo, *, deadline: Deadline, position: int, fingerprint: bytes
    ) -> Applied:
        """Undone."""
        await self._pause()
        return Applied(())

    async def commit(self, gid: Gid) -> Committed:
        """Done."""
        await self._pause()
        return Committed()

    async def abort(
        self, gid: Gid, kind: types_pb2.BranchKind.ValueType, decision: types_pb2.Decision.ValueType
    ) -> Aborted:
        """Rolled back."""
        await self._pause()
        return Aborted()

    async def list_prepared(self, journal_id: str) -> PreparedBranches:
        """None."""
        return PreparedBranches(())

    async def inspect(self, journal_id: str, txid: Txid) -> Inspection:
        """Nothing."""
        return Inspection((), ())

    async def inspect_all(self, journal_id: str, txids: frozenset[Txid]) -> Inspection:
        """Nothing."""
        return Inspection((), ())

    async def remember(self, journal_id: str, epoch: Epoch, horizons: Mapping[Epoch, int]) -> Remembered:
        """Nothing of before."""
        return Remembered(None, 0)

    async def recall(self, journal_id: str) -> Remembered:
        """Nothing of before."""
        return Remembered(None, 0)

    async def _pause(self) -> None:
        if self._delay:
            await asyncio.sleep(self._delay)


def participant_named(name: str) -> Participant:
    """A participant with one operation, which is never run."""
    participant = Participant(name)

    @participant.operation(name=OPERATION)
    def write(connection: psycopg.Connection, value: int) -> None:  # noqa: ARG001 - as an operation has them
        raise AssertionError("there is no database to write to, so no operation is ever run")

    @participant.compensation(write)
    def erase(connection: psycopg.Connection, value: int) -> None:  # noqa: ARG001 - as an operation has them
        raise AssertionError("there is no database to write to, so no operation is ever run")

    return participant


def server_of(name: str, delay: float, *, listen: str = f"{LOOPBACK}:0") -> ParticipantServer:
    """A participant whose answers take `delay` seconds; not started."""
    return ParticipantServer(
        participant_named(name), settings=ServerSettings(listen=listen), resources=NoDatabase(name, delay)
    )


def arguments(listen: str, delays: Mapping[str, float]) -> list[str]:
    """The command line for participants by name with their delays, in seconds. The first listens at `listen`."""
    return [listen, *(f"{name}={1000 * delay:g}" for name, delay in delays.items())]


def addresses_in(output: str) -> dict[str, str]:
    """Where each participant listens, from what the process has written."""
    return dict(_ADDRESS.findall(output))


async def serve(listen: str, delays: Mapping[str, float]) -> None:
    """Serves until it is cancelled."""
    async with AsyncExitStack() as stack:
        at: dict[str, str] = {}
        for name, delay in delays.items():
            server = server_of(name, delay, listen=f"{LOOPBACK}:0" if at else listen)
            await stack.enter_async_context(server)
            at[name] = server.address
        first, *_ = at.values()
        where = " ".join(f"{name}={address}" for name, address in at.items())
        sys.stdout.write(f"twophase benchmark 'participants' is ready on {first} ({where})\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main(given: Sequence[str] | None = None) -> None:
    """The process. SIGTERM ends it at once: it holds nothing that would be lost."""
    listen, *named = sys.argv[1:] if given is None else given
    delays = {name: float(milliseconds) / 1000 for name, _, milliseconds in (each.partition("=") for each in named)}
    asyncio.run(serve(listen, delays))


if __name__ == "__main__":
    main()
