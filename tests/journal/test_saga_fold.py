"""Sagas in the pure half of the journal: the fold, the codec and the rules."""

from __future__ import annotations

import json

import pytest

from journal.samples import BRANCHES, request
from twophase.contract.names import Epoch, Txid
from twophase.coordinator.journal.codec import decode, encode
from twophase.coordinator.journal.events import (
    Compensated,
    DeadLettered,
    Decided,
    Definition,
    Ended,
    Event,
    Finished,
    Reason,
    Resolved,
    SagaStep,
    Turned,
)
from twophase.coordinator.journal.fold import fold
from twophase.coordinator.journal.port import EpochFenced, JournalUnusable, NotTheOwner
from twophase.coordinator.journal.rules import (
    EpochView,
    Situation,
    Standing,
    claims_request,
    judge_turn,
    needs_force,
    releases_request,
)
from twophase.coordinator.protocol.decisions import ABORT, COMMIT, SAGA, Decision, Ending, delegated

T = Txid(Epoch(3, "00c0ffee"), 12)
MINE = Epoch(4, "0000aaaa")
AWAY = Reason("UNAVAILABLE", "AWAY", "nobody there \ud800 \x00", retryable=True, participant="stock")
FIRST = SagaStep("reserve-2", "stock", "reserve", bytes(range(256)), after=(), pivot=False)
PIVOT = SagaStep("pay", "payment", "charge", b"", after=(0,), pivot=True)
LAST = SagaStep("send", "stock", "ship", b"x", after=(0, 1), pivot=False)
WITH_PIVOT = Definition((FIRST, PIVOT, LAST), deadline=30_000)
WITHOUT = Definition((FIRST,), deadline=1)
START = Decided(T, SAGA, request("order"), BRANCHES, definition=WITH_PIVOT)
OTHER_START = Decided(T, SAGA, None, BRANCHES, definition=WITHOUT)
EVENTS: list[Event] = [
    START,
    Decided(T, ABORT, request("order"), (), (AWAY,), WITHOUT),
    Turned(T),
    Turned(T, (AWAY, AWAY)),
    Compensated(T, 2, empty=True),
    Compensated(T, 0, empty=False),
    DeadLettered(T, 1, 5, AWAY),
    Resolved(T, 1, "ada", "paid back by hand, ticket \xe9"),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_events_of_sagas_survive_their_written_form(event: Event) -> None:
    kind, text = encode(event)
    assert text.isascii()
    assert decode(T, kind, text) == event


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_unknown_fields_are_ignored(event: Event) -> None:
    kind, text = encode(event)
    body = json.loads(text) | {"added_later": {"x": 1}}
    whole = body.get("saga", {"steps": []})
    for inner in (whole, *whole["steps"], body.get("reason") if isinstance(body.get("reason"), dict) else None):
        if inner is not None:
            inner["added_later"] = True
    assert decode(T, kind, json.dumps(body)) == event


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("compensated", "{}"),
        ("dead-lettered", '{"branch":1,"attempts":5}'),
        ("resolved", '{"branch":1}'),
        ("decided", '{"decision":"saga","branches":[],"saga":{"steps":[{}],"deadline":1}}'),
        ("decided", '{"decision":"saga","branches":[],"saga":{"steps":[]}}'),
        ("turned", "[]"),
    ],
)
def test_what_cannot_be_read_is_named(kind: str, text: str) -> None:
    with pytest.raises(JournalUnusable, match=f"event '{kind}' of transaction {T}"):
        decode(T, kind, text)


def test_a_payload_that_is_not_base64_is_not_guessed() -> None:
    kind, text = encode(OTHER_START)
    body = json.loads(text)
    body["saga"]["steps"][0]["payload"] = "%%%"
    with pytest.raises(JournalUnusable):
        decode(T, kind, json.dumps(body))


def test_the_fold_of_a_saga_that_is_done() -> None:
    record = fold([START, *(Finished(T, number, Ending.APPLIED) for number in range(3)), Ended(T, committed=True)])
    assert (record.definition, record.decision, record.turned) == (WITH_PIVOT, SAGA, False)
    assert record.endings == dict.fromkeys(range(3), Ending.APPLIED)
    assert (record.committed, record.ended) == (True, True)


