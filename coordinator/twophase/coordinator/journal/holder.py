"""Which process has a journal, so that no other one is ever taken for it.

Lives here: the identity of a process, and ending exactly that one. Must not live here: the lock, and when to end it.

A process number alone is not enough: numbers are given out again, and mean something else in another container. What
tells a process for sure is its number with the moment the kernel started it, on this boot, in this process namespace.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_UNKNOWN: Final = "-"


class CannotEnd(Exception):
    """The process cannot be ended from here; nothing was done. The message is the reason, for a sentence."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process. `born` is when it started, in the kernel's words, `where` the boot and the process namespace in which
    both mean something; "-" where the system does not tell."""

    pid: int
    born: str = _UNKNOWN
    where: str = _UNKNOWN

    @classmethod
    def this_process(cls) -> Holder:
        """The process that asks."""
        return cls(os.getpid(), _born(os.getpid()), _here())

    def end(self) -> bool:
        """Ends this process, and no other, at once (SIGKILL); True if it was there. It may take the kernel a moment.

        Raises `CannotEnd`.
        """
        if self.pid == os.getpid():
            raise CannotEnd("it is this process")
        if _UNKNOWN in (self.born, self.where) or self.where != _here():
            raise CannotEnd("it is not a process of this machine and container, as far as can be told")
        try:
            # The handle comes first: what has the recorded start after that had the number before it, so it is behind
            # the handle, and what happens to the number from here on does not matter.
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        except (AttributeError, OSError) as error:
            raise CannotEnd("this system gives no safe handle to a process (Linux 5.3 or newer does)") from error
        try:
            born = _born(self.pid)
            if born == _UNKNOWN:
                raise CannotEnd("the system does not show when it was started")
            if born != self.born:
                return False
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        except ProcessLookupError:
            return False
        except PermissionError as error:
            raise CannotEnd("it belongs to another user") from error
        finally:
            os.close(handle)
        return True


def _born(pid: int) -> str:
    """Field 22 of /proc/PID/stat (proc(5)): clock ticks since the boot. The name before it may hold anything."""
    try:
        return (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[19].decode("ascii")
    except OSError:
        return _UNKNOWN


def _here() -> str:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{(_PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return _UNKNOWN
