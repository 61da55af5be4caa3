"""The world of a saga's search: one saga, everything that is known of it anywhere, as one hashable value.

Lives here: the state, and the shapes of sagas that are searched. Must not live here: what can happen (`saga_moves`),
what must hold (`saga_claims`).

Strings stand for the states, as in `world`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final, NamedTuple

from twophase.coordinator.protocol.graph import Graph, Step, graph, line

OWNER: Final = 0
"""The coordinator that begins the saga. The others, from 1, are recoverers: later epochs, or its peers."""

SHAPES: Final[dict[str, Graph]] = {
    "one": line(1),
    "line of two": line(2),
    "line of three": line(3),
    "pivot in the middle": graph([Step(0), Step(1, frozenset({0}), pivot=True), Step(2, frozenset({1}))]),
    "pivot first": graph([Step(0, pivot=True), Step(1, frozenset({0}))]),
    "pivot last": graph([Step(0), Step(1, frozenset({0}), pivot=True)]),
    "two, then one": graph([Step(0), Step(1), Step(2, frozenset({0, 1}))]),
    "two, then the pivot": graph([Step(0), Step(1), Step(2, frozenset({0, 1}), pivot=True)]),
    "one, then two": graph([Step(0), Step(1, frozenset({0})), Step(2, frozenset({0}))]),
    "two at once": graph([Step(0), Step(1)]),
    "three at once": graph([Step(0), Step(1), Step(2)]),
}
"""By name: a name is hashed faster than a graph."""


def shape_of(shape: Graph) -> str:
    """A name for any other graph."""
    name = "; ".join(f"{step.number}{'!' if step.pivot else ''} after {sorted(step.after)}" for step in shape.steps)
    SHAPES.setdefault(name, shape)
    return name


class Journal(NamedTuple):
    """What the journal holds. What is not durable may be gone after a crash; what it knows of the steps is no part of
    the world, since any part of that may be lost (`saga_moves`)."""

    begun: bool = False
    decision: str = ""  # saga, abort
    durable: bool = False
    turned: str = ""  # written, durable
    ended: str = ""  # completed, compensated, aborted
    fenced: bool = False


class Node(NamedTuple):
    """One coordinator. `phase` is its machine's: empty without one, over when it has ended. `proposal` is on its way to
    the journal."""

    status: str = "off"  # off, up, dead
    phase: str = ""
    proposal: str = ""  # saga, turn; presume: an abort of what nobody decides
    unwanted: bool = False


class Column(NamedTuple):
    """One step: at its participant, on the wire, and in the eyes of every coordinator.

    `sent` are the requests that were ever sent. The network keeps a copy of each: it may arrive at any later time,
    again and again, whether its sender still waits or not. So a loss is no move of its own: what does not arrive now
    arrives later, or another copy does.
    """

    work: str = ""  # the row of the work in the ledger: applied, refused, tombstone
    undo: str = ""  # the row of the compensation: applied, tombstone
    sent: frozenset[str] = frozenset()  # work, must (it must succeed), ask, undo
    done: int = 0  # how often the work took effect
    undone: int = 0
    seats: tuple[str, ...] = ()  # its standing, for each coordinator


class World(NamedTuple):
    """All of it. `told` is what clients heard, `forgot` whether a participant lost a row, the rest what may still go
    wrong. In a calm world a request arrives only while it is waited for, and one coordinator starts when the others are
    dead: there a lost row can be looked at by itself."""

    journal: Journal
    nodes: tuple[Node, ...]
    columns: tuple[Column, ...]
    told: frozenset[str] = frozenset()
    forgot: bool = False
    calm: bool = False
    crashes: int = 0
    failovers: int = 0
    hands: int = 0


def start(
    shape: str, *, recoverers: int, crashes: int = 0, failovers: int = 0, hands: int = 0, calm: bool = False
) -> World:
    """Before anything happened. `crashes`, `failovers` and `hands` say how often each of these failures may strike."""
    columns = (Column(seats=("",) * (1 + recoverers)),) * len(SHAPES[shape].steps)
    nodes = (Node("up"), *(Node() for _ in range(recoverers)))
    return World(Journal(), nodes, columns, calm=calm, crashes=crashes, failovers=failovers, hands=hands)


@functools.cache
def folding(shape: str) -> Callable[[World], World]:
    """What gives the representative of all worlds from which the same can happen, for this shape.

    Steps with the same before and behind them are interchangeable, and so are recoverers. What can have no effect any
    more is forgotten.
    """
    alike = _interchangeable(SHAPES[shape])

    def fold(world: World) -> World:
        world = _forget(world)
        if len(world.nodes) > _TWO_RECOVERERS and world.nodes[-1].status != "off":
            return min(_sorted(world, alike), _sorted(_swapped(world), alike), key=_key)
        return _sorted(world, alike)

    return fold


_TWO_RECOVERERS: Final = 2


def _interchangeable(shape: Graph) -> tuple[tuple[int, ...], ...]:
    groups: dict[tuple[object, ...], list[int]] = {}
    for step in shape.steps:
        groups.setdefault((step.after, step.pivot, shape.behind[step.number]), []).append(step.number)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def _forget(world: World) -> World:
    """Leaves out what nothing can depend on."""
    if world.nodes[OWNER].status == "dead" and not world.journal.fenced:
        world = world._replace(journal=world.journal._replace(fenced=True))
    over = tuple(node.phase == "over" for node in world.nodes)
    columns = tuple(_plain(column, over) for column in world.columns)
    return world if columns == world.columns else world._replace(columns=columns)


@functools.cache
def _plain(column: Column, over: tuple[bool, ...]) -> Column:
    """Requests that can change nothing any more, and standings of machines that are over."""
    vain = {"work", "must", "ask"} if column.work else set()
    if column.undo or column.work in ("refused", "tombstone"):
        vain.add("undo")
    seats = tuple("" if gone else seat for gone, seat in zip(over, column.seats, strict=True))
    return column._replace(sent=column.sent - vain, seats=seats)


def _sorted(world: World, alike: tuple[tuple[int, ...], ...]) -> World:
    columns = list(world.columns)
    for group in alike:
        for place, column in zip(group, sorted((world.columns[n] for n in group), key=_order), strict=True):
            columns[place] = column
    return world._replace(columns=tuple(columns)) if alike else world


def _swapped(world: World) -> World:
    owner, one, other = world.nodes
    columns = (column._replace(seats=(column.seats[0], column.seats[2], column.seats[1])) for column in world.columns)
    return world._replace(nodes=(owner, other, one), columns=tuple(columns))


def _key(world: World) -> tuple[tuple[Node, ...], list[str]]:
    return world.nodes, [_order(column) for column in world.columns]


@functools.cache
def _order(column: Column) -> str:
    return f"{sorted(column.sent)}{column._replace(sent=frozenset())!r}"
