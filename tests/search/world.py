"""The world of the search: one transaction, everything that is known of it anywhere, as one hashable value.

Lives here: the state. Must not live here: what can happen (`moves`), what must hold (`claims`).

Strings stand for the states, not enums: a string keeps its hash, and millions of these are hashed.
"""

from __future__ import annotations

from typing import Final, NamedTuple

OWNER: Final = 0
"""The coordinator that begins the transaction. The others, from 1, are recoverers: later epochs, or its peers."""


class Journal(NamedTuple):
    """What the journal holds. `durable` is about the decision; what is not durable may be gone after a crash."""

    decision: str = ""  # commit, abort, delegated
    durable: bool = False
    fenced: bool = False
    begun: bool = False
    ended: bool = False


class Node(NamedTuple):
    """One coordinator. `phase` is its machine's: empty without one, ended when it is over. `proposal` is on its way to
    the journal."""

    status: str = "off"  # off, up, dead
    phase: str = ""
    decision: str = ""
    proposal: str = ""  # commit, abort, delegated; presume: an abort of what nobody decides


class Seat(NamedTuple):
    """What one coordinator knows of one branch, and wants of it."""

    standing: str = ""
    call: str = ""  # commit, abort, settle: repeated until it is answered
    sweep: str = ""  # how far its sweep is at this participant
    found: bool = False  # a sweep found it prepared, and it is to be aborted


class Column(NamedTuple):
    """One branch: at its participant, on the wire, in the journal, and in the eyes of every coordinator."""

    writes: bool
    db: str = "none"  # none, prepared, applied, refused; a tombstone: tombstone, lost, barred
    work: str = ""  # the owner's request for work: prepare, apply; running; then the answer to it
    runs: str = ""  # what is at work in the database: prepare, apply
    heard: bool = True  # whether somebody waits for what is at work
    ghosts: frozenset[str] = frozenset()  # copies of requests whose sender has given them up
    effects: int = 0  # how often the business took effect
    hears: bool = False  # the decision on record names it
    seats: tuple[Seat, ...] = ()


class World(NamedTuple):
    """All of it. `told` is what clients heard, `alarmed` whether an alarm was raised, `in_turn` whether the branches
    prepare one after the other, the rest what may still go wrong."""

    journal: Journal
    nodes: tuple[Node, ...]
    columns: tuple[Column, ...]
    told: frozenset[str] = frozenset()
    alarmed: bool = False
    meddled: bool = False
    crashes: int = 0
    losses: int = 0
    copies: int = 0
    hands: int = 0
    in_turn: bool = False


def start(
    writers: int,
    readers: int,
    *,
    recoverers: int,
    crashes: int = 0,
    losses: int = 0,
    copies: int = 0,
    hands: int = 0,
    in_turn: bool = False,
) -> World:
    """Before anything happened. `crashes`, `losses`, `copies` and `hands` say how often each of them may strike."""
    seats = (Seat(),) * (1 + recoverers)
    columns = tuple(Column(writes=index < writers, seats=seats) for index in range(writers + readers))
    nodes = (Node("up"), *(Node() for _ in range(recoverers)))
    return World(Journal(), nodes, columns, crashes=crashes, losses=losses, copies=copies, hands=hands, in_turn=in_turn)


def fold(world: World) -> World:
    """The representative of all worlds from which the same can happen.

    Branches of one role are interchangeable, and so are recoverers. What can have no effect any more is forgotten.
    """
    world = _forget(world)
    if len(world.nodes) > _TWO_RECOVERERS and world.nodes[-1].status != "off":
        return min(_sorted(world), _sorted(_swapped(world)), key=_key)
    return _sorted(world)


_TWO_RECOVERERS: Final = 2
_FINAL: Final = frozenset({"applied", "refused", "tombstone", "lost", "barred"})


def _forget(world: World) -> World:
    """Leaves out what nothing can depend on."""
    journal = world.journal
    if world.nodes[OWNER].status == "dead" and not journal.fenced:
        world = world._replace(journal=journal._replace(fenced=True))
    over = [node.phase == "ended" for node in world.nodes]
    columns = tuple(_plain(column, over) for column in world.columns)
    return world if columns == world.columns else world._replace(columns=columns)


def _plain(column: Column, over: list[bool]) -> Column:
    """A copy of a request to a branch that is over changes nothing, nor does one to a branch that writes nothing."""
    if column.ghosts and (column.db in _FINAL or not column.writes):
        column = column._replace(ghosts=frozenset())
    if any(gone and seat.standing for gone, seat in zip(over, column.seats, strict=True)):
        seats = (seat._replace(standing="") if gone else seat for gone, seat in zip(over, column.seats, strict=True))
        column = column._replace(seats=tuple(seats))
    return column


def _sorted(world: World) -> World:
    if len(world.columns) == 1:
        return world
    columns = tuple(sorted(world.columns, key=_order))
    return world if columns == world.columns else world._replace(columns=columns)


def _swapped(world: World) -> World:
    owner, one, other = world.nodes
    columns = (column._replace(seats=(column.seats[0], column.seats[2], column.seats[1])) for column in world.columns)
    return world._replace(nodes=(owner, other, one), columns=tuple(columns))


def _key(world: World) -> tuple[tuple[Node, ...], list[str]]:
    return world.nodes, [_order(column) for column in world.columns]


_ORDERS: Final[dict[Column, str]] = {}


def _order(column: Column) -> str:
    """An order for columns. Writers come first, so that a branch keeps its role's place."""
    order = _ORDERS.get(column)
    if order is None:
        ghosts = "".join(sorted(column.ghosts))
        order = _ORDERS[column] = f"{not column.writes}{column._replace(ghosts=frozenset())!r}{ghosts}"
    return order