def test_the_fold_of_a_saga_that_is_undone() -> None:
    record = fold(
        [
            START,
            Finished(T, 0, Ending.APPLIED),
            Finished(T, 1, Ending.REFUSED),
            Turned(T, (AWAY,)),
            Compensated(T, 2, empty=True),
            Compensated(T, 0, empty=False),
            Ended(T, committed=False),
        ]
    )
    assert (record.turned, record.reasons) == (True, (AWAY,))
    assert record.compensated == {2: True, 0: False}
    assert record.endings == {0: Ending.APPLIED, 1: Ending.REFUSED}
    assert (record.committed, record.ended) == (False, True)


@pytest.mark.parametrize(
    ("events", "committed"),
    [
        ([START], None),
        ([START, Finished(T, 0, Ending.APPLIED)], None),
        ([START, Finished(T, 1, Ending.APPLIED)], True),
        ([START, Finished(T, 1, Ending.REFUSED)], None),
        ([START, Finished(T, 1, Ending.REFUSED), Turned(T)], False),
        ([START, Turned(T), Ended(T, committed=True)], False),
        ([OTHER_START, Finished(T, 0, Ending.APPLIED)], None),
        ([OTHER_START, Finished(T, 0, Ending.APPLIED), Ended(T, committed=True)], True),
        ([Decided(T, ABORT, None, (), definition=WITHOUT), Ended(T, committed=True)], False),
    ],
)
def test_r6_only_the_pivot_the_turn_or_the_end_tells_a_saga_s_outcome(
    events: list[Event],
    committed: bool | None,  # noqa: FBT001 - a parameter of the test
) -> None:
    assert fold(events).committed is committed


@pytest.mark.parametrize(
    "over",
    [Compensated(T, 0, empty=False), Finished(T, 0, Ending.APPLIED), Resolved(T, 0, "ada", "paid back by hand")],
    ids=lambda event: type(event).__name__,
)
def test_a_dead_letter_is_one_until_it_is_over(over: Event) -> None:
    first, again, other = (DeadLettered(T, branch, count, AWAY) for branch, count in ((0, 5), (0, 10), (1, 5)))
    assert fold([START, first, other, again]).dead == {0: again, 1: other}
    record = fold([START, first, other, again, over])
    assert record.dead == {1: other}
    assert record.resolved == ({0: over} if isinstance(over, Resolved) else {})


def test_a_dead_letter_that_a_person_took_for_done_is_none_any_more_whatever_its_last_attempt_says() -> None:
    resolved = Resolved(T, 0, "ada", "paid back by hand")
    record = fold([START, DeadLettered(T, 0, 5, AWAY), resolved, DeadLettered(T, 0, 10, AWAY)])

    assert (record.dead, record.resolved) == ({}, {0: resolved})


# --- the rules --------------------------------------------------------------------------------------------------------

OPEN, FENCED, STRANGE = (EpochView(standing) for standing in (Standing.OPEN, Standing.FENCED, Standing.STRANGE))


def ask(
    *, epoch: Epoch = T.epoch, existing: Decision | None = SAGA, proposer: EpochView = OPEN, owner: EpochView = OPEN
) -> None:
    judge_turn(Turned(T), epoch, Situation(existing, proposer, owner, None))


def test_r5_a_saga_is_turned_by_its_owner_or_by_whoever_fenced_it() -> None:
    ask()
    ask(epoch=MINE, owner=FENCED)


@pytest.mark.parametrize("proposer", [FENCED, STRANGE])
@pytest.mark.parametrize("epoch", [T.epoch, MINE])
def test_r5_a_fenced_or_strange_epoch_turns_nothing(proposer: EpochView, epoch: Epoch) -> None:
    with pytest.raises(EpochFenced, match="stop this"):
        ask(epoch=epoch, proposer=proposer, owner=FENCED)


@pytest.mark.parametrize("owner", [OPEN, STRANGE])
def test_r5_another_s_saga_is_turned_only_once_it_is_fenced(owner: EpochView) -> None:
    with pytest.raises(NotTheOwner, match="fence it"):
        ask(epoch=MINE, owner=owner)


@pytest.mark.parametrize("existing", [None, COMMIT, ABORT, delegated(0)], ids=str)
def test_only_a_saga_turns(existing: Decision | None) -> None:
    with pytest.raises(ValueError, match="it cannot turn"):
        ask(existing=existing)


def test_a_start_is_forced_claims_its_request_and_gives_it_back_only_undone() -> None:
    assert needs_force(SAGA)
    assert claims_request(SAGA)
    assert releases_request(SAGA, committed=False)
    assert not releases_request(SAGA, committed=True)
