"""Who runs Postgres: this user, or, if this user is root, an unprivileged one (Postgres refuses to run as root).

Lives here: choosing the account, and what follows from it for directories. Must not live here: Postgres.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, TypedDict

from twophase.sandbox.errors import PostgresMissing

_UNPRIVILEGED: Final = ("nobody", "postgres", "daemon")


class Switch(TypedDict, total=False):
    """The arguments of `subprocess.Popen` that change the user."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine. `is_other` says that it is not the one we are."""

    name: str
    uid: int
    gid: int
    is_other: bool

    @classmethod
    def for_postgres(cls) -> Self:
        """The account that Postgres can run as. Raises `PostgresMissing` if we are root and there is no other."""
        if os.geteuid() != 0:
            return cls(name=str(os.geteuid()), uid=os.geteuid(), gid=os.getegid(), is_other=False)
        for name in _UNPRIVILEGED:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(name=name, uid=entry.pw_uid, gid=entry.pw_gid, is_other=True)
        raise PostgresMissing(
            "Postgres refuses to run as root, and this machine has no user named "
            + " or ".join(_UNPRIVILEGED)
            + ". Add one (useradd --system nobody) or run this as an ordinary user."
        )

    def switch(self) -> Switch:
        """What `subprocess.Popen` has to be given to run as this account."""
        if not self.is_other:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> None:
        """Gives one file or directory to this account."""
        if self.is_other:
            os.chown(path, self.uid, self.gid)

    def can_reach(self, directory: Path) -> bool:
        """True if this account can enter the directory; asked of the system, not worked out from mode bits."""
        # Not `cwd=directory`: that is entered before the user is changed.
        enter = ["/bin/sh", "-c", 'cd "$1" 2>/dev/null', "sh", str(directory)]
        return subprocess.run(enter, cwd="/", check=False, **self.switch()).returncode == 0  # noqa: S603

    def temporary_base(self) -> Path:
        """A directory for temporary files that this account can enter. Raises `PostgresMissing` if there is none."""
        candidates = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]  # noqa: S108
        for candidate in candidates:
            if self.can_reach(candidate):
                return candidate
        raise PostgresMissing(
            f"the user {self.name}, whom Postgres runs as, cannot enter {candidates[0]} (TMPDIR) or /tmp."
            " Set TMPDIR to a directory that everyone can enter."
        )
