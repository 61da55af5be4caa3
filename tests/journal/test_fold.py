"""The fold, the codec and the rules: the pure half of the journal."""

from __future__ import annotations

import json

import pytest

from journal.samples import BRANCHES, PAYMENT, STOCK, request
from twophase.contract.names import Epoch, Txid
from twophase.coordinator.journal.codec import decode, encode
from twophase.coordinator.journal.events import Begun, Decided, Ended, Event, Finished, Reason, Voted
from twophase.coordinator.journal.fold import fold
from twophase.coordinator.journal.port import (
    Basis,
    BelowHorizon,
    EpochFenced,
    JournalUnusable,
    NotTheOwner,
    Proposal,
    Ruling,
)
from twophase.coordinator.journal.rules import EpochView, Situation, Standing, judge
from twophase.coordinator.protocol.decisions import ABORT, COMMIT, Decision, Ending, Vote, delegated

T = Txid(Epoch(3, "00c0ffee"), 12)
OTHER = Txid(Epoch(3, "00c0ffee"), 13)
REASON = Reason(
    "BUSINESS",
    "OUT_OF_STOCK",
    'none left of "Käse" \ud800 \x00',
    retryable=False,
    participant="stock",
    operation="reserve",
)
REQUEST = request("order/1", attempt=2)
EVENTS: list[Event] = [
    Begun(T, REQUEST, BRANCHES),
    Begun(T, None, ()),
    Voted(T, 1, Vote.READ_ONLY),
    Decided(T, COMMIT, REQUEST, BRANCHES),
    Decided(T, ABORT, None, (STOCK,), (REASON,)),
    Decided(T, delegated(0), REQUEST, (STOCK,)),
    Finished(T, 0, Ending.LOST),
    Ended(T, committed=True),
    Ended(T, committed=False, reasons=(REASON,)),
]


def test_the_fold_of_a_whole_transaction() -> None:
    record = fold(
        [
            Begun(T, REQUEST, BRANCHES),
            Voted(T, 0, Vote.YES),
            Voted(T, 1, Vote.READ_ONLY),
            Decided(T, COMMIT, REQUEST, (STOCK,)),
            Finished(T, 0, Ending.APPLIED),
            Ended(T, committed=True),
        ]
    )
    assert (record.txid, record.request, record.decision) == (T, REQUEST, COMMIT)
    assert (record.branches, record.hearers) == (BRANCHES, frozenset({0}))
    assert record.votes == {0: Vote.YES, 1: Vote.READ_ONLY}
    assert record.endings == {0: Ending.APPLIED}
    assert (record.committed, record.ended) == (True, True)


def test_a_lost_beginning_costs_nothing_that_recovery_needs() -> None:
    record = fold([Decided(T, ABORT, REQUEST, BRANCHES, (REASON,))])
    assert (record.request, record.branches, record.hearers) == (REQUEST, BRANCHES, frozenset({0, 1}))
    assert record.reasons == (REASON,)


def test_a_late_beginning_does_not_change_who_must_hear() -> None:
    record = fold([Decided(T, COMMIT, None, (PAYMENT,)), Begun(T, REQUEST, BRANCHES)])
    assert (record.request, record.branches, record.hearers) == (REQUEST, BRANCHES, frozenset({1}))


def test_why_a_delegate_did_not_apply_is_said_by_the_end_and_no_other_end_takes_reasons_away() -> None:
    refused: list[Event] = [Decided(T, delegated(0), REQUEST, (STOCK,)), Ended(T, committed=False, reasons=(REASON,))]
    aborted: list[Event] = [Decided(T, ABORT, REQUEST, (STOCK,), (REASON,)), Ended(T, committed=False)]
    assert fold(refused).reasons == fold(aborted).reasons == (REASON,)


@pytest.mark.parametrize(
    ("events", "committed"),
    [
        ([Begun(T, None, BRANCHES)], None),
        ([Begun(T, None, BRANCHES), Ended(T, committed=False)], False),
        ([Decided(T, COMMIT, None, BRANCHES)], True),
        ([Decided(T, COMMIT, None, BRANCHES), Finished(T, 0, Ending.LOST), Ended(T, committed=False)], True),
        ([Decided(T, ABORT, None, BRANCHES)], False),
        ([Decided(T, ABORT, None, BRANCHES), Ended(T, committed=True)], False),
        ([Decided(T, delegated(1), None, BRANCHES)], None),
        ([Decided(T, delegated(1), None, BRANCHES), Finished(T, 0, Ending.ABORTED)], None),
        ([Decided(T, delegated(1), None, BRANCHES), Finished(T, 1, Ending.LOST)], None),
        ([Decided(T, delegated(1), None, BRANCHES), Finished(T, 1, Ending.APPLIED)], True),
        ([Decided(T, delegated(1), None, BRANCHES), Finished(T, 1, Ending.ABORTED)], False),
        ([Decided(T, delegated(1), None, BRANCHES), Finished(T, 1, Ending.REFUSED)], False),
        ([Decided(T, delegated(1), None, BRANCHES), Ended(T, committed=True)], True),
        ([Decided(T, delegated(1), None, BRANCHES), Ended(T, committed=False)], False),
    ],
)
def test_r12_only_the_delegate_or_the_end_tells_a_delegation_s_outcome(
    events: list[Event],
    committed: bool | None,  # noqa: FBT001 - a parameter of the test
) -> None:
    assert fold(events).committed is committed


