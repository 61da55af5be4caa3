"""Processor time by process, from /proc: user and system time of a process, and of a Postgres server as a whole.

Lives here: reading it. Must not live here: which processes there are. Where there is no /proc, nothing is told.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
THREADS: Final = ("loop", "gRPC", "others")
"""Kinds of threads: the first of a process, in which its event loop runs; those that gRPC's C core names; the rest."""
_GRPC: Final = ("grpc_", "event_engine", "lifeguard", "timer_manager")
# Fields behind the command's name, which may contain anything but ends with the last parenthesis (proc(5)).
_UTIME, _STIME, _CUTIME, _CSTIME = 11, 12, 13, 14


def is_known() -> bool:
    """True if this machine tells."""
    return (_PROC / "self" / "stat").exists()


def of_process(pid: int) -> float:
    """Seconds of one process, all its threads included; 0 if it is gone."""
    fields = _fields(pid)
    return (int(fields[_UTIME]) + int(fields[_STIME])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def of_family(pid: int) -> float:
    """Seconds of a process, of its children that are there, and of those that it has waited for; all of one thread."""
    fields = _fields(pid)
    if not fields:
        return 0.0
    gone = (int(fields[_CUTIME]) + int(fields[_CSTIME])) / os.sysconf("SC_CLK_TCK")
    return _of_thread(pid) + gone + sum(_of_thread(child) for child in _children(pid))


def of_threads(pid: int) -> dict[str, float]:
    """Seconds of one process by kind of thread (`THREADS`), without those that have ended; nothing if it is gone."""
    found: dict[str, float] = {}
    for task in _tasks(pid):
        kind = "loop" if task.name == str(pid) else _kind_of(task)
        found[kind] = found.get(kind, 0.0) + _of_thread(pid, int(task.name))
    return found


def between(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What each has used between two readings."""
    return {name: round(after[name] - before.get(name, 0.0), 4) for name in after}


def _fields(pid: int) -> list[str]:
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text.rpartition(")")[2].split()


def _of_thread(pid: int, thread: int | None = None) -> float:
    """The same for one thread, by default the first one, in nanoseconds where the kernel tells: in ticks, a hundred
    processes that each work for less than one would come to nothing."""
    try:
        return int((_PROC / str(pid) / "task" / str(thread or pid) / "schedstat").read_text().split()[0]) / 1e9
    except (FileNotFoundError, ProcessLookupError):
        return of_process(pid) if thread is None else 0.0


def _tasks(pid: int) -> list[Path]:
    try:
        return list((_PROC / str(pid) / "task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return []


def _kind_of(task: Path) -> str:
    try:
        return "gRPC" if (task / "comm").read_text().startswith(_GRPC) else "others"
    except (FileNotFoundError, ProcessLookupError):
        return "others"


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in (_PROC / str(pid) / "task" / str(pid) / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
