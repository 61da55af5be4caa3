"""The guardian: however its parent ends, nothing is left."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from twophase.sandbox import _cleaner
from twophase.sandbox.guardian import Guardian

# A parent with two children, one of which is deaf to SIGTERM; it says what it has made, and then waits.
_PARENT: Final = """
import signal, sys, time
from pathlib import Path
from twophase.sandbox.guardian import Guardian
guardian = Guardian(grace=0.3)
place = guardian.directory()
meek = guardian.start(["sleep", "600"], log=place / "log", cwd=place)
deaf = guardian.start([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"],
    log=place / "log", cwd=place)
while "deaf" not in (place / "log").read_text():
    time.sleep(0.01)
ended = guardian.start(["true"], log=place / "log", cwd=place)
ended.wait()
guardian.forget(ended)
meek.send_signal(signal.SIGSTOP)
print(place, guardian.pid, meek.pid, deaf.pid, flush=True)
time.sleep(600)
"""


def wait_until(condition: Callable[[], bool], *, timeout: float = 20.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not within {timeout} s"
        time.sleep(0.005)


def gone(pid: int) -> bool:
    return not _cleaner.alive(pid, _cleaner.birth(pid))


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_a_parent_that_is_killed(end: signal.Signals, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        place, *numbers = parent.stdout.readline().split()
        assert Path(place).parent == tmp_path
        assert not any(gone(int(pid)) for pid in numbers)
        parent.send_signal(end)
        wait_until(lambda: all(gone(int(pid)) for pid in numbers))
    assert list(tmp_path.iterdir()) == []


def test_the_child_is_deaf_to_what_a_terminal_sends(tmp_path: Path) -> None:
    with Guardian() as guardian:
        place = guardian.directory()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(guardian.pid, number)
        assert os.getpgid(guardian.pid) != os.getpgrp()
    assert not place.exists()


def test_closing_stops_what_runs_and_may_be_repeated(tmp_path: Path) -> None:
    with Guardian() as guardian:
        process = guardian.start(["sleep", "600"], log=tmp_path / "log", cwd=tmp_path)
    assert process.wait(5) == -signal.SIGTERM
    guardian.close()


def test_a_program_starts_without_the_guardians_pipe_and_its_output_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Guardian() as guardian:
        show = "ls -l /proc/$$/fd | grep -c pipe; echo $MARK; pwd"
        process = guardian.start(["sh", "-c", show], log=log, cwd=tmp_path, environment={"MARK": "told", **os.environ})
        assert process.wait(10) == 0
        guardian.forget(process)
    assert log.read_text().split() == ["0", "told", str(tmp_path)]


def test_a_program_that_is_not_there_leaves_a_line_in_the_log(tmp_path: Path) -> None:
    with Guardian() as guardian:
        process = guardian.start([tmp_path / "missing"], log=tmp_path / "log", cwd=tmp_path)
        assert process.wait(10) == 127
        guardian.forget(process)
    assert "missing" in (tmp_path / "log").read_text()


def test_a_number_that_now_belongs_to_another_process_is_left_alone(tmp_path: Path) -> None:
    with Guardian() as guardian:
        process = guardian.start(["sleep", "600"], log=tmp_path / "log", cwd=tmp_path)
        assert _cleaner.alive(process.pid, _cleaner.birth(process.pid))
        assert not _cleaner.alive(process.pid, "0")
    process.wait(5)
    assert not _cleaner.alive(process.pid, _cleaner.birth(process.pid))


def test_shared_memory_of_a_killed_postmaster_is_released(tmp_path: Path) -> None:
    libc = ctypes.CDLL(None)
    segment = libc.shmget(0, 64, 0o600)
    assert segment >= 0
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "postmaster.pid").write_text(f"1\n/data\n2\n3\n\n127.0.0.1\n  4711 {segment}\nready\n")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "postmaster.pid").write_text("1\n")
    _cleaner.remove(str(tmp_path))
    assert not tmp_path.exists()
    assert libc.shmctl(segment, 2, ctypes.create_string_buffer(256)) == -1
