"""A small disk that can be filled, and syncs that go wrong: what the drills of the journal's disk stand on."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from twophase.sandbox import small_disk
from twophase.sandbox.guardian import Guardian
from twophase.sandbox.small_disk import NoSmallDisk, SmallDisk
from twophase.sandbox.syncs import AtSync, NoInjection, recorder, wrapper

_SYNCING = "import os, sys\nfor n in range(9):\n os.fsync(1); print(n, flush=True)"


@pytest.fixture
def guardian() -> Iterator[Guardian]:
    with Guardian(grace=0.5) as guardian:
        yield guardian


@pytest.fixture
def disk(guardian: Guardian) -> SmallDisk:
    try:
        return SmallDisk.mount(guardian, mib=2)
    except NoSmallDisk as reason:
        pytest.skip(str(reason))


def test_it_is_full_to_the_last_byte_and_empty_again(disk: SmallDisk) -> None:
    assert disk.free() == 2 << 20
    disk.fill()
    assert disk.free() == 0
    with pytest.raises(OSError, match="No space left") as caught:
        (disk.outside / "more").write_bytes(b"x")
    assert caught.value.errno == errno.ENOSPC
    disk.empty()
    assert disk.free() > 1 << 20


def test_it_is_filled_although_somebody_else_takes_some_of_it_meanwhile(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocate, taken = os.posix_fallocate, disk.outside / "taken"

    def late(descriptor: int, offset: int, length: int) -> None:
        if not taken.exists():
            taken.write_bytes(b"x" * 4096)
        allocate(descriptor, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", late)
    disk.fill()
    assert disk.free() == 0


def test_a_disk_that_fails_in_another_way_is_not_taken_for_full(
    disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "posix_fallocate", broken)
    with pytest.raises(OSError, match="broken"):
        disk.fill()


def test_only_what_runs_in_the_wrapper_sees_it_where_it_is(disk: SmallDisk, guardian: Guardian) -> None:
    (disk.outside / "mark").touch()
    seen = subprocess.run([*disk.wrapper, "ls", str(disk.directory)], capture_output=True, text=True, check=True)
    assert seen.stdout == "mark\n"
    assert list(disk.directory.iterdir()) == []
    disk.unmount(guardian)
    assert not disk.outside.exists()


def test_a_machine_that_mounts_none_says_why(guardian: Guardian, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_disk, "_MOUNT", "echo this is forbidden; exit 1")
    with pytest.raises(NoSmallDisk, match=r"(?s)lets this user mount no small disk\. Its log ends with:.*forbidden"):
        SmallDisk.mount(guardian, mib=2)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(NoSmallDisk, match="unshare is not installed"):
        SmallDisk.mount(guardian, mib=2)


@pytest.mark.parametrize(
    ("what", "code"),
    [(AtSync.FAILS, 1), (AtSync.DIES, -9)],
    ids=["fails", "dies"],
)
def test_the_nth_sync_goes_wrong(tmp_path: Path, what: AtSync, code: int) -> None:
    try:
        command = wrapper(what, nth=3)
    except NoInjection as reason:
        pytest.skip(str(reason))
    with (tmp_path / "out").open("w") as out:
        ended = subprocess.run(
            [*command, sys.executable, "-c", _SYNCING], stdout=out, stderr=subprocess.PIPE, check=False
        )
    assert (tmp_path / "out").read_text() == "0\n1\n"
    assert ended.returncode == code


def test_syncs_are_recorded_and_take_longer(tmp_path: Path) -> None:
    try:
        command = recorder(tmp_path / "trace", ["write"], sync_seconds=0.01)
    except NoInjection as reason:
        pytest.skip(str(reason))
    with (tmp_path / "out").open("w") as out:
        ended = subprocess.Popen([*command, sys.executable, "-c", _SYNCING], stdout=out)
    assert ended.wait() == 0
    end = time.monotonic() + 10
    while f"{ended.pid} +++ exited with 0 +++" not in " ".join((tmp_path / "trace").read_text().split()):
        assert time.monotonic() < end
    lines = (tmp_path / "trace").read_text().splitlines()
    syncs = [line for line in lines if "sync(" in line]
    assert len(syncs) == 9
    assert all("= 0 (DELAYED)" in line for line in syncs)


def test_a_machine_without_strace_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(NoInjection, match="strace is not installed"):
        wrapper(AtSync.FAILS, nth=1)


def test_a_machine_that_forbids_tracing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "/bin/false")
    with pytest.raises(NoInjection, match="strace cannot trace here: 1"):
        wrapper(AtSync.FAILS, nth=1)
