"""The drills in which the journal itself is at fault: an older copy is put back, its tail is torn, it is damaged.

Lives here: what is done to the files, and what the coordinator must make of it. Must not live here: a disk that is full
or fails under a running coordinator.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final

from twophase.contract.crashpoints import CrashPoint
from twophase.sandbox.bank import NAMES
from twophase.sandbox.drill.business import Told
from twophase.sandbox.drill.stage import COORDINATOR, NotHit, Stage
from twophase.sandbox.drill.values import Act, Drill
from twophase.sandbox.errors import ProcessFailed

_BANK: Final = NAMES[0]
_WORK: Final = 0.5
_APPLIED_ELSEWHERE: Final = 0.2
_IN_QUARANTINE: Final = 1.5
_PATIENCE: Final = 10.0
_POLL: Final = 0.02
_PAGE: Final = 4096
_OLDER: Final = "the journal is older than its participants"


async def _decided_only(stage: Stage) -> Path:
    """The coordinator dies with a commit that is decided, prepared everywhere, and applied nowhere."""
    point = CrashPoint.COORDINATOR_AFTER_DECIDE
    await stage.arm(COORDINATOR, point, nth=40)
    older = await asyncio.to_thread(_copy, stage.system.journal)
    await stage.dies(COORDINATOR, point)
    return older


async def _committed_in_part(stage: Stage) -> Path:
    """Both die with a commit that is applied at the others, and prepared at one bank."""
    point = CrashPoint.PARTICIPANT_BEFORE_COMMIT_PREPARED
    older = await asyncio.to_thread(_copy, stage.system.journal)
    await stage.arm(_BANK, point, nth=4)
    await stage.dies(_BANK, point)
    await asyncio.sleep(_APPLIED_ELSEWHERE)
    await stage.program(COORDINATOR).kill()
    await stage.program(_BANK).start()
    return older


def _older_copy(prepare: Callable[[Stage], Awaitable[Path]], *, dies_at: CrashPoint | None = None) -> Act:
    """What comes back does not know what was decided: it aborts nothing of that, and begins nothing.

    With `dies_at` it dies there first, and comes back again.
    """

    async def act(stage: Stage) -> None:
        older = await prepare(stage)
        pausing = asyncio.create_task(stage.running.pause())
        with _set_aside(stage.system.journal):
            shutil.move(older, stage.system.journal)
            try:
                if dies_at is not None:
                    await stage.start_armed(COORDINATOR, dies_at)
                    await stage.dies(COORDINATOR, dies_at)
                await _try_quarantine(stage, pausing)
            finally:
                await stage.program(COORDINATOR).kill()
        stage.running.resume()
        await stage.revive(COORDINATOR)

    return act


async def _try_quarantine(stage: Stage, pausing: asyncio.Task[None]) -> None:
    said = _said(stage)
    await stage.program(COORDINATOR).start()
    await _until(lambda: _OLDER in said(), f"the coordinator did not say that {_OLDER}")
    await pausing
    _, answer = await stage.running.probe(NAMES[1], NAMES[2])
    if answer.told is not Told.FAILED:
        raise NotHit(f"a coordinator in quarantine told a new transfer {answer.told.value}")
    await asyncio.sleep(_IN_QUARANTINE)


def _newer_lost(*, dies_at: CrashPoint | None = None) -> Act:
    """Everything is at rest when the newer journal is lost: what the copy does not know are request ids.

    With `dies_at` the coordinator dies there first, while it is being lifted.
    """

    async def act(stage: Stage) -> None:
        older = await asyncio.to_thread(_copy, stage.system.journal)
        await asyncio.sleep(_WORK)
        await stage.running.pause()
        await stage.rest()
        await stage.program(COORDINATOR).kill()
        _remove(stage.system.journal)
        shutil.move(older, stage.system.journal)
        said = _said(stage)
        if dies_at is not None:
            with _after_restore(stage):
                await stage.start_armed(COORDINATOR, dies_at)
            await stage.dies(COORDINATOR, dies_at)
        # What was lifted is not lifted again.
        lifted = dies_at is CrashPoint.RECOVERY_AFTER_LIFT
        with contextlib.nullcontext() if lifted else _after_restore(stage):
            await stage.program(COORDINATOR).start()
        stage.running.resume()
        _, answer = await stage.running.probe(NAMES[0], NAMES[1])
        if answer.told is not Told.OK or _OLDER in said():
            raise NotHit(f"the lifted journal is not taken for whole: a new transfer was told {answer.told.value}")
        await stage.measure()

    return act


@contextlib.contextmanager
def _after_restore(stage: Stage) -> Iterator[None]:
    options = stage.system.coordinator_options
    stage.system.coordinator_options = (*options, "--after-restore")
    try:
        yield
    finally:
        stage.system.coordinator_options = options


def dies_restoring(point: CrashPoint) -> Act | None:
    """What leads to a point that only an older journal reaches; None for every other."""
    match point:
        case CrashPoint.RECOVERY_BEFORE_SUSPECT | CrashPoint.RECOVERY_AFTER_SUSPECT:
            return _older_copy(_decided_only, dies_at=point)
        case CrashPoint.RECOVERY_BEFORE_EVIDENCE | CrashPoint.RECOVERY_AFTER_EVIDENCE:
            return _older_copy(_committed_in_part, dies_at=point)
        case CrashPoint.RECOVERY_BEFORE_LIFT | CrashPoint.RECOVERY_AFTER_LIFT:
            return _newer_lost(dies_at=point)
        case _:
            return None


def _torn(tear: Callable[[Path], None]) -> Act:
    async def act(stage: Stage) -> None:
        # At this point nobody has been answered yet: what is torn is what a power cut would have kept from the disk.
        point = CrashPoint.COORDINATOR_AFTER_WRITE
        await stage.arm(COORDINATOR, point, nth=40)
        await stage.dies(COORDINATOR, point)
        tear(_beside(stage.system.journal, "-wal"))
        await stage.revive(COORDINATOR)

    return act


def _cut(log: Path) -> None:
    os.truncate(log, log.stat().st_size - _PAGE // 3)


def _flip(log: Path) -> None:
    with log.open("r+b") as file:
        file.seek(-_PAGE // 2, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0xFF]))


def _damaged(damage: Callable[[Path], None]) -> Act:
    async def act(stage: Stage) -> None:
        program, journal = stage.program(COORDINATOR), stage.system.journal
        await program.stop()
        with _set_aside(journal) as whole:
            shutil.copy(whole, journal)
            damage(journal)
            try:
                await program.start()
            except ProcessFailed as error:
                if "restore it" not in str(error):
                    raise NotHit(f"it did not say what to do about a damaged journal: {error}") from error
            else:
                await program.kill()
                raise NotHit("the coordinator started on a damaged journal")
        await stage.revive(COORDINATOR)

    return act


def _overwrite_pages(journal: Path) -> None:
    with journal.open("r+b") as file:
        file.seek(_PAGE)
        file.write(b"\xa5" * (4 * _PAGE))


def _overwrite_header(journal: Path) -> None:
    with journal.open("r+b") as file:
        file.write(b"\xa5" * 100)


def _cut_off(journal: Path) -> None:
    os.truncate(journal, journal.stat().st_size // 2 // _PAGE * _PAGE)


def _copy(journal: Path) -> Path:
    """A copy as a backup takes it, from a journal in use."""
    copy = _beside(journal, ".copy")
    with (
        contextlib.closing(sqlite3.connect(f"{journal.as_uri()}?mode=ro", uri=True)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
    return copy


@contextlib.contextmanager
def _set_aside(journal: Path) -> Iterator[Path]:
    """Keeps the journal out of the way, and puts it back in place of what is there then."""
    kept = _beside(journal, ".kept")
    _move(journal, kept)
    try:
        yield kept
    finally:
        _remove(journal)
        _move(kept, journal)


def _move(journal: Path, to: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        if _beside(journal, suffix).exists():
            _beside(journal, suffix).rename(_beside(to, suffix))


def _remove(journal: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        _beside(journal, suffix).unlink(missing_ok=True)


def _beside(journal: Path, suffix: str) -> Path:
    return journal.with_name(journal.name + suffix)


def _said(stage: Stage) -> Callable[[], str]:
    """What the coordinator has said since now."""
    log = stage.program(COORDINATOR).log
    begin = len(log.read_bytes())
    return lambda: log.read_bytes()[begin:].decode(errors="replace")


async def _until(condition: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise NotHit(otherwise)
        await asyncio.sleep(_POLL)


_DECIDED: Final = CrashPoint.COORDINATOR_AFTER_DECIDE
_TOLD: Final = CrashPoint.PARTICIPANT_BEFORE_COMMIT_PREPARED
_WRITTEN: Final = CrashPoint.COORDINATOR_AFTER_WRITE
JOURNALS: Final = (
    Drill(
        "an older journal, of before a decision",
        "a copy that does not know what is prepared; then the newest one again",
        _older_copy(_decided_only),
        (_DECIDED,),
        quick=True,
    ),
    Drill(
        "an older journal, in the middle of a commit",
        f"a copy that does not know what {_BANK} has not committed yet; then the newest one again",
        _older_copy(_committed_in_part),
        (_TOLD,),
    ),
    Drill("the newest journal is lost", "a copy from before, with --after-restore", _newer_lost()),
    Drill("the journal's tail is cut", "the last write is on the disk in part", _torn(_cut), (_WRITTEN,)),
    Drill("the journal's tail is wrong", "a byte of the last write is another", _torn(_flip), (_WRITTEN,)),
    Drill("the journal is damaged", "pages are overwritten: it must not start", _damaged(_overwrite_pages)),
    Drill("the journal has no header", "it is overwritten: it must not start", _damaged(_overwrite_header)),
    Drill("the journal is cut off", "half of it is missing: it must not start", _damaged(_cut_off)),
)
