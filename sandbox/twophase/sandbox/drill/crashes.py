"""The drills that kill a process at a named crash point.

Lives here: one drill for every point, and what must happen first so that it is reached. Must not live here: how it is
done (`stage`), how it is judged (`check`), two processes that die (`pairs`).
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Final

from twophase.contract.crashpoints import CrashPoint
from twophase.coordinator.client import TwophaseError
from twophase.sandbox.bank import NAMES
from twophase.sandbox.drill.business import Business
from twophase.sandbox.drill.journals import dies_restoring
from twophase.sandbox.drill.stage import COORDINATOR, Stage
from twophase.sandbox.drill.undoing import WITHIN, dies_resolving, is_of_sagas
from twophase.sandbox.drill.values import Act, Drill

_BANK: Final = NAMES[0]
_DYING: Final = 2.0

_QUICK: Final = frozenset(
    {
        CrashPoint.COORDINATOR_BEFORE_DECIDE,
        CrashPoint.COORDINATOR_BEFORE_WRITE,
        CrashPoint.COORDINATOR_AFTER_DECIDE,
        CrashPoint.COORDINATOR_AFTER_COMMIT,
        CrashPoint.PARTICIPANT_AFTER_PREPARE,
        CrashPoint.PARTICIPANT_AFTER_LOCAL_COMMIT,
        CrashPoint.PARTICIPANT_AFTER_COMMIT_PREPARED,
        CrashPoint.SAGA_AFTER_TURN,
        CrashPoint.PARTICIPANT_AFTER_COMPENSATION,
    }
)
# What needs somebody else to die first, so that there is something to recover, or to settle.
_AFTER_A_CRASH_AT: Final = {
    CrashPoint.RECOVERY_BEFORE_TAKE_UP: CrashPoint.COORDINATOR_AFTER_DECIDE,
    CrashPoint.RECOVERY_AFTER_TAKE_UP: CrashPoint.COORDINATOR_AFTER_DECIDE,
    CrashPoint.RECOVERY_BEFORE_PRESUME: CrashPoint.COORDINATOR_BEFORE_DECIDE,
    CrashPoint.RECOVERY_AFTER_PRESUME: CrashPoint.COORDINATOR_BEFORE_DECIDE,
}
_AT_START: Final = frozenset(
    {
        CrashPoint.COORDINATOR_BEFORE_EPOCH,
        CrashPoint.COORDINATOR_AFTER_EPOCH,
        CrashPoint.RECOVERY_BEFORE_SWEEP,
        CrashPoint.RECOVERY_AFTER_SWEEP,
    }
)
_SETTLING: Final = frozenset({CrashPoint.COORDINATOR_BEFORE_SETTLE, CrashPoint.COORDINATOR_AFTER_SETTLE})
_REGISTERING: Final = frozenset({CrashPoint.COORDINATOR_BEFORE_REGISTER, CrashPoint.COORDINATOR_AFTER_REGISTER})
_GREETING: Final = frozenset({CrashPoint.PARTICIPANT_BEFORE_REMEMBER, CrashPoint.PARTICIPANT_AFTER_REMEMBER})

_PRUNING: Final = frozenset(
    {
        CrashPoint.COORDINATOR_BEFORE_PRUNE,
        CrashPoint.COORDINATOR_AFTER_PRUNE,
        CrashPoint.PARTICIPANT_BEFORE_PRUNE,
        CrashPoint.PARTICIPANT_AFTER_PRUNE,
    }
)
# A coordinator that forgets as soon as the clients' deadlines, 5 s, allow it: so a drill lives to see it.
_FORGETFUL: Final = {
    "TWOPHASE_DEADLINE_CAP": "5",
    "TWOPHASE_DEFAULT_DEADLINE": "5",
    "TWOPHASE_RETENTION": "6s",
}


def dies_at(point: CrashPoint) -> Drill:
    """The drill that kills a process at one point."""
    victim = _BANK if point.value.startswith("participant.") else COORDINATOR
    drill = Drill(point.value, f"{victim} dies at this point", _act_at(point, victim), (point,), point in _QUICK)
    return replace(drill, business=Business.SAGAS, within=WITHIN) if is_of_sagas(point) else drill


def _act_at(point: CrashPoint, victim: str) -> Act:
    special = dies_restoring(point) or dies_resolving(point)
    if special is not None:
        return special
    if point in _AFTER_A_CRASH_AT:
        return _dies_twice(_AFTER_A_CRASH_AT[point], point)
    if point in _AT_START:
        return _dies_at_start(point)
    if point in _SETTLING:
        return _dies_settling(point)
    if point in _REGISTERING:
        return _dies_registering(point)
    if point in _GREETING:
        return _dies_greeting(point)
    if point in _PRUNING:
        return _dies_pruning(point, victim)
    return _dies_at_work(point, victim)


def _dies_at_work(point: CrashPoint, victim: str) -> Act:
    async def act(stage: Stage) -> None:
        await stage.arm(victim, point, nth=3)
        await stage.dies(victim, point)
        await stage.revive(victim)

    return act


def _dies_twice(first: CrashPoint, second: CrashPoint) -> Act:
    async def act(stage: Stage) -> None:
        await stage.arm(COORDINATOR, first, nth=5)
        await stage.dies(COORDINATOR, first)
        await stage.start_armed(COORDINATOR, second)
        await stage.dies(COORDINATOR, second)
        await stage.revive(COORDINATOR)

    return act


def _dies_at_start(point: CrashPoint) -> Act:
    async def act(stage: Stage) -> None:
        await stage.program(COORDINATOR).kill()
        await stage.start_armed(COORDINATOR, point)
        await stage.dies(COORDINATOR, point)
        await stage.revive(COORDINATOR)

    return act


def _dies_settling(point: CrashPoint) -> Act:
    """The delegate dies after its commit, so that the coordinator must ask how it ended; then the coordinator dies."""

    async def act(stage: Stage) -> None:
        committed = CrashPoint.PARTICIPANT_AFTER_LOCAL_COMMIT
        await stage.arm(COORDINATOR, point)
        await stage.arm(_BANK, committed)
        # Its stop before that may have left a delegation unanswered: then the coordinator has asked, and died, already.
        if await stage.first_to_die(_BANK, COORDINATOR) == _BANK:
            await stage.dies(_BANK, committed)
            await stage.program(_BANK).start()
        await stage.dies(COORDINATOR, point)
        await stage.revive(COORDINATOR)

    return act


def _dies_registering(point: CrashPoint) -> Act:
    """A participant that is known registers without a write, unless its address is new: here it is spelt otherwise."""

    async def act(stage: Stage) -> None:
        known = stage.program(_BANK).address
        await stage.arm(COORDINATOR, point)
        with contextlib.suppress(TwophaseError):
            await stage.register(_BANK, known.replace("127.0.0.1", "localhost"), within=_DYING)
        await stage.dies(COORDINATOR, point)
        await stage.revive(COORDINATOR)
        await stage.register(_BANK, known)

    return act


def _dies_pruning(point: CrashPoint, victim: str) -> Act:
    """The coordinator has a short memory until the victim died: afterwards the clients ask what became of it all."""

    async def act(stage: Stage) -> None:
        coordinator = stage.program(COORDINATOR)
        coordinator.environment |= _FORGETFUL
        try:
            if victim != COORDINATOR:
                await coordinator.stop()
                await stage.arm(victim, point)
                await coordinator.start()
            else:
                await stage.arm(COORDINATOR, point)
            await stage.dies(victim, point)
        finally:
            for name in _FORGETFUL:
                del coordinator.environment[name]
        if coordinator.is_running:
            await coordinator.stop()
        await stage.revive(COORDINATOR, victim)

    return act


def _dies_greeting(point: CrashPoint) -> Act:
    async def act(stage: Stage) -> None:
        await stage.program(COORDINATOR).kill()
        await stage.arm(_BANK, point)
        await stage.program(COORDINATOR).start()
        await stage.dies(_BANK, point)
        await stage.revive(_BANK)

    return act
