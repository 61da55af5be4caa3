"""The journal's lock: who has it, the heartbeat in it, and ending its holder and nobody else."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from twophase.coordinator.journal import holder
from twophase.coordinator.journal import lock as lock_module
from twophase.coordinator.journal.holder import CannotEnd, Holder
from twophase.coordinator.journal.lock import FileLock, Record, read_record
from twophase.coordinator.journal.port import JournalLocked

needs_handles = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system has no handles to processes")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    code = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def holder_of(process: subprocess.Popen[bytes]) -> Holder:
    stat = Path(f"/proc/{process.pid}/stat").read_bytes()
    return replace(Holder.this_process(), pid=process.pid, born=stat.rpartition(b")")[2].split()[19].decode())


def test_the_record_says_who_has_the_journal(path: Path) -> None:
    lock = FileLock(path)
    assert read_record(path) == Record(Holder.this_process(), beats=0)
    with pytest.raises(JournalLocked, match=f"in use by process {os.getpid()}; "):
        FileLock(path)
    lock.release()
    lock.release()
    assert read_record(path) is None


def test_a_lock_whose_holder_left_no_word_is_a_lock_all_the_same(path: Path) -> None:
    with Path(f"{path}.lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(JournalLocked, match="in use by another process; "):
            FileLock(path)


async def test_the_heart_beats_while_the_loop_turns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "BEAT_SECONDS", 0.001)
    lock = FileLock(path)
    lock.keep_beating()
    lock.keep_beating()
    seen = [record.beats for record in (read_record(path),) if record is not None]
    async with asyncio.timeout(10):
        while len(seen) < 4:
            record = read_record(path)
            if record is not None and record.beats > seen[-1]:
                seen.append(record.beats)
            await asyncio.sleep(0)
    # One second beat for each step of the loop's timer, not two.
    assert seen[0] == 1
    lock.release()
    await asyncio.sleep(0.01)
    assert read_record(path) is None


def test_a_record_has_one_size_so_that_a_full_disk_is_not_in_its_way(path: Path) -> None:
    sizes = set()
    for _ in range(2):
        lock = FileLock(path)
        sizes.add(Path(f"{path}.lock").stat().st_size)
        lock.release()
        sizes.add(Path(f"{path}.lock").stat().st_size)
    assert len(sizes) == 1
    assert sizes == {len(Record(Holder(1, "2", "x/pid:[1]"), beats=10**12).to_bytes())}


def test_a_record_that_cannot_be_written_is_told_once_and_the_lock_holds(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    lock = FileLock(path)
    with pytest.raises(JournalLocked):
        FileLock(path)
    lock.release()
    assert [record.message for record in caplog.records] == [
        f"{path}.lock cannot be written ([Errno 28] No space left on device): it does not say who has it"
    ]


@pytest.mark.parametrize("data", [b"", b"12", b" " * 256, b"x y z 1", b"1 2 3 x", b"1 2 3 4 5", b"\xff\xfe 1 2 3"])
def test_what_is_no_record_says_nothing(data: bytes) -> None:
    assert Record.from_bytes(data) is None


@needs_handles
def test_a_holder_is_ended_even_if_it_is_stopped(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGSTOP)
    assert holder_of(child).end() is True
    assert child.wait(10) == -signal.SIGKILL


@needs_handles
def test_a_number_that_was_given_out_again_is_not_hit(child: subprocess.Popen[bytes]) -> None:
    of_before = holder_of(child)
    assert replace(of_before, born=str(int(of_before.born) - 1)).end() is False
    assert child.poll() is None


@needs_handles
def test_a_holder_that_is_gone_is_no_error(child: subprocess.Popen[bytes]) -> None:
    gone = holder_of(child)
    child.kill()
    child.wait(10)
    assert gone.end() is False


@needs_handles
def test_a_process_of_another_container_or_machine_or_of_an_unknown_start_is_not_touched(
    child: subprocess.Popen[bytes],
) -> None:
    here = holder_of(child)
    for elsewhere in (replace(here, where="other/pid:[1]"), replace(here, born="-"), Holder(child.pid)):
        with pytest.raises(CannotEnd, match="not a process of this machine and container"):
            elsewhere.end()
    assert child.poll() is None


def test_nobody_ends_itself() -> None:
    with pytest.raises(CannotEnd, match="it is this process"):
        Holder.this_process().end()


def test_without_handles_nobody_is_ended(child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    with pytest.raises(CannotEnd, match="no safe handle"):
        holder_of(child).end()
    assert child.poll() is None


@needs_handles
def test_a_process_whose_start_is_hidden_is_not_touched(
    child: subprocess.Popen[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = holder_of(child)
    # As with the mount option hidepid of /proc: one's own entries can be read, those of others cannot.
    for name in ("sys/kernel/random", "self/ns"):
        (tmp_path / name).mkdir(parents=True)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    (tmp_path / "sys/kernel/random/boot_id").write_text(boot, encoding="ascii")
    (tmp_path / "self/ns/pid").symlink_to(Path("/proc/self/ns/pid").readlink())
    monkeypatch.setattr(holder, "_PROC", tmp_path)
    with pytest.raises(CannotEnd, match="does not show when it was started"):
        here.end()
    assert child.poll() is None


@needs_handles
def test_a_process_of_another_user_is_left_to_others(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    with pytest.raises(CannotEnd, match="another user"):
        holder_of(child).end()
    assert child.poll() is None
