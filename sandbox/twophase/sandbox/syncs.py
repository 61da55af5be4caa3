"""Syncs that fail, processes that die at one, and a record of them all: what no Python code can bring about (strace).

Lives here: the wrappers for a `Program`. Must not live here: what is tried with them, how a record is read.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Final

from twophase.sandbox.errors import SandboxError
from twophase.sandbox.processes import TWOPHASE

_SYNCS: Final = "fdatasync,fsync"
_SECONDS: Final = 20.0
_WHOLE: Final = 1 << 20  # bytes of each buffer that a record shows: all of them


class NoInjection(SandboxError):
    """Syscalls cannot be tampered with on this machine. The message says why."""


class AtSync(Enum):
    """What happens at a sync. The value is in strace's words (strace(1), "Tampering")."""

    FAILS = "error=EIO"  # and every later one, as on a disk that is broken
    DIES = "signal=SIGKILL"  # after the write, before the sync


def wrapper(what: AtSync, *, nth: int) -> tuple[str, ...]:
    """A command that runs a program of which the nth sync of any one thread goes wrong. Raises `NoInjection`."""
    last = "+" if what is AtSync.FAILS else ""
    tracer = strace("-qq", "-o", "/dev/null", f"--trace={_SYNCS}")
    return (*tracer, f"--inject={_SYNCS}:{what.value}:when={nth}{last}")


def recorder(file: Path, calls: Sequence[str], *, sync_seconds: float) -> tuple[str, ...]:
    """A command that runs a program and writes its syncs and these system calls of it to a file, with all their data.

    Every sync takes `sync_seconds` longer than it would: so there is time to do what ought to wait for it. The last
    line tells of the program's end. Raises `NoInjection`.
    """
    trace = ",".join((*calls, _SYNCS))
    tracer = strace("-q", "-y", "-s", str(_WHOLE), "-o", str(file), f"--trace={trace}")
    return (*tracer, f"--inject={_SYNCS}:delay_enter={round(sync_seconds * 1e6)}")


def strace(*options: str) -> tuple[str, ...]:
    """The tracer with these options, to stand before a program's command, once it is known to work here. Raises
    `NoInjection`."""
    found = shutil.which("strace")
    if found is None:
        raise NoInjection("strace is not installed, so no sync can be made to fail, nor seen")
    # The tracer is the grandchild: signals for the program, and its exit code, are its own.
    command = (found, "-D", "-f", *options)
    try:
        tried = subprocess.run(  # noqa: S603 - our own arguments
            [*command, TWOPHASE[0], "-c", ""], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NoInjection(f"strace does not answer within {_SECONDS:g} s on this machine") from error
    if tried.returncode != 0:
        raise NoInjection(f"strace cannot trace here: {tried.stderr.strip() or tried.returncode}")
    return command
