"""The contenders of `twophase bench transfer`, and where each finds what it needs.

Lives here: their names, and what must be installed for them. Must not live here: what they do (a module each); nothing
here imports one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Final, Self


class Contender(StrEnum):
    """Who does the same transfers. The value is the name on the command line and in the JSON."""

    LOOP = "loop"
    SQLALCHEMY = "sqlalchemy"
    TWO_PHASE = "two-phase"
    SAGA = "saga"
    DBOS_SQLITE = "dbos-sqlite"
    DBOS_POSTGRES = "dbos-postgres"


ABOUT: Final[Mapping[Contender, str]] = {
    Contender.LOOP: "hand-written psycopg tpc_* loop, no log",
    Contender.SQLALCHEMY: "SQLAlchemy Session(twophase=True), no log",
    Contender.TWO_PHASE: "twophase, two-phase commit",
    Contender.SAGA: "twophase, saga",
    Contender.DBOS_SQLITE: "DBOS workflow of two steps, SQLite",
    Contender.DBOS_POSTGRES: "DBOS workflow of two steps, Postgres",
}
OURS: Final = frozenset({Contender.TWO_PHASE, Contender.SAGA})
_MODULES: Final[Mapping[Contender, str]] = {
    Contender.SQLALCHEMY: "sqlalchemy",
    Contender.DBOS_SQLITE: "dbos",
    Contender.DBOS_POSTGRES: "dbos",
}


def missing(contender: Contender) -> str | None:
    """The package that a contender needs and that is not installed."""
    module = _MODULES.get(contender)
    return module if module is not None and find_spec(module) is None else None


@dataclass(frozen=True, slots=True)
class Places:
    """Where a contender's process finds what it works with: connection URIs, and the coordinator's `host:port`.

    `state` is DBOS' system database as an URL. They have passwords in them, so they travel in the environment.
    """

    left: str
    right: str
    coordinator: str = ""
    state: str = ""

    def to_environment(self) -> dict[str, str]:
        """For `from_environment`."""
        return {
            "TWOPHASE_BENCH_LEFT": self.left,
            "TWOPHASE_BENCH_RIGHT": self.right,
            "TWOPHASE_BENCH_COORDINATOR": self.coordinator,
            "TWOPHASE_BENCH_STATE": self.state,
        }

    @classmethod
    def from_environment(cls) -> Self:
        """What this process was given. Raises `KeyError` if that is nothing."""
        names = ("LEFT", "RIGHT", "COORDINATOR", "STATE")
        return cls(*(os.environ[f"TWOPHASE_BENCH_{name}"] for name in names))


def versions() -> dict[str, str]:
    """Of the contenders that are not ours, by package; those that are installed."""
    found = {}
    for package in ("sqlalchemy", "dbos"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
