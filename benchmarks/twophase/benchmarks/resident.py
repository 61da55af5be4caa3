"""How much of a process is in memory, from /proc. Where there is no /proc, nothing is told.

Lives here: reading it. Must not live here: which processes there are.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_LINE: Final = re.compile(r"^(VmRSS|VmHWM):\s+(\d+) kB$", re.MULTILINE)
_KILOBYTE: Final = 1024
_MEGABYTE: Final = 1e6


def is_known() -> bool:
    """True if this machine tells."""
    return (_PROC / "self" / "status").exists()


def now_mb(pid: int) -> float:
    """What is in memory now, in megabytes of 10^6 bytes. Raises `OSError` if the process is gone."""
    return _megabytes(pid)["VmRSS"]


def peak_mb(pid: int) -> float:
    """The most there ever was. Raises `OSError` if the process is gone."""
    return _megabytes(pid)["VmHWM"]


def _megabytes(pid: int) -> dict[str, float]:
    text = (_PROC / str(pid) / "status").read_text(encoding="utf-8", errors="replace")
    return {name: int(kilobytes) * _KILOBYTE / _MEGABYTE for name, kilobytes in _LINE.findall(text)}
