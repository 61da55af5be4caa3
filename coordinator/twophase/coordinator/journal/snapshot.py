"""A private copy of a journal's file, for those who only look: the file itself is read and nothing else.

Lives here: copying a SQLite file and its log so that both fit together, while somebody may be writing them. Must not
live here: what is in them (`offline`).

SQLite itself cannot be asked to look without a trace: a read-only connection makes `-shm` where there is none, and with
`immutable=1` it ignores the log, which holds the newest transactions. So the two files are copied and opened elsewhere.

A writer may be at work meanwhile. What it appends to the log does no harm: a reader of the copy stops at the last whole
transaction. Neither does a checkpoint: every page that it moves into the file is in the log, too, and counts there,
provided that the log is copied after the file and is still the same one. A log that is begun anew, once all of it has
been moved, has another header (https://www.sqlite.org/fileformat2.html, 4.1: the salts). Then both are copied again.
Where there is no log, the file itself must not have changed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from twophase.coordinator.journal.lock import real_path
from twophase.coordinator.journal.port import JournalUnusable

ATTEMPTS: Final = 20
_HEADER_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy, and how many bytes the originals have; `log_bytes` is 0 where there is no log."""

    copy: Path
    file_bytes: int
    log_bytes: int


@contextmanager
def snapshot(path: Path) -> Iterator[Snapshot]:
    """A copy of the journal that lives as long as the block, in the system's directory for temporary files (TMPDIR).

    Raises `JournalUnusable` if there is no such file, it cannot be read or copied, or is written faster than copied.
    """
    original = real_path(path)
    try:
        is_there, is_file = original.exists(), original.is_file()
    except OSError as error:
        raise JournalUnusable(
            f"{path} cannot be looked at: {error.strerror or error}; run this as a user who may read it"
        ) from error
    if not is_there:
        raise JournalUnusable(f"there is no file {path}; name the journal's file")
    if not is_file:
        raise JournalUnusable(f"{path} is not a file, so it cannot be a journal; name a file")
    with tempfile.TemporaryDirectory(prefix="twophase-inspect-") as directory:
        copy = Path(directory) / "journal.db"
        try:
            _copy_both(original, copy)
        except OSError as error:
            where = error.filename or original
            raise JournalUnusable(
                f"{path} cannot be copied to look at it: {error.strerror or error} ({where}); it is read as the user"
                f" who types, and copied to {directory} (see TMPDIR)"
            ) from error
        yield Snapshot(copy, copy.stat().st_size, _size(_log_of(copy)))


def _copy_both(original: Path, copy: Path) -> None:
    for _ in range(ATTEMPTS):
        before, written = _header(_log_of(original)), _written(original)
        shutil.copyfile(original, copy)
        _log_of(copy).unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            shutil.copyfile(_log_of(original), _log_of(copy))
        same_log = before == _header(_log_of(copy)) == _header(_log_of(original))
        if same_log and (before or written == _written(original)):
            return
    raise JournalUnusable(
        f"journal {original} is being written faster than it can be copied ({ATTEMPTS} times tried); try again when"
        " there is less to do, or ask its coordinator: twophase tx list"
    )


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _header(log: Path) -> bytes:
    """What tells one log from the next; empty where there is none."""
    try:
        with log.open("rb") as file:
            return file.read(_HEADER_BYTES)
    except FileNotFoundError:
        return b""


def _written(path: Path) -> tuple[int, ...]:
    """What changes when the file is written, or is another one."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