def test_the_fold_refuses_nothing_and_a_mixture() -> None:
    with pytest.raises(ValueError, match="without events"):
        fold([])
    with pytest.raises(ValueError, match="one transaction at a time"):
        fold([Ended(T, committed=True), Ended(OTHER, committed=True)])


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_events_survive_their_written_form(event: Event) -> None:
    kind, text = encode(event)
    assert text.isascii()
    assert decode(T, kind, text) == event


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_unknown_fields_are_ignored(event: Event) -> None:
    kind, text = encode(event)
    body = json.loads(text) | {"added_later": {"x": 1}}
    for inner in (body.get("request"), *body.get("branches", ()), *body.get("reasons", ())):
        if inner is not None:
            inner["added_later"] = True
    assert decode(T, kind, json.dumps(body)) == event


@pytest.mark.parametrize(
    ("kind", "text"),
    [("blessed", "{}"), ("voted", "{}"), ("voted", '{"branch":0,"vote":"maybe"}'), ("ended", "no"), ("begun", "[]")],
)
def test_what_cannot_be_read_is_named(kind: str, text: str) -> None:
    with pytest.raises(JournalUnusable, match=f"event '{kind}' of transaction {T}"):
        decode(T, kind, text)


OPEN, FENCED, STRANGE = (EpochView(standing) for standing in (Standing.OPEN, Standing.FENCED, Standing.STRANGE))
MINE = Epoch(4, "0000aaaa")


def ask(
    decision: Decision,
    *,
    epoch: Epoch = T.epoch,
    existing: Decision | None = None,
    proposer: EpochView = OPEN,
    owner: EpochView = OPEN,
    holder: Txid | None = None,
) -> Ruling:
    proposal = Proposal(T, decision, epoch, REQUEST, BRANCHES)
    return judge(proposal, Situation(existing, proposer, owner, holder))


@pytest.mark.parametrize("proposed", [COMMIT, ABORT, delegated(0)], ids=str)
@pytest.mark.parametrize("existing", [COMMIT, ABORT, delegated(1)], ids=str)
@pytest.mark.parametrize("view", [OPEN, FENCED, STRANGE, EpochView(Standing.OPEN, 99)])
def test_r5_the_first_decision_wins_whoever_asks(proposed: Decision, existing: Decision, view: EpochView) -> None:
    ruling = ask(proposed, existing=existing, proposer=view, owner=view, holder=OTHER)
    assert ruling == Ruling(existing, Basis.EARLIER)


@pytest.mark.parametrize("proposed", [COMMIT, ABORT, delegated(0)], ids=str)
@pytest.mark.parametrize("view", [FENCED, STRANGE])
def test_r5_a_fenced_or_strange_epoch_decides_nothing(proposed: Decision, view: EpochView) -> None:
    with pytest.raises(EpochFenced, match="stop this"):
        ask(proposed, proposer=view, owner=view)


@pytest.mark.parametrize("proposed", [COMMIT, delegated(0)], ids=str)
@pytest.mark.parametrize("owner", [OPEN, FENCED, STRANGE])
def test_r5_only_the_owner_commits(proposed: Decision, owner: EpochView) -> None:
    with pytest.raises(NotTheOwner, match="may only abort"):
        ask(proposed, epoch=MINE, owner=owner)


@pytest.mark.parametrize("owner", [OPEN, STRANGE])
def test_r5_another_s_transaction_is_aborted_only_once_it_is_fenced(owner: EpochView) -> None:
    with pytest.raises(NotTheOwner, match="fence it"):
        ask(ABORT, epoch=MINE, owner=owner)
    assert ask(ABORT, epoch=MINE, owner=FENCED) == Ruling(ABORT, Basis.ACCEPTED)


@pytest.mark.parametrize("epoch", [T.epoch, MINE])
def test_r5_below_the_horizon_a_missing_record_means_unknown(epoch: Epoch) -> None:
    standing = Standing.OPEN if epoch == T.epoch else Standing.FENCED
    with pytest.raises(BelowHorizon, match="proves nothing"):
        ask(ABORT, epoch=epoch, owner=EpochView(standing, T.sequence + 1))
    assert ask(ABORT, epoch=epoch, owner=EpochView(standing, T.sequence)).basis is Basis.ACCEPTED


def test_r6_a_claimed_request_aborts_the_second_commit() -> None:
    for decision in (COMMIT, delegated(1)):
        assert ask(decision, holder=OTHER) == Ruling(ABORT, Basis.CLAIMED, OTHER)
        assert ask(decision) == Ruling(decision, Basis.ACCEPTED)
    assert ask(ABORT, holder=OTHER) == Ruling(ABORT, Basis.ACCEPTED)
