"""What holds for one branch while it is worked on: its name, its limits, and whether it was told to stop.

Lives here: the values that `resource` gives out and every step reads. Must not live here: the steps (`branch`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from twophase.contract.crashpoints import CrashPoint
from twophase.contract.names import Gid
from twophase.participant import ledger
from twophase.participant.work import Deadline
from twophase.v1 import types_pb2


class Halt:
    """Whether a branch was told to stop. Set from any thread; read before the point of no return."""

    __slots__ = ("requested",)

    def __init__(self) -> None:
        self.requested = False


@dataclass(frozen=True, slots=True)
class Branch:
    """One branch and its terms. `lock_timeout` in seconds; `begin` is the BEGIN with its isolation level; `running`
    tells which operation is at work, or failed; with `must_succeed` no refusal is kept."""

    gid: Gid
    kind: types_pb2.BranchKind.ValueType
    deadline: Deadline
    position: int
    fingerprint: bytes
    lock_timeout: float
    read_only: bool = False
    must_succeed: bool = False
    begin: str = "BEGIN"
    halt: Halt = field(default_factory=Halt)
    running: Callable[[], str] = str

    def __str__(self) -> str:
        return f"{'compensation of ' if self.kind == types_pb2.BRANCH_KIND_COMPENSATION else ''}branch {self.gid}"

    def key(self) -> dict[str, Any]:
        """The parameters of statements about the branch's row."""
        return ledger.key_of(self.gid, self.kind)

    def point(self, work: CrashPoint, compensation: CrashPoint) -> CrashPoint:
        """Where the branch is, by its kind."""
        return compensation if self.kind == types_pb2.BRANCH_KIND_COMPENSATION else work
