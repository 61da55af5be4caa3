"""The steps of the second phase under answers that a Postgres hardly ever gives: none is taken for an outcome."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import psycopg
import pytest

from fixtures.second_phase import EPOCH, JOURNAL, WORK, gid_of
from twophase.participant import finish, ledger
from twophase.participant.exchanges import Exchange, Reply, Steps
from twophase.participant.outcomes import Committed, OutcomeUnknown, Tombstoned
from twophase.participant.refusals import ConnectionGone
from twophase.v1 import participant_pb2, types_pb2

_T = TypeVar("_T")

ABORT = types_pb2.DECISION_ABORT
GID = gid_of()
ABSENT = psycopg.errors.UndefinedObject()
TAKEN = psycopg.errors.UniqueViolation()
GONE = ConnectionGone()
FULL = psycopg.errors.DiskFull()
NO_ROW: Final[tuple[Any, ...]] = (Reply("SELECT 0"),)
ROW: Final[tuple[Any, ...]] = (str(GID), "work", "applied", None, [], None, b"", 1)


@pytest.fixture(autouse=True)
def recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors made here have no table in them."""
    monkeypatch.setattr(ledger, "is_taken", lambda error: error is TAKEN)
    monkeypatch.setattr(ledger, "is_below_horizon", lambda _: False)


def play(steps: Steps[_T], *answers: tuple[Reply, ...] | Exception) -> tuple[_T, list[str]]:
    """Gives the answers in turn; returns how it ended, and the last statement of each exchange."""
    asked: list[str] = []
    script = iter(answers)

    def note(command: Any) -> None:
        assert isinstance(command, Exchange)
        asked.append(command.statements[-1].query.decode().split("'")[0].strip())

    try:
        note(next(steps))
        while True:
            answer = next(script)
            note(steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer))
    except StopIteration as stop:
        assert not list(script)
        value: _T = stop.value
        return value, asked


def barred(tag: str = "COMMIT") -> tuple[Reply, ...]:
    return Reply("BEGIN"), Reply("SET"), Reply("INSERT 0 1"), Reply(tag)


def test_a_row_that_is_pruned_between_two_looks_starts_the_abort_again() -> None:
    ended, asked = play(finish.abort(GID, WORK, ABORT), ABSENT, TAKEN, (Reply("ROLLBACK"),), NO_ROW, ABSENT, barred())
    assert isinstance(ended, Tombstoned)
    assert [each for each in asked if "PREPARED" in each] == ["ROLLBACK PREPARED"] * 2


def test_a_row_that_is_pruned_between_two_looks_starts_the_commit_again() -> None:
    vanished = (ABSENT, NO_ROW, TAKEN, (Reply("ROLLBACK"),), NO_ROW)
    ended, asked = play(finish.commit(GID), *vanished, (Reply("COMMIT PREPARED"),))
    assert isinstance(ended, Committed)
    assert [each for each in asked if "PREPARED" in each] == ["COMMIT PREPARED"] * 2


def test_a_row_that_comes_between_two_looks_answers() -> None:
    found = (Reply("SELECT 1", (ROW,)),)
    ended, _ = play(finish.commit(GID), ABSENT, NO_ROW, TAKEN, (Reply("ROLLBACK"),), found)
    assert isinstance(ended, Committed)
    assert ledger.entry_of(ROW).outcome == participant_pb2.LEDGER_OUTCOME_APPLIED


def test_r8_a_row_that_comes_and_goes_is_given_up_without_an_outcome() -> None:
    during_abort = (ABSENT, TAKEN, (Reply("ROLLBACK"),), NO_ROW)
    with pytest.raises(OutcomeUnknown, match="came and went while it was being aborted; ask again"):
        play(finish.abort(GID, WORK, ABORT), *during_abort * 3)
    during_commit = (ABSENT, NO_ROW, TAKEN, (Reply("ROLLBACK"),), NO_ROW)
    with pytest.raises(OutcomeUnknown, match="came and went while it was being committed; ask again"):
        play(finish.commit(GID), *during_commit * 3)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ((GONE,), "lost during ROLLBACK PREPARED"),
        ((FULL,), "ROLLBACK PREPARED of .* failed: 53100"),
        (((Reply("ROLLBACK"),),), "was answered 'ROLLBACK'"),
        (((Reply(""),),), "was answered ''"),
        ((ABSENT, GONE), "lost while .* was being barred"),
        ((ABSENT, FULL, (Reply("ROLLBACK"),)), "could not be barred: 53100"),
        ((ABSENT, FULL, GONE), "was lost"),
        ((ABSENT, barred("ROLLBACK")), "was not committed: ROLLBACK"),
        ((ABSENT, TAKEN, (Reply("ROLLBACK"),), GONE), "was lost"),
        ((ABSENT, TAKEN, (Reply("ROLLBACK"),), FULL), "refused: 53100"),
    ],
)
def test_r11_an_abort_concludes_nothing_from_a_failure(answers: tuple[Any, ...], said: str) -> None:
    with pytest.raises(OutcomeUnknown, match=f"{said}.*ask again"):
        play(finish.abort(GID, WORK, ABORT), *answers)


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ((GONE,), "lost during COMMIT PREPARED"),
        ((FULL,), "COMMIT PREPARED of .* failed: 53100"),
        (((Reply("ROLLBACK PREPARED"),),), "was answered 'ROLLBACK PREPARED'"),
        ((ABSENT, GONE), "was lost"),
        ((ABSENT, NO_ROW, barred("ROLLBACK")), "was not committed: ROLLBACK"),
    ],
)
def test_r11_a_commit_concludes_nothing_from_a_failure(answers: tuple[Any, ...], said: str) -> None:
    with pytest.raises(OutcomeUnknown, match=f"{said}.*ask again"):
        play(finish.commit(GID), *answers)


def test_a_handshake_that_was_not_committed_is_asked_again() -> None:
    known = (Reply("BEGIN"), Reply("SET"), Reply("SELECT 1"), Reply("INSERT 0 0"))
    read = (Reply("SELECT 1", ((3, "aabbccdd", 0),)), Reply("SELECT 1", ((0,),)))
    with pytest.raises(OutcomeUnknown, match="was not committed: ROLLBACK"):
        play(finish.remember(JOURNAL, EPOCH, {}), known + read, (Reply("UPDATE 0"), Reply("ROLLBACK")))
