"""A disk of a few MiB that can be filled to the last byte, for one journal.

Lives here: `SmallDisk`. Must not live here: what is tried on it.

It is a tmpfs in a mount namespace of its own, which a process keeps open: nothing of the machine's own mounts changes,
and when that process ends, however it ends, the disk is gone. Without root it takes a user namespace, which some
machines forbid.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

from twophase.sandbox.errors import SandboxError
from twophase.sandbox.guardian import Guardian
from twophase.sandbox.logs import tail_of

_MOUNT: Final = 'mount -t tmpfs -o "size=$1,mode=700" twophase "$2" && echo mounted && exec sleep infinity'
_SECONDS: Final = 10.0
_POLL: Final = 0.01
_MIB: Final = 1 << 20


class NoSmallDisk(SandboxError):
    """This machine does not let us mount one. The message says why."""


class SmallDisk:
    """A mounted disk. `wrapper` runs a program that sees the disk at `directory`; `outside` is where we see it."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path, user: tuple[str, ...]) -> None:
        """For `mount` only."""
        self._process = process
        self.directory: Final = directory
        self.wrapper: Final = ("nsenter", f"--target={process.pid}", "--mount", *user, "--")
        self.outside: Final = Path(f"/proc/{process.pid}/root") / directory.relative_to("/")

    @classmethod
    def mount(cls, guardian: Guardian, *, mib: int) -> SmallDisk:
        """Mounts a disk of so many MiB; takes a moment. Raises `NoSmallDisk`."""
        for tool in ("unshare", "nsenter", "mount"):
            if shutil.which(tool) is None:
                raise NoSmallDisk(f"{tool} is not installed, so no small disk can be mounted")
        own_user = ("--user", "--map-root-user")
        directory = guardian.directory()
        why = ""
        for how, enter in (((), ()), (own_user, ("--user", "--preserve-credentials"))):
            if not how and os.geteuid() != 0:
                continue
            log = directory / f"mount{len(how)}.log"
            disk = directory / "disk"
            disk.mkdir(exist_ok=True)
            process = guardian.start(
                ["unshare", "--mount", *how, "sh", "-c", _MOUNT, "sh", f"{mib}m", disk], log=log, cwd=directory
            )
            if _says_mounted(process, log):
                return cls(process, disk, enter)
            guardian.forget(process)
            why = tail_of(log)
        raise NoSmallDisk(f"this machine lets this user mount no small disk. {why}")

    def fill(self) -> None:
        """Leaves not a byte."""
        descriptor = os.open(self.outside / "filler", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            while (free := self.free()) > 0:
                try:
                    os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, free)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise  # else the journal took some of it meanwhile
        finally:
            os.close(descriptor)

    def empty(self) -> None:
        """Takes back what `fill` did."""
        (self.outside / "filler").unlink()

    def free(self) -> int:
        """How many bytes may still be written."""
        disk = os.statvfs(self.outside)
        return disk.f_bavail * disk.f_frsize

    def unmount(self, guardian: Guardian) -> None:
        """Takes it away with everything on it. What runs in it must have ended."""
        self._process.kill()
        self._process.wait()
        guardian.forget(self._process)


def _says_mounted(process: subprocess.Popen[bytes], log: Path) -> bool:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end and process.poll() is None:
        if "mounted" in log.read_text(encoding="utf-8", errors="replace").split():
            return True
        time.sleep(_POLL)
    process.kill()
    process.wait()
    return False
