"""Sagas made by chance: how many steps, which comes before which, where the pivot is, what each of them moves.

Lives here: making one, and what is asked for it. Must not live here: sending it (`clients`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from simulation.runs import ACCOUNTS, NAMES, Saga, Transfer
from twophase.coordinator.protocol.graph import Graph, Malformed, Step, graph

_DEADLINES = (0.05, 0.3, 2.0, 2.0, 2.0)
_AMOUNTS = (1, 5, 20)


def saga(chance: random.Random, name: str) -> Transfer:
    """A transfer that runs as a saga. No two of its steps move the same account, so that each can be told from what
    undoes another one; what must succeed only brings money, so that it can."""
    looks = chance.choice(((), (), (), (chance.choice(NAMES),)))
    shape = _shape(chance, chance.randint(2, 4) + len(looks))
    may_refuse = [n for n in shape.numbers[: len(shape.numbers) - len(looks)] if shape.may_refuse(n)]
    moves = len(shape.numbers) - len(looks)
    taken = chance.sample(may_refuse, chance.randint(1, max(1, min(len(may_refuse), moves - 1)))) if may_refuse else []
    amount = chance.choice(_AMOUNTS)
    places = chance.sample([(bank, account) for bank in NAMES for account in range(ACCOUNTS)], moves)
    given = moves - len(taken)
    movements = tuple(
        (*places[n], -amount * given if n in taken else amount * len(taken)) for n in shape.numbers[:moves]
    )
    after = tuple(tuple(sorted(step.after)) for step in shape.steps)
    return Transfer(
        name, movements, looks, saga=Saga(after, shape.pivot, chance.choice(_DEADLINES), chance.random() < 1 / 2)
    )


def operation_of(transfer: Transfer, number: int) -> str:
    """What the step asks for: from the pivot on what cannot be undone."""
    assert transfer.saga is not None
    shape = graph_of(transfer.saga)
    if number >= len(transfer.movements):
        return "look"
    return "pay" if number == shape.pivot or shape.past_the_pivot(number) else "move"


def graph_of(saga: Saga) -> Graph:
    """Its shape."""
    return graph(Step(n, frozenset(after), n == saga.pivot) for n, after in enumerate(saga.after))


def _shape(chance: random.Random, count: int) -> Graph:
    """A line, a fan, or anything else without a circle; the numbers are mixed, and say nothing of the order."""
    numbers = chance.sample(range(count), count)
    after: list[tuple[int, ...]]
    match chance.randrange(3):
        case 0:
            after = [(at - 1,) if at else () for at in range(count)]
        case 1:
            after = [(0,) if at else () for at in range(count)]
        case _:
            after = [tuple(n for n in range(at) if chance.random() < 1 / 2) for at in range(count)]
    mixed = {numbers[at]: frozenset(numbers[n] for n in after[at]) for at in range(count)}
    steps = [Step(number, mixed[number]) for number in range(count)]
    return _with_a_pivot(chance, steps) if chance.random() < 1 / 2 else graph(steps)


def _with_a_pivot(chance: random.Random, steps: Sequence[Step]) -> Graph:
    """One of them is the pivot, if there is one beside which none runs."""
    for pivot in chance.sample(range(len(steps)), len(steps)):
        try:
            return graph(Step(step.number, step.after, step.number == pivot) for step in steps)
        except Malformed:
            continue
    return graph(steps)
