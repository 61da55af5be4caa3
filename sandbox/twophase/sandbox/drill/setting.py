"""Where and with what a run took place: the machine, and the versions of everything that matters.

Lives here: reading them. Must not live here: what was found there.
"""

from __future__ import annotations

import os
import platform
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version

from twophase.sandbox.system import System


@dataclass(frozen=True, slots=True)
class Setting:
    """The machine, the versions by name, and when the run began (ISO 8601, UTC)."""

    started: str = ""
    machine: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def setting_of(system: System) -> Setting:
    """The setting of a run on this system, which is running."""
    with next(iter(system.clusters.values())).connect() as connection:
        number = connection.info.server_version
    here = setting_here()
    return replace(here, versions={**here.versions, "Postgres": f"{number // 10000}.{number % 10000}"})


def setting_here() -> Setting:
    """The setting of a run without a server."""
    return Setting(
        datetime.now(UTC).isoformat(timespec="seconds"),
        f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} processors",
        {
            "twophase": version("twophase"),
            "Python": platform.python_version(),
            "SQLite": sqlite3.sqlite_version,
            "grpcio": version("grpcio"),
            "psycopg": version("psycopg"),
        },
    )
