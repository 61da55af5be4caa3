"""Crash points: named moments at which a process can be made to kill itself, for drills.

Lives here: the registry, for both sides, and `reach`. Must not live here: drills.

`TWOPHASE_CRASH=name:n` arms one point: the n-th time it is reached (the first, without a number) the process dies by
SIGKILL, with whatever it had not written. There is a point on each side of every action that is durable or visible to
others, so that between two neighbours nothing happens that matters. Unarmed, a point costs a comparison.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Final

VARIABLE: Final = "TWOPHASE_CRASH"


class CrashPoint(Enum):
    """Where a process can be killed. The value is the point's name; its first part says which process it is in."""

    COORDINATOR_BEFORE_EPOCH = "coordinator.before-epoch"
    COORDINATOR_AFTER_EPOCH = "coordinator.after-epoch"
    COORDINATOR_BEFORE_REGISTER = "coordinator.before-register"
    COORDINATOR_AFTER_REGISTER = "coordinator.after-register"
    COORDINATOR_BEFORE_PREPARE = "coordinator.before-prepare"
    COORDINATOR_AFTER_VOTE = "coordinator.after-vote"
    COORDINATOR_BEFORE_DECIDE = "coordinator.before-decide"
    COORDINATOR_BEFORE_WRITE = "coordinator.before-write"
    COORDINATOR_AFTER_WRITE = "coordinator.after-write"
    COORDINATOR_AFTER_DECIDE = "coordinator.after-decide"
    COORDINATOR_BEFORE_APPLY = "coordinator.before-apply"
    COORDINATOR_AFTER_APPLY = "coordinator.after-apply"
    COORDINATOR_BEFORE_SETTLE = "coordinator.before-settle"
    COORDINATOR_AFTER_SETTLE = "coordinator.after-settle"
    COORDINATOR_BEFORE_COMMIT = "coordinator.before-commit"
    COORDINATOR_AFTER_COMMIT = "coordinator.after-commit"
    COORDINATOR_BEFORE_ABORT = "coordinator.before-abort"
    COORDINATOR_AFTER_ABORT = "coordinator.after-abort"
    COORDINATOR_BEFORE_END = "coordinator.before-end"
    COORDINATOR_AFTER_END = "coordinator.after-end"
    COORDINATOR_BEFORE_PRUNE = "coordinator.before-prune"
    COORDINATOR_AFTER_PRUNE = "coordinator.after-prune"
    COORDINATOR_BEFORE_REPLY = "coordinator.before-reply"
    SAGA_BEFORE_START = "saga.before-start"
    SAGA_AFTER_START = "saga.after-start"
    SAGA_BEFORE_STEP = "saga.before-step"
    SAGA_AFTER_STEP = "saga.after-step"
    SAGA_BEFORE_ASK = "saga.before-ask"
    SAGA_AFTER_ASK = "saga.after-ask"
    SAGA_BEFORE_TURN = "saga.before-turn"
    SAGA_AFTER_TURN = "saga.after-turn"
    SAGA_BEFORE_COMPENSATE = "saga.before-compensate"
    SAGA_AFTER_COMPENSATE = "saga.after-compensate"
    SAGA_BEFORE_RESOLVE = "saga.before-resolve"
    SAGA_AFTER_RESOLVE = "saga.after-resolve"
    SAGA_BEFORE_END = "saga.before-end"
    SAGA_AFTER_END = "saga.after-end"
    RECOVERY_BEFORE_TAKE_UP = "recovery.before-take-up"
    RECOVERY_AFTER_TAKE_UP = "recovery.after-take-up"
    RECOVERY_BEFORE_PRESUME = "recovery.before-presume"
    RECOVERY_AFTER_PRESUME = "recovery.after-presume"
    RECOVERY_BEFORE_SWEEP = "recovery.before-sweep"
    RECOVERY_AFTER_SWEEP = "recovery.after-sweep"
    RECOVERY_BEFORE_SUSPECT = "recovery.before-suspect"
    RECOVERY_AFTER_SUSPECT = "recovery.after-suspect"
    RECOVERY_BEFORE_EVIDENCE = "recovery.before-evidence"
    RECOVERY_AFTER_EVIDENCE = "recovery.after-evidence"
    RECOVERY_BEFORE_LIFT = "recovery.before-lift"
    RECOVERY_AFTER_LIFT = "recovery.after-lift"
    PARTICIPANT_BEFORE_WORK = "participant.before-work"
    PARTICIPANT_AFTER_WORK = "participant.after-work"
    PARTICIPANT_AFTER_PREPARE = "participant.after-prepare"
    PARTICIPANT_BEFORE_VOTE = "participant.before-vote"
    PARTICIPANT_AFTER_LOCAL_COMMIT = "participant.after-local-commit"
    PARTICIPANT_BEFORE_REFUSAL = "participant.before-refusal"
    PARTICIPANT_AFTER_REFUSAL = "participant.after-refusal"
    PARTICIPANT_BEFORE_COMMIT_PREPARED = "participant.before-commit-prepared"
    PARTICIPANT_AFTER_COMMIT_PREPARED = "participant.after-commit-prepared"
    PARTICIPANT_BEFORE_ROLLBACK_PREPARED = "participant.before-rollback-prepared"
    PARTICIPANT_AFTER_ROLLBACK_PREPARED = "participant.after-rollback-prepared"
    PARTICIPANT_BEFORE_TOMBSTONE = "participant.before-tombstone"
    PARTICIPANT_AFTER_TOMBSTONE = "participant.after-tombstone"
    PARTICIPANT_BEFORE_CLAIM = "participant.before-claim"
    PARTICIPANT_AFTER_CLAIM = "participant.after-claim"
    PARTICIPANT_BEFORE_COMPENSATION = "participant.before-compensation"
    PARTICIPANT_AFTER_COMPENSATION = "participant.after-compensation"
    PARTICIPANT_BEFORE_REMEMBER = "participant.before-remember"
    PARTICIPANT_AFTER_REMEMBER = "participant.after-remember"
    PARTICIPANT_BEFORE_PRUNE = "participant.before-prune"
    PARTICIPANT_AFTER_PRUNE = "participant.after-prune"


