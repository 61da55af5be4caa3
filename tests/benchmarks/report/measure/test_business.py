"""The deeds of a load: the same from the same seed, and as the mix wants them."""

from __future__ import annotations

import pytest

from twophase.benchmarks.report.measure.bank import FAR, LEFT, MARKED, RIGHT
from twophase.benchmarks.report.measure.business import (
    Mix,
    Transfer,
    Workload,
    branches_of,
    deed_of,
    name_of,
    operations_of,
    participants_of,
)
from twophase.sandbox.checkout.orders import Order


def deeds(mix: Mix, run: str = "r1", number: int = 300) -> list[Transfer | Order]:
    return [deed_of(mix, "seed", f"{run}/{each}") for each in range(number)]


@pytest.mark.parametrize("workload", Workload)
def test_every_contender_gets_the_same_deeds(workload: Workload) -> None:
    mix = Mix(workload, accounts=500, hot_rows=5, hot_share=0.5, far_share=0.3, refused_share=0.2, participants=6)

    def told(run: str) -> list[str]:
        return [str(deed).replace(f"{run}/", "") for deed in deeds(mix, run)]

    assert told("r1") == told("r2")
    assert len(set(told("r1"))) > 200


@pytest.mark.parametrize("workload", Workload)
def test_a_deed_needs_whom_its_mix_may_need_and_by_hand_the_same_ones(workload: Workload) -> None:
    mix = Mix(workload, hot_rows=5, participants=6)
    for deed in deeds(mix, number=20):
        by_hand = [branch.participant for branch in branches_of(deed)]
        assert set(by_hand) <= set(participants_of(mix))
        assert len(operations_of(deed)) == len(by_hand)
        assert name_of(deed).startswith("r1/")


def test_transfers_meant_to_be_refused_take_from_the_marked_account_at_the_second_bank() -> None:
    found = [deed for deed in deeds(Mix(Workload.UNIFORM, refused_share=0.25)) if isinstance(deed, Transfer)]
    doomed = [deed for deed in found if deed.doomed]
    assert 40 < len(doomed) < 110
    for deed in doomed:
        (first, given), (second, taken) = deed.movements
        assert (first, second, taken.account) == (LEFT, RIGHT, MARKED)
        assert given.amount == -taken.amount > 0


def test_money_is_conserved_by_every_transfer() -> None:
    for workload in (Workload.UNIFORM, Workload.ZIPF, Workload.HOT, Workload.FAN_OUT):
        for deed in deeds(Mix(workload, hot_rows=3, participants=7), number=50):
            assert isinstance(deed, Transfer)
            assert sum(movement.amount for _, movement in deed.movements) == 0


def test_hot_and_cold_rows_are_apart() -> None:
    mix = Mix(Workload.HOT, accounts=100, hot_rows=4, hot_share=0.5, far_share=0.5)
    found = [deed for deed in deeds(mix) if isinstance(deed, Transfer)]
    assert {deed.hot for deed in found} == {True, False}
    assert {deed.banks[1] for deed in found} == {RIGHT, FAR}
    for deed in found:
        for _, movement in deed.movements:
            assert (movement.account <= 4) is deed.hot
            assert 1 <= movement.account <= 100


def test_the_rows_of_merchants_are_hot_at_one_bank_only() -> None:
    found = [deed for deed in deeds(Mix(Workload.MERCHANTS, accounts=100, hot_rows=4)) if isinstance(deed, Transfer)]
    for deed in found:
        (_, merchants), (_, customers) = deed.movements
        assert merchants.account <= 4 < customers.account <= 100
