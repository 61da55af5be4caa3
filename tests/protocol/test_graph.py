"""The shape of a saga: who comes before whom, and what is no shape."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twophase.coordinator.protocol.graph import BesideThePivot, Cycle, Graph, Malformed, Step, TwoPivots, graph, line


def steps(*after: set[int], pivot: int | None = None) -> list[Step]:
    """Steps 0, 1 and so on, each with those that come before it."""
    return [Step(number, frozenset(before), pivot=number == pivot) for number, before in enumerate(after)]


def test_a_line_runs_one_after_the_other() -> None:
    shape = line(3)
    assert [step.after for step in shape.steps] == [frozenset(), frozenset({0}), frozenset({1})]
    assert shape.before == {0: frozenset(), 1: frozenset({0}), 2: frozenset({0, 1})}
    assert shape.behind == {0: frozenset({1, 2}), 1: frozenset({2}), 2: frozenset()}
    assert shape.pivot is None


def test_steps_are_in_the_order_of_their_numbers_however_they_are_given() -> None:
    given_backward = graph(reversed(steps(set(), {0}, {1})))
    assert given_backward.numbers == (0, 1, 2)
    assert given_backward == line(3)


def test_nearness_does_not_matter_for_who_is_behind() -> None:
    diamond = graph(steps(set(), {0}, {0}, {1, 2}))
    assert diamond.before[3] == {0, 1, 2}
    assert diamond.behind[0] == {1, 2, 3}


def test_every_step_may_refuse_where_there_is_no_pivot() -> None:
    shape = line(3)
    assert all(shape.may_refuse(number) and not shape.past_the_pivot(number) for number in shape.numbers)


def test_only_the_pivot_and_what_comes_before_it_may_refuse() -> None:
    shape = graph(steps(set(), {0}, {1}, pivot=1))
    assert [shape.may_refuse(number) for number in shape.numbers] == [True, True, False]
    assert [shape.past_the_pivot(number) for number in shape.numbers] == [False, False, True]


@pytest.mark.parametrize(
    ("shape", "circle"),
    [
        (steps({0}), [0]),
        (steps({1}, {0}), [0, 1]),
        (steps(set(), {0, 3}, {1}, {2}), [1, 2, 3]),
    ],
)
def test_a_circle_is_refused_and_named_in_its_order(shape: list[Step], circle: list[int]) -> None:
    with pytest.raises(Cycle) as caught:
        graph(shape)
    named = caught.value.steps
    assert sorted(named) == circle
    for waiting, awaited in zip(named, (*named[1:], named[0]), strict=True):
        assert awaited in shape[waiting].after, f"{waiting} does not wait for {awaited}"


def test_two_pivots_are_refused_and_named() -> None:
    with pytest.raises(TwoPivots) as caught:
        graph([Step(0, pivot=True), Step(1, frozenset({0})), Step(2, frozenset({1}), pivot=True)])
    assert caught.value.steps == (0, 2)


@pytest.mark.parametrize(
    ("shape", "beside"),
    [
        (steps(set(), set(), pivot=0), 1),
        (steps(set(), {0}, {0}, {1, 2}, pivot=1), 2),
    ],
)
def test_a_step_beside_the_pivot_is_refused_and_named(shape: list[Step], beside: int) -> None:
    with pytest.raises(BesideThePivot) as caught:
        graph(shape)
    assert caught.value.steps[0] == beside
    assert isinstance(caught.value, Malformed)


def test_a_step_that_waits_for_one_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        graph([Step(0, frozenset({7}))])


@given(st.integers(1, 7).flatmap(lambda count: st.tuples(*(st.sets(st.integers(0, count - 1)) for _ in range(count)))))
def test_whatever_is_waited_for_it_is_an_order_or_a_circle(after: tuple[set[int], ...]) -> None:
    try:
        shape = graph(steps(*after))
    except Cycle as error:
        named = error.steps
        assert named
        assert all(b in after[a] for a, b in zip(named, (*named[1:], named[0]), strict=True))
        return
    assert_consistent(shape)


def assert_consistent(shape: Graph) -> None:
    for number in shape.numbers:
        assert number not in shape.before[number]
        assert shape.steps[number].after <= shape.before[number]
        assert all(number in shape.behind[each] for each in shape.before[number])
        assert all(shape.before[each] <= shape.before[number] for each in shape.before[number])
