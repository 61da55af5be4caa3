"""The guardian's child: waits for its parent's end, then stops what the parent started and removes its directories.

Lives here: a script that runs on its own, as `python -I -S _cleaner.py GRACE`. Must not live here: any import but the
standard library's small ones; it has to be up in milliseconds, and to be there when everything else has died.

It reads lines from its standard input. End of file means: the parent is gone, in whatever way.

    process PID SIGNAL    stop this process group with that signal (a number) when the time comes
    forget PID            that process has ended and was waited for
    directory PATH        remove this directory when the time comes (the rest of the line is the path)
"""

import contextlib
import os
import shutil
import signal
import sys
import time

STEP = 0.01
REMOVAL = 5.0
IPC_RMID = 0


def main() -> None:
    """Reads until the end of the input, then cleans up."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    os.write(sys.stdout.fileno(), b"ready\n")
    processes: dict[int, tuple[int, str]] = {}
    directories: list[str] = []
    for line in sys.stdin.buffer:
        verb, _, rest = os.fsdecode(line.rstrip(b"\n")).partition(" ")
        if verb == "process":
            pid, stop = map(int, rest.split())
            processes[pid] = (stop, birth(pid))
        elif verb == "forget":
            processes.pop(int(rest), None)
        elif verb == "directory":
            directories.append(rest)
    stop_all(processes, float(sys.argv[1]))
    for directory in directories:
        remove(directory)


def birth(pid: int) -> str:
    """When a process started, in the kernel's words: tells it from a later one with its number. Empty: unknown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - pathlib costs more than everything else here
            return os.fsdecode(stat.read().rpartition(b")")[2].split()[19])
    except OSError:
        return ""


def alive(pid: int, born: str) -> bool:
    """True if the process is there, is the same one, and is no zombie."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123
            fields = stat.read().rpartition(b")")[2].split()
    except PermissionError:
        return False  # its number was given to somebody else's process
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return not os.path.exists("/proc/self/stat")  # noqa: PTH110 - without /proc the answer of kill() stands
    return fields[0] != b"Z" and os.fsdecode(fields[19]) == born


def stop_all(processes: dict[int, tuple[int, str]], grace: float) -> None:
    """Asks every process to stop, and kills those that have not within the grace (seconds)."""
    for pid, (stop, born) in processes.items():
        if alive(pid, born):
            send(pid, stop)
            send(pid, signal.SIGCONT)  # a stopped process hears nothing
    end = time.monotonic() + grace
    left = {pid: born for pid, (_, born) in processes.items()}
    while left and time.monotonic() < end:
        left = {pid: born for pid, born in left.items() if alive(pid, born)}
        if left:
            time.sleep(STEP)
    for pid in processes:
        send(pid, signal.SIGKILL)  # the whole group: also what an ended leader has left behind


def send(group: int, number: int) -> None:
    """Signals a process group, if it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def remove(directory: str) -> None:
    """Removes a tree, and first the shared memory of every Postgres in it that was killed."""
    for parent, _, files in os.walk(directory):
        if "postmaster.pid" in files:
            release_shared_memory(os.path.join(parent, "postmaster.pid"))  # noqa: PTH118
    end = time.monotonic() + REMOVAL
    while os.path.lexists(directory) and time.monotonic() < end:  # dying backends may still write into it
        shutil.rmtree(directory, ignore_errors=True)
        if os.path.lexists(directory):
            time.sleep(STEP)


def release_shared_memory(lock_file: str) -> None:
    """Frees the System V segment that a killed postmaster has left; its lock file's seventh line is `key id`."""
    import ctypes

    with contextlib.suppress(OSError, IndexError, ValueError):
        with open(lock_file, encoding="ascii") as lines:  # noqa: PTH123
            segment = int(lines.read().splitlines()[6].split()[1])
        ctypes.CDLL(None).shmctl(segment, IPC_RMID, None)


if __name__ == "__main__":
    main()
