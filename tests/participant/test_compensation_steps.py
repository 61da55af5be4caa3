"""The claim before a compensation, under answers that a Postgres hardly ever gives: none is taken for an outcome."""

from __future__ import annotations

from typing import Any, Final, TypeVar

import psycopg
import pytest

from fixtures.second_phase import gid_of
from twophase.participant import ledger
from twophase.participant.compensate import claim
from twophase.participant.exchanges import Exchange, Reply, Steps
from twophase.participant.outcomes import Applied, OutcomeUnknown, Retry, StillRunning, Tombstoned, ToUndo
from twophase.participant.refusals import ConnectionGone
from twophase.v1 import types_pb2

_T = TypeVar("_T")

GID = gid_of()
RESULT = types_pb2.Payload(json="1")
TAKEN = psycopg.errors.UniqueViolation()
ROLLED_BACK: Final = (Reply("ROLLBACK"),)
NO_ROW: Final = (Reply("SELECT 0"),)


@pytest.fixture(autouse=True)
def recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors made here have no table in them."""
    monkeypatch.setattr(ledger, "is_taken", lambda error: error is TAKEN)
    monkeypatch.setattr(ledger, "is_below_horizon", lambda _: False)


def row(kind: str = "work", outcome: str = "applied") -> tuple[Any, ...]:
    refusal = b"" if outcome == "refused" else None
    decision = "delegated" if outcome == "tombstone" else None
    return (str(GID), kind, outcome, decision, [RESULT.SerializeToString()], refusal, b"", 1)


def found(*found: tuple[Any, ...]) -> tuple[Reply, ...]:
    return (Reply(f"SELECT {len(found)}", found),)


def barred(tag: str = "COMMIT", *, unreplicated: bool = False) -> tuple[Reply, ...]:
    return Reply("BEGIN"), Reply("SET"), Reply("INSERT 0 1"), Reply(tag, unreplicated=unreplicated)


def play(steps: Steps[_T], *answers: tuple[Reply, ...] | Exception) -> _T:
    script = iter(answers)
    try:
        assert isinstance(next(steps), Exchange)
        while True:
            answer = next(script)
            steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
    except StopIteration as stop:
        assert not list(script)
        value: _T = stop.value
        return value


@pytest.mark.parametrize(
    ("there", "answer"),
    [
        ((row(),), ToUndo((RESULT,))),
        ((row(outcome="refused"),), Tombstoned()),
        ((row(outcome="tombstone"),), Tombstoned()),
        ((row("compensation"), row()), Applied((RESULT,))),
        ((row(), row("compensation")), Applied((RESULT,))),
        # Its work was pruned before it.
        ((row("compensation"),), Applied((RESULT,))),
    ],
)
def test_what_is_there_answers_and_nothing_is_written(there: tuple[Any, ...], answer: object) -> None:
    assert play(claim(GID), found(*there)) == answer


@pytest.mark.parametrize("there", [(row(), row("compensation", "tombstone")), (row("compensation", "tombstone"),)])
def test_a_barred_compensation_was_not_done(there: tuple[Any, ...]) -> None:
    answer = play(claim(GID), found(*there))
    assert isinstance(answer, Retry)
    assert answer.refusal.kind == types_pb2.REFUSAL_KIND_ABORTED


def test_nothing_there_is_concluded_only_from_a_committed_tombstone() -> None:
    assert play(claim(GID), NO_ROW, barred()) == Tombstoned()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (barred("ROLLBACK"), "the tombstone of .* was not committed: ROLLBACK"),
        (barred(unreplicated=True), "barred on this server, but the wait for its synchronous standby was cut short"),
        (ConnectionGone(), "lost while .* was being barred; ask again"),
    ],
    ids=["rolled back", "unreplicated", "lost"],
)
def test_a_tombstone_that_may_not_last_is_no_answer(answer: tuple[Reply, ...] | Exception, told: str) -> None:
    with pytest.raises(OutcomeUnknown, match=told):
        play(claim(GID), NO_ROW, answer)


def test_a_disk_that_is_full_is_no_answer() -> None:
    with pytest.raises(OutcomeUnknown, match="could not be barred"):
        play(claim(GID), NO_ROW, psycopg.errors.DiskFull(), ROLLED_BACK)


def test_a_key_that_somebody_holds_is_no_answer() -> None:
    with pytest.raises(StillRunning):
        play(claim(GID), NO_ROW, psycopg.errors.LockNotAvailable(), ROLLED_BACK)


@pytest.mark.parametrize(
    ("outcome", "answer"), [("applied", ToUndo((RESULT,))), ("refused", Tombstoned()), ("tombstone", Tombstoned())]
)
def test_a_key_that_is_taken_meanwhile_is_looked_at_again(outcome: str, answer: object) -> None:
    assert play(claim(GID), NO_ROW, TAKEN, ROLLED_BACK, found(row(outcome=outcome))) == answer


def test_a_row_that_is_pruned_between_two_looks_starts_the_claim_again_and_in_the_end_gives_up() -> None:
    vanished = (NO_ROW, TAKEN, ROLLED_BACK, NO_ROW)
    assert play(claim(GID), *vanished, NO_ROW, barred()) == Tombstoned()
    with pytest.raises(OutcomeUnknown, match="came and went while it was being compensated"):
        play(claim(GID), *vanished, *vanished, *vanished)
