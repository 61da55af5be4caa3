"""Conclusions come out of the figures: each in every direction, with what flips it, and not at all without figures."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmarks.report.made_up import measurement, repeated, results, whole
from twophase.benchmarks.report.paper.compare import Strength
from twophase.benchmarks.report.paper.conclude import blocking, isolation, speed
from twophase.benchmarks.report.paper.conclude.all import (
    EITHER,
    FIRST,
    FURTHER,
    UNMEASURED,
    conclude,
    decisions,
    draws,
    losses,
)
from twophase.benchmarks.report.paper.conclude.values import Conclusion
from twophase.benchmarks.report.paper.words import level
from twophase.benchmarks.report.values import NEVER, Level, Measurement, Results, Section, Who


def near(value: float) -> Sequence[float]:
    return [value * 0.99, value, value * 1.01]


def pair(section: Section, factors: dict[str, Level], figure: str, two_phase: float, saga: float) -> list[Measurement]:
    return [
        *repeated(section, Who.TWO_PHASE, factors, **{figure: near(two_phase)}),
        *repeated(section, Who.SAGA, factors, **{figure: near(saga)}),
    ]


def of(conclusion: Conclusion | None) -> Conclusion:
    assert conclusion is not None
    return conclusion


def capacities(*, one: tuple[float, float], many: tuple[float, float]) -> Results:
    def at(clients: int, speeds: tuple[float, float]) -> list[Measurement]:
        factors: dict[str, Level] = {"workload": "transfer", "clients": clients, "refused_share": 0}
        return pair(Section.CAPACITY, factors, "throughput_per_s", *speeds)

    return results(*at(1, one), *at(16, many))


@pytest.mark.parametrize(
    ("many", "better", "says"),
    [
        ((100, 150), Who.SAGA, "a saga does 1.5 times as many a second as two-phase commit"),
        ((300, 150), Who.TWO_PHASE, "two-phase commit does 2 times as many a second as a saga"),
        ((100, 101), None, "no difference"),
    ],
)
def test_capacity_in_every_direction(many: tuple[float, float], better: Who | None, says: str) -> None:
    found = of(speed.capacity(capacities(one=(50, 50), many=many)))
    assert found.better is better
    assert says in found.text
    assert dict(found.figures)["two-phase commit"].startswith(f"{many[0]} (")
    assert "16 clients" in found.holds_when


def test_capacity_says_with_how_many_clients_it_is_otherwise() -> None:
    turned = of(speed.capacity(capacities(one=(80, 50), many=(100, 150))))
    assert turned.flips_when == "two-phase commit is ahead with transfer, 1 client, 0 % meant to be refused."
    lost = of(speed.capacity(capacities(one=(50, 50), many=(100, 150))))
    assert lost.flips_when.startswith("no difference with transfer, 1 client")
    same = of(speed.capacity(capacities(one=(50, 80), many=(100, 150))))
    assert same.flips_when == "not in the one other setting that was measured."


@pytest.mark.parametrize(("two_phase", "saga", "better"), [(80, 20, Who.SAGA), (20, 80, Who.TWO_PHASE), (20, 20, None)])
def test_latency_in_every_direction(two_phase: float, saga: float, better: Who | None) -> None:
    low = pair(Section.LATENCY, {"workload": "transfer", "offered_per_s": 25}, "p99_ms", 10, 10)
    high = pair(Section.LATENCY, {"workload": "transfer", "offered_per_s": 100}, "p99_ms", two_phase, saga)
    other = pair(Section.LATENCY, {"workload": "order", "offered_per_s": 400}, "p99_ms", 1, 2)
    found = of(speed.latency(results(*low, *high, *other)))
    assert found.better is better
    assert "With 100 offered a second" in found.text
    if better is Who.SAGA:
        assert "at most 80 ms under two-phase commit, and 20 ms under a saga" in found.text
        assert "two-phase commit is ahead with order, 400 offered a second" in found.flips_when
        assert "no difference with transfer, 25 offered a second" in found.flips_when


def contended(*levels: tuple[int, float, float]) -> Results:
    return results(
        *(
            each
            for rows, two_phase, saga in levels
            for each in pair(Section.CONTENTION, {"hot_rows": rows, "clients": 16}, "throughput_per_s", two_phase, saga)
        )
    )


def test_contention_finds_the_number_of_rows_at_which_the_saga_passes() -> None:
    found = of(speed.contention(contended((0, 400, 300), (100, 200, 100), (1, 50, 100))))
    assert found.better is Who.SAGA
    assert found.text.startswith("With one row for all, a saga does 2 times as many")
    assert "and one row for all (a saga is ahead), at about 10 shared rows" in found.flips_when


def test_contention_can_favour_two_phase_commit() -> None:
    found = of(speed.contention(contended((0, 400, 300), (1, 400, 100))))
    assert found.better is Who.TWO_PHASE
    assert found.flips_when.startswith("nowhere from no shared row to one for all: two-phase commit is ahead")


def test_contention_that_makes_no_difference_says_so() -> None:
    found = of(speed.contention(contended((0, 400, 300), (1, 100, 100))))
    assert found.better is None
    assert found.strength is Strength.NONE
    assert "no difference" in found.text
    assert "between no shared row (two-phase commit is ahead) and one row for all (no difference)" in found.flips_when


@pytest.mark.parametrize(("refused", "is_told"), [(8_400, True), (20, False)])
def test_refusals_for_conflicts_are_told_beside_the_throughput(refused: float, is_told: bool) -> None:  # noqa: FBT001
    factors: dict[str, Level] = {"hot_rows": 1, "clients": 16}
    found = results(
        *repeated(
            Section.CONTENTION, Who.TWO_PHASE, factors, throughput_per_s=near(4), refused_per_10000=near(refused)
        ),
        *repeated(Section.CONTENTION, Who.SAGA, factors, throughput_per_s=near(200), refused_per_10000=near(0)),
    )
    conclusion = of(speed.contention(found))
    assert ("Of 10,000 tries, 8,400 are refused under two-phase commit" in conclusion.text) is is_told
    assert "refused, two-phase commit" in conclusion.in_figures()


@pytest.mark.parametrize(
    ("in_turn", "says"),
    [
        (60, "a saga does 1.67 times as many."),
        (100, "it does about as many as a saga."),
        (150, "it does 1.5 times as many as a saga."),
    ],
)
def test_contention_tells_what_preparing_in_turn_brings(in_turn: float, says: str) -> None:
    factors: dict[str, Level] = {"hot_rows": 1, "clients": 16}
    found = contended((0, 400, 300), (1, 2, 100)).measurements
    queued = repeated(Section.CONTENTION, Who.IN_TURN, factors, throughput_per_s=near(in_turn))
    conclusion = of(speed.contention(results(*found, *queued)))
    assert f"one after the other (in turn) instead of all at once, {says}" in conclusion.text
    assert "one row for all, two-phase commit in turn" in conclusion.in_figures()


def crashes(waits: dict[Level, tuple[float, float]], *, harmless: float | None = None) -> Results:
    found = []
    for outage, (two_phase, saga) in waits.items():
        found += repeated(
            Section.CRASH,
            Who.TWO_PHASE,
            {"point": "before-commit", "outage_s": outage},
            victim_max_ms=near(two_phase),
            lost=near(100),
            control_p99_ms=near(3),
        )
        found += repeated(
            Section.CRASH,
            Who.SAGA,
            {"point": "after-step", "outage_s": outage},
            victim_max_ms=near(saga),
            lost=near(50),
        )
        if harmless is not None:
            factors: dict[str, Level] = {"point": "after-write", "outage_s": outage}
            found += repeated(Section.CRASH, Who.TWO_PHASE, factors, victim_max_ms=near(harmless), lost=near(100))
    return results(*found)


def test_a_dead_coordinator_makes_others_wait_under_two_phase_commit() -> None:
    found = of(blocking.waiting(crashes({0: (9, 9), 10: (10_200, 12), NEVER: (20_000, 12)}, harmless=11)))
    assert found.better is Who.SAGA
    assert "dead for 10 s" in found.text
    assert "up to 10.3 s under two-phase commit, and for up to 12.1 ms under a saga." in found.text
    assert "no difference with an outage of 0 s" in found.flips_when
    assert "Killed at after-write, two-phase commit makes nobody wait longer" in found.flips_when
    assert "two-phase commit at before-commit" in found.holds_when


def test_waits_that_last_as_long_as_the_coordinator_is_away_are_told_as_such() -> None:
    grows = of(blocking.waiting(crashes({0: (9, 9), 1: (1_010, 12), 10: (10_200, 12)})))
    assert grows.text.endswith("Under two-phase commit whoever waits without a timeout waits as long as it is away.")
    assert "as long as it is away" not in of(blocking.waiting(crashes({1: (400, 12), 10: (10_200, 12)}))).text


@pytest.mark.parametrize(
    ("point", "says"),
    [("coordinator.after-vote", "when all had prepared and nothing was decided"), ("elsewhere", "at elsewhere")],
)
def test_a_point_is_told_in_words(point: str, says: str) -> None:
    assert level("point", point) == f"killed {says}"


def test_a_dead_coordinator_that_makes_nobody_wait_is_told_as_such() -> None:
    found = of(blocking.waiting(crashes({10: (12, 12)})))
    assert found.better is None
    assert "about as long under both" in found.text


def test_a_saga_can_be_the_one_that_makes_others_wait() -> None:
    found = of(blocking.waiting(crashes({1: (12, 900)})))
    assert found.better is Who.TWO_PHASE


def test_the_worst_point_is_looked_at_not_the_mean_of_all() -> None:
    found = of(blocking.waiting(crashes({10: (10_000, 12)}, harmless=12)))
    assert "10.1 s under two-phase commit" in found.text


def test_an_outage_without_an_end_is_looked_at_only_if_there_is_no_other() -> None:
    assert "never started again" in of(blocking.waiting(crashes({NEVER: (9_000, 12)}))).text


def test_lost_transactions_are_compared() -> None:
    found = of(blocking.aftermath(crashes({10: (10_000, 12)})))
    assert found.better is Who.SAGA
    assert "cost two-phase commit 2 times as many transactions as a saga" in found.text


@pytest.mark.parametrize(("two_phase", "saga", "better"), [(2, 150, Who.TWO_PHASE), (150, 2, Who.SAGA), (5, 5, None)])
def test_what_others_see_in_every_direction(two_phase: float, saga: float, better: Who | None) -> None:
    factors: dict[str, Level] = {"workload": "transfer", "refused_share": 10}
    found = of(isolation.visible(results(*pair(Section.ISOLATION, factors, "seen_half_per_10000", two_phase, saga))))
    assert found.better is better
    assert ("no difference" in found.text) is (better is None)
    assert f"{saga:g}" in found.text


def test_what_a_saga_undoes_after_somebody_saw_it_is_told() -> None:
    saga = repeated(
        Section.ISOLATION, Who.SAGA, {"refused_share": 10}, seen_half_per_10000=near(90), undone_seen_per_10000=near(40)
    )
    two_phase = repeated(Section.ISOLATION, Who.TWO_PHASE, {"refused_share": 10}, seen_half_per_10000=near(1))
    assert (
        "40 see something that the saga undoes later (10 % of the transactions were meant to be refused)."
        in of(isolation.visible(results(*saga, *two_phase))).text
    )


@pytest.mark.parametrize(
    ("two_phase", "saga", "better"), [(400, 10, Who.SAGA), (10, 400, Who.TWO_PHASE), (10, 10, None)]
)
def test_locks_behind_a_slow_participant_in_every_direction(two_phase: float, saga: float, better: Who | None) -> None:
    found = of(blocking.slow(results(*pair(Section.SLOW, {"delay_ms": 200}, "lock_hold_p50_ms", two_phase, saga))))
    assert found.better is better
    assert ("40 times" in found.text) is (better is not None)


@pytest.mark.parametrize(
    ("two_phase", "saga", "better"), [(3_000, 10, Who.SAGA), (10, 3_000, Who.TWO_PHASE), (10, 10, None)]
)
def test_waiting_behind_a_partition_in_every_direction(two_phase: float, saga: float, better: Who | None) -> None:
    found = of(blocking.cut_off(results(*pair(Section.PARTITION, {"seconds": 3}, "victim_max_ms", two_phase, saga))))
    assert found.better is better
    assert found.flips_when == "not known: measured in one setting."


@pytest.mark.parametrize(("two_phase", "saga", "better"), [(40, 90, Who.TWO_PHASE), (90, 40, Who.SAGA), (40, 40, None)])
def test_more_participants_in_every_direction(two_phase: float, saga: float, better: Who | None) -> None:
    few = pair(Section.FAN_OUT, {"participants": 2}, "p50_ms", 10, 6)
    many = pair(Section.FAN_OUT, {"participants": 32}, "p50_ms", two_phase, saga)
    found = of(speed.fan_out(results(*few, *many)))
    assert found.better is better
    if better is Who.TWO_PHASE:
        assert "and 32 participants (two-phase commit is ahead), at about 6 participants" in found.flips_when


def test_clearing_tells_the_slowest_of_the_most_branches() -> None:
    found = results(
        measurement(Section.CLEARING, Who.TWO_PHASE, {"branches": 1, "decided": "yes"}, clear_ms=200),
        measurement(Section.CLEARING, Who.TWO_PHASE, {"branches": 1_000, "decided": "yes"}, clear_ms=900),
        measurement(Section.CLEARING, Who.TWO_PHASE, {"branches": 1_000, "decided": "no"}, clear_ms=2_500),
    )
    assert of(blocking.clearing(found)).text.startswith("1,000 branches left in doubt are gone 2.5 s after")


def test_branches_that_were_never_cleared_are_not_told_as_cleared() -> None:
    found = results(measurement(Section.CLEARING, Who.TWO_PHASE, {"branches": 10}, clear_ms=float("inf")))
    assert "were not gone in the time measured" in of(blocking.clearing(found)).text


@pytest.mark.parametrize(
    ("local", "says"), [(800, "50 % of what"), (400, "nothing that can be told"), (200, "2 times as much")]
)
def test_the_price_of_atomicity_in_every_direction(local: float, says: str) -> None:
    factors: dict[str, Level] = {"workload": "transfer", "clients": 16, "refused_share": 0}
    found = results(
        *repeated(Section.CAPACITY, Who.LOCAL, factors, throughput_per_s=near(local)),
        *repeated(Section.CAPACITY, Who.TWO_PHASE, factors, throughput_per_s=near(400)),
        measurement(Section.ISOLATION, Who.LOCAL, {"refused_share": 10}, half_per_10000=1_000),
    )
    conclusion = of(speed.price(found))
    assert says in conclusion.text
    assert "1,000 per 10,000" in conclusion.in_figures()


def test_peers_are_told_as_they_came_out() -> None:
    factors: dict[str, Level] = {"workload": "transfer", "clients": 16, "refused_share": 0}
    speeds = {Who.TWO_PHASE: 400, Who.LOOP: 800, Who.SQLALCHEMY: 200, Who.SAGA: 500, Who.DBOS: 500}
    found = results(
        *(
            each
            for who, speed_ in speeds.items()
            for each in repeated(Section.CAPACITY, who, factors, throughput_per_s=near(speed_))
        )
    )
    text = of(speed.peers(found)).text
    assert "50 % of what is done by a hand-written loop" in text
    assert "2 times as much as SQLAlchemy" in text
    assert "a saga here does as much as a saga with DBOS" in text


def test_a_conclusion_without_figures_is_none() -> None:
    assert conclude(results()) == {}
    assert {each.choice for each in decisions({})} == {UNMEASURED}


def test_a_void_run_concludes_nothing() -> None:
    found = whole()
    assert conclude(found)
    assert conclude(results(*found.measurements, problems=["account 7 holds 3"])) == {}


def test_everything_measured_concludes_everything() -> None:
    found = conclude(whole())
    assert list(found) == [*FIRST, *FURTHER]
    assert all(each.text and each.figures and each.holds_when for each in found.values())
    assert not [each for each in found.values() if "  " in each.text + each.flips_when + each.in_figures()]


def test_decisions_follow_the_figures() -> None:
    def choice(results_: Results) -> str:
        return decisions(conclude(results_))[0].choice

    assert choice(capacities(one=(1, 1), many=(100, 150))) == "saga"
    assert choice(capacities(one=(1, 1), many=(150, 100))) == "two-phase commit"
    assert choice(capacities(one=(1, 1), many=(100, 100))) == EITHER


def test_losses_name_what_was_lost_and_nothing_else() -> None:
    found = conclude(capacities(one=(1, 1), many=(100, 150)))
    assert losses(found, Who.TWO_PHASE) == "Two-phase commit loses in throughput without contention."
    assert losses(found, Who.SAGA) == "The saga loses nowhere in what was measured."
    assert draws(found) == ""


def test_what_makes_no_difference_is_named() -> None:
    found = conclude(capacities(one=(1, 1), many=(100, 100)))
    assert draws(found) == "No difference was found in throughput without contention."
