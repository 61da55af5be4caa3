"""Recovery's verdict on prepared branches."""

from __future__ import annotations

import pytest

from twophase.coordinator.protocol.decisions import ABORT, COMMIT, Decision, delegated
from twophase.coordinator.protocol.resolution import Finding, Owner, Seen, Verdict, resolve

BRANCH = Seen("t1", 0)


def verdict(
    *,
    live: frozenset[str] = frozenset(),
    decision: Decision | None = None,
    owner: Owner = Owner.FENCED,
    after: frozenset[Seen[str]] = frozenset({BRANCH}),
) -> list[Verdict]:
    findings = resolve([BRANCH], live, lambda _: decision, lambda _: owner, after)
    return [finding.verdict for finding in findings]


@pytest.mark.parametrize("owner", list(Owner))
@pytest.mark.parametrize("decision", [None, COMMIT, ABORT, delegated(0)])
def test_a_live_transaction_is_left_alone_whatever_else_is_known(decision: Decision | None, owner: Owner) -> None:
    assert verdict(live=frozenset({"t1"}), decision=decision, owner=owner) == [Verdict.LEAVE]


@pytest.mark.parametrize("owner", list(Owner))
def test_r8_what_is_decided_is_finished_whoever_owned_it(owner: Owner) -> None:
    assert verdict(decision=COMMIT, owner=owner) == [Verdict.FINISH_COMMIT]
    assert verdict(decision=ABORT, owner=owner) == [Verdict.FINISH_ABORT]


@pytest.mark.parametrize("owner", [Owner.OURS, Owner.FENCED])
def test_what_nobody_will_decide_is_presumed_aborted(owner: Owner) -> None:
    assert verdict(owner=owner) == [Verdict.PRESUME_ABORT]


def test_r5_an_epoch_that_is_not_fenced_decides_for_itself() -> None:
    assert verdict(owner=Owner.OTHERS) == [Verdict.LEAVE]


@pytest.mark.parametrize("owner", [Owner.FORGOTTEN, Owner.STRANGE])
def test_r5_a_missing_record_below_the_horizon_is_unknown_and_not_abort(owner: Owner) -> None:
    assert verdict(owner=owner) == [Verdict.ASK]


def test_a_prepared_branch_beside_a_delegation_is_not_guessed_about() -> None:
    assert verdict(decision=delegated(1)) == [Verdict.ASK]


def test_nothing_is_concluded_from_a_branch_seen_in_one_reading_only() -> None:
    newcomer = Seen("t2", 0)
    findings = resolve([BRANCH], frozenset(), lambda _: None, lambda _: Owner.OURS, frozenset({newcomer}))
    assert findings == ()


def test_the_findings_keep_the_order_of_the_first_reading() -> None:
    first, second = Seen("t2", 1), Seen("t1", 0)
    findings = resolve([first, second], frozenset(), lambda _: ABORT, lambda _: Owner.OURS, {first, second})
    assert findings == (Finding(first, Verdict.FINISH_ABORT), Finding(second, Verdict.FINISH_ABORT))
