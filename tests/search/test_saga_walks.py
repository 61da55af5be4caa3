"""Sagas larger than those that can be searched whole: graphs by chance, ways by chance, and always to an end."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from search.saga_moves import SagaMoves
from search.saga_world import World, shape_of, start
from twophase.coordinator.protocol.graph import Graph, Step, graph

LONGEST = 400
"""More steps than any saga of this size needs to its end."""


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Up to six steps, each behind any of those before it, and perhaps a pivot, which has no step beside it."""
    count = draw(st.integers(1, 6))
    pivot = draw(st.none() | st.integers(0, count - 1))
    after = [draw(st.frozensets(st.integers(0, number - 1))) if number else frozenset() for number in range(count)]
    if pivot is not None:
        after[pivot] = frozenset(range(pivot))
        after[pivot + 1 :] = [before | {pivot} for before in after[pivot + 1 :]]
    return graph(Step(number, before, pivot=number == pivot) for number, before in enumerate(after))


@settings(max_examples=200, deadline=None)
@given(graphs(), st.integers(0, 80), st.integers(0, 1 << 32))
def test_whatever_happens_no_rule_is_broken_and_then_it_ends(shape: Graph, failing: int, seed: int) -> None:
    name = shape_of(shape)
    moves = SagaMoves(name)
    rules = moves.rules
    world = start(name, recoverers=2, crashes=2, hands=1)
    path: list[str] = []
    chance = random.Random(seed)  # noqa: S311 - a way, not a secret
    for _ in range(failing):
        world = take(moves, world, chance, path, failing=True)
    for _ in range(LONGEST):
        if rules.at_rest(world):
            assert rules.wrong_at_rest(world) is None, "\n".join(path)
            break
        world = take(moves, world, chance, path, failing=False)
    else:
        raise AssertionError("\n".join(("it never ends", *path)))


def take(moves: SagaMoves, world: World, chance: random.Random, path: list[str], *, failing: bool) -> World:
    """One of the moves there are; without failures one of those that are none."""
    # What was heard before is often heard again: that is no way forward.
    there = [move for move in moves.all(world) if (failing or not move[1]) and move[2] != world]
    if not there:
        return world
    label, _, after = chance.choice(there)
    path.append(label)
    folded = moves.rules.fold(after)
    assert moves.rules.broken(folded) is None, "\n".join((str(moves.rules.broken(folded)), *path))
    return folded
