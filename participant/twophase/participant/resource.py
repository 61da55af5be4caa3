"""The participant's resource manager: branches over Postgres, as coroutines.

Lives here: what `service` calls: connections and threads, duplicates, deadlines. Must not live here: SQL (`ledger`), the
steps of a branch (`branch`) or of its end (`finish`), gRPC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from twophase.contract.names import Epoch, Gid, Txid
from twophase.participant.outcomes import (
    Aborted,
    Applied,
    Committed,
    Identity,
    Inspection,
    Lost,
    No,
    Prepared,
    PreparedBranches,
    ReadOnly,
    RefusedForGood,
    Remembered,
    Retry,
    Tombstoned,
)
from twophase.participant.work import Deadline, Work
from twophase.v1 import types_pb2


@dataclass(frozen=True, slots=True)
class Settings:
    """How much of the database a participant may use. Durations in seconds.

    `work_connections` run business code; `finish_connections` are kept apart for commit, abort and reading, so that work
    that waits for a row never starves the commit that would release it (R13). `lock_timeout` is the longest wait for one
    lock; each branch takes between half of it and all of it, so that the sides of a deadlock across databases, which no
    database sees, do not give up together.
    """

    work_connections: int = 8
    finish_connections: int = 4
    lock_timeout: float = 2.0


class ResourceManager:
    """Runs, prepares and finishes branches in one database."""

    def __init__(self, participant: str, dsn: str, *, settings: Settings | None = None) -> None:
        raise NotImplementedError

    async def open(self) -> None:
        """Checks the database and connects. Raises `NotReady`."""
        raise NotImplementedError

    async def close(self) -> None:
        """Waits for running branches, then disconnects."""
        raise NotImplementedError

    @property
    def identity(self) -> Identity:
        """The database, as the latest session read it."""
        raise NotImplementedError

    async def prepare(
        self, gid: Gid, work: Work, *, deadline: Deadline, position: int, fingerprint: bytes
    ) -> Prepared | ReadOnly | No:
        """Does the work and prepares it. Raises `OutcomeUnknown`."""
        raise NotImplementedError

    async def apply(
        self,
        gid: Gid,
        kind: types_pb2.BranchKind.ValueType,
        work: Work,
        *,
        deadline: Deadline,
        position: int,
        fingerprint: bytes,
    ) -> Applied | RefusedForGood | Retry | Tombstoned:
        """Does the work and commits it locally. Raises `OutcomeUnknown`."""
        raise NotImplementedError

    async def commit(self, gid: Gid) -> Committed | Lost:
        """Commits a prepared branch. Raises `OutcomeUnknown`, `CannotFinish`, `Forgotten`."""
        raise NotImplementedError

    async def abort(
        self, gid: Gid, kind: types_pb2.BranchKind.ValueType, decision: types_pb2.Decision.ValueType
    ) -> Aborted | Tombstoned | RefusedForGood | Applied:
        """Makes sure that a branch is not applied, or says that it was. Raises `StillRunning`, `OutcomeUnknown`,
        `CannotFinish`, `Forgotten`."""
        raise NotImplementedError

    async def list_prepared(self, journal_id: str) -> PreparedBranches:
        """The prepared branches of one journal. Raises `OutcomeUnknown`."""
        raise NotImplementedError

    async def inspect(self, journal_id: str, txid: Txid) -> Inspection:
        """The ledger rows and prepared branches of one transaction. Raises `OutcomeUnknown`."""
        raise NotImplementedError

    async def remember(self, journal_id: str, epoch: Epoch, horizons: Mapping[Epoch, int]) -> Remembered:
        """Keeps a journal's epoch and horizons durably, prunes below them. Raises `OutcomeUnknown`."""
        raise NotImplementedError
