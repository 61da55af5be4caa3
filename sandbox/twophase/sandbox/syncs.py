"""Syncs that fail, and processes that die at one: what no Python code can bring about, by syscall injection (strace).

Lives here: the wrapper for a `Program`. Must not live here: what is tried with it.
"""

from __future__ import annotations

import shutil
import subprocess
from enum import Enum
from typing import Final

from twophase.sandbox.errors import SandboxError
from twophase.sandbox.processes import TWOPHASE

_SYNCS: Final = "fdatasync,fsync"
_SECONDS: Final = 20.0


class NoInjection(SandboxError):
    """Syscalls cannot be tampered with on this machine. The message says why."""


class AtSync(Enum):
    """What happens at a sync. The value is in strace's words (strace(1), "Tampering")."""

    FAILS = "error=EIO"  # and every later one, as on a disk that is broken
    DIES = "signal=SIGKILL"  # after the write, before the sync


def wrapper(what: AtSync, *, nth: int) -> tuple[str, ...]:
    """A command that runs a program of which the nth sync of any one thread goes wrong. Raises `NoInjection`."""
    strace = shutil.which("strace")
    if strace is None:
        raise NoInjection("strace is not installed, so no sync can be made to fail")
    last = "+" if what is AtSync.FAILS else ""
    # The tracer is the grandchild: signals for the program, and its exit code, are its own.
    command = (strace, "-D", "-f", "-qq", "-o", "/dev/null", f"--trace={_SYNCS}")
    try:
        tried = subprocess.run(  # noqa: S603 - our own arguments
            [*command, TWOPHASE[0], "-c", ""], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NoInjection(f"strace does not answer within {_SECONDS:g} s on this machine") from error
    if tried.returncode != 0:
        raise NoInjection(f"strace cannot trace here: {tried.stderr.strip() or tried.returncode}")
    return (*command, f"--inject={_SYNCS}:{what.value}:when={nth}{last}")