class UnknownCrashPoint(ValueError):
    """The variable names no point, or no number of times. The message says what it may be."""


class _Armed:
    """One point, and how often it is still to be passed. Reached from any thread."""

    def __init__(self, point: CrashPoint, times: int) -> None:
        self.point = point
        self._last = times
        self._reached: Iterator[int] = itertools.count(1)
        self._lock = threading.Lock()

    def reach(self) -> None:
        """Dies at the last time."""
        with self._lock:
            if next(self._reached) == self._last:
                os.write(
                    2, f"crash point {self.point.value} reached, time {self._last}: killing this process\n".encode()
                )
                os.kill(os.getpid(), signal.SIGKILL)


_armed: _Armed | None = None


def arm(environment: Mapping[str, str] = os.environ) -> None:
    """Arms the point the environment names, if it names one. Called once when a process starts to serve.

    Raises `UnknownCrashPoint`.
    """
    global _armed  # noqa: PLW0603 - one switch for the whole process is what it is
    text = environment.get(VARIABLE, "")
    _armed = _parse(text) if text else None


def reach(point: CrashPoint) -> None:
    """Says that the process is at this point. Does not return if it is the armed one, at its time."""
    if _armed is not None and _armed.point is point:
        _armed.reach()


def _parse(text: str) -> _Armed:
    name, _, times = text.partition(":")
    try:
        point = CrashPoint(name)
    except ValueError:
        known = ", ".join(each.value for each in CrashPoint)
        raise UnknownCrashPoint(f"{VARIABLE} is {text!r}, which names no crash point; use one of {known}") from None
    if times and (not times.isascii() or not times.isdigit() or int(times) < 1):
        raise UnknownCrashPoint(f"{VARIABLE} is {text!r}; behind the colon goes a number from 1")
    return _Armed(point, int(times) if times else 1)
