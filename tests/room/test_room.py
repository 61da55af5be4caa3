"""When new work is refused for want of room, and taken again; over a disk that does as it is told."""

from __future__ import annotations

import errno
from pathlib import Path

import grpc
import pytest

from twophase.coordinator.journal.ballast import Ballast
from twophase.coordinator.room import Room

MIB = 1 << 20
SIZE = 64 * MIB


class Disk(Ballast):
    """A ballast on a disk with so much room, of which the ballast takes its part."""

    def __init__(self, room: int, *, size: int = SIZE) -> None:
        super().__init__(Path("/var/lib/journal"), size)
        self.room = room * MIB
        self.made = 0
        self.quota = False
        self.broken = False

    def free(self) -> int:
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        return self.room - self.made

    def is_there(self) -> bool:
        return self.made == self.size

    def make(self) -> None:
        assert self.size
        if self.quota:
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        assert self.made + self.free() >= self.size
        self.made = self.size

    def give_up(self) -> None:
        self.made = 0


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [f"{record.levelname}: {record.message}" for record in caplog.records]
    caplog.clear()
    return found


def refuses(room: Room) -> bool:
    return room.refusal is not None


def test_with_room_for_both_the_ballast_is_made_and_nothing_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk(144)
    room = Room(disk)
    room.start()
    assert (disk.made, refuses(room), messages(caplog)) == (SIZE, False, [])


def test_without_room_for_both_the_coordinator_starts_and_refuses(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk(143)
    room = Room(disk)
    room.start()
    assert disk.made == 0
    assert room.refusal is not None
    problem = room.refusal.problem
    assert (problem.code, problem.reason, problem.outcome_known) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "NO_ROOM",
        True,
    )
    assert problem.message == (
        "143 MiB are free on the disk of the coordinator's journal, and nothing was started;"
        " make room there, until 144 MiB are free, and send it again"
    )
    (told,) = messages(caplog)
    assert told == (
        "CRITICAL: 143 MiB are free on the disk of /var/lib: nothing new is begun, what is decided is finished;"
        " make room there, until 144 MiB are free, and this coordinator goes on by itself"
    )


def test_r10_work_is_refused_before_a_write_fails_and_taken_again_with_some_to_spare(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = Disk(1000)
    room = Room(disk)
    room.start()
    disk.room = 128 * MIB
    room.look()
    assert not refuses(room)
    disk.room -= 1
    for _ in range(3):
        room.look()
    assert (disk.made, refuses(room)) == (SIZE, True)
    assert room.refusal is not None
    assert "until 80 MiB are free" in room.refusal.problem.message
    disk.room = 144 * MIB - 1
    room.look()
    assert refuses(room)
    disk.room += 1
    for _ in range(3):
        room.look()
    assert not refuses(room)
    assert [line.split(":")[0] for line in messages(caplog)] == ["CRITICAL", "WARNING"]


def test_r10_on_a_full_disk_the_ballast_is_given_up_at_start_and_made_again_by_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = Disk(64)
    disk.made = SIZE
    room = Room(disk)
    room.start()
    assert disk.made == 0
    assert room.refusal is not None
    disk.room = 144 * MIB - 1
    room.look()
    assert disk.made == 0
    disk.room += 1
    room.look()
    assert (disk.made, refuses(room)) == (SIZE, False)
    assert [line.split(":")[0] for line in messages(caplog)] == ["CRITICAL", "WARNING"]


def test_what_the_disk_does_not_show_is_found_when_the_journal_cannot_be_opened(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    disk = Disk(1000)
    room = Room(disk, clock=lambda: now)
    room.start()
    assert room.make_some()
    assert not room.make_some()
    assert (disk.made, refuses(room)) == (0, True)
    # It looks as if there were room; that is believed only after a while, or it would be in the way again at once.
    now = 59.0
    room.look()
    assert disk.made == 0
    now, disk.quota = 60.0, True
    room.look()
    now, disk.quota = 119.0, False
    room.look()
    assert (disk.made, refuses(room)) == (0, True)
    now = 120.0
    room.look()
    assert (disk.made, refuses(room)) == (SIZE, False)
    assert [line.split(":")[0] for line in messages(caplog)] == ["CRITICAL", "CRITICAL", "WARNING"]


def test_a_disk_that_cannot_be_looked_at_changes_nothing_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk(1000)
    room = Room(disk)
    room.start()
    disk.broken = True
    for _ in range(3):
        room.look()
    assert not refuses(room)
    assert messages(caplog) == ["CRITICAL: cannot see to the ballast in /var/lib: [Errno 5] Input/output error"]


def test_without_a_ballast_nothing_is_refused_and_one_of_before_is_removed(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk(1, size=0)
    disk.made = 7
    room = Room(disk)
    room.start()
    room.look()
    assert (disk.made, refuses(room), messages(caplog)) == (0, False, [])


def test_a_ballast_that_somebody_removed_is_made_again() -> None:
    disk = Disk(1000)
    room = Room(disk)
    room.start()
    disk.made = 0
    room.look()
    assert (disk.made, refuses(room)) == (SIZE, False)


def test_a_ballast_that_was_made_in_vain_and_cannot_be_removed_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Ballast) -> None:
        raise OSError(errno.EIO, "Input/output error")

    room = Room(Disk(1000))
    room.start()
    messages(caplog)
    monkeypatch.setattr(Disk, "give_up", broken)
    room.take_back()
    assert messages(caplog) == ["CRITICAL: cannot see to the ballast in /var/lib: [Errno 5] Input/output error"]


# --- the file itself --------------------------------------------------------------------------------------------------


def test_it_takes_up_real_room_is_private_and_is_gone_when_it_is_given_up(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path / "journal", MIB)
    assert not ballast.is_there()
    ballast.make()
    found = (tmp_path / "journal.ballast").stat()
    assert (found.st_size, found.st_mode & 0o777) == (MIB, 0o600)
    assert found.st_blocks * 512 >= MIB
    assert ballast.is_there()
    assert not Ballast(tmp_path / "journal", 2 * MIB).is_there()
    ballast.give_up()
    ballast.give_up()
    assert list(tmp_path.iterdir()) == []
    assert ballast.free() > 0


def test_where_room_cannot_be_reserved_it_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.posix_fallocate", lambda *_: None)
    ballast = Ballast(tmp_path / "journal", MIB + 1)
    ballast.make()
    found = (tmp_path / "journal.ballast").stat()
    assert found.st_size == MIB + 1
    assert found.st_blocks * 512 >= MIB
    assert ballast.is_there()


def test_of_one_that_cannot_be_made_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Ballast(tmp_path / "journal", MIB).make()
    assert list(tmp_path.iterdir()) == []
