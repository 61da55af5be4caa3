"""What participants did, in the order in which they did it, and the keys of their ledgers.

Lives here: the names. Must not live here: who does it (`sites`, `steps`), what must hold of it (`check_sagas`).

A ledger has one row for each branch and kind. Here a key is one string: the GID, for a compensation with a word behind.
"""

from __future__ import annotations

from dataclasses import dataclass

from twophase.contract.names import Gid
from twophase.v1 import types_pb2 as types

_UNDONE = " compensation"


def key_of(gid: str, kind: types.BranchKind.ValueType) -> str:
    """The key of a branch's row of this kind."""
    return gid + _UNDONE if kind == types.BRANCH_KIND_COMPENSATION else gid


def gid_of(key: str) -> str:
    """The branch of a key."""
    return key.removesuffix(_UNDONE)


def kind_of(key: str) -> types.BranchKind.ValueType:
    """The kind of a key."""
    return types.BRANCH_KIND_COMPENSATION if key.endswith(_UNDONE) else types.BRANCH_KIND_WORK


@dataclass(frozen=True, slots=True)
class Deed:
    """A row that a participant committed in a transaction of its own, `at` so many seconds after the start."""

    at: float
    bank: str
    key: str
    outcome: str

    @property
    def gid(self) -> Gid:
        """The branch."""
        return Gid.parse(gid_of(self.key))

    @property
    def undoes(self) -> bool:
        """Whether it is a compensation."""
        return kind_of(self.key) == types.BRANCH_KIND_COMPENSATION


def short(key: str) -> str:
    """Which transaction and branch, for people: epoch.sequence/branch."""
    _, _, epoch, _, sequence, branch = gid_of(key).split("-")
    undone = " (compensation)" if kind_of(key) == types.BRANCH_KIND_COMPENSATION else ""
    return f"{int(epoch, 16)}.{int(sequence, 16)}/{int(branch, 16)}{undone}"
