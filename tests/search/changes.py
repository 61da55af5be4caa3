"""Small changes of a world, and small questions about it.

Lives here: what several moves have in common. Must not live here: when a move can be made.
"""

from __future__ import annotations

from collections.abc import Iterator

from search.world import OWNER, Column, Journal, Node, Seat, World


def become(column: Column, db: str) -> Column:
    """The branch with its database in another state; the business took effect if it came to be applied."""
    took_effect = db == "applied" != column.db
    return column._replace(db=db, effects=column.effects + took_effect)


def is_undecided(journal: Journal) -> bool:
    """Whether the journal holds the transaction as begun, and no decision."""
    return journal.begun and not journal.decision


def is_unfinished(journal: Journal) -> bool:
    """Whether the journal holds a decision that was not carried out everywhere, as far as it knows."""
    return bool(journal.decision) and not journal.ended


def surviving(journal: Journal) -> Iterator[Journal]:
    """What a crash may leave of the journal: the events ride in their order, so that only the last ones can be lost."""
    yield journal
    if journal.ended:
        journal = journal._replace(ended=False)
        yield journal
    if journal.decision and not journal.durable:
        journal = journal._replace(decision="")
        yield journal
    if journal.begun and not journal.decision:
        yield journal._replace(begun=False)


def is_survived(world: World, who: int) -> bool:
    """Whether a coordinator that may decide is left, or can be started, when this one dies: someone starts it again."""
    return any(node.status != "dead" for other, node in enumerate(world.nodes) if other not in (OWNER, who))


def live(node: Node) -> bool:
    """Whether a coordinator is at work on the transaction."""
    return node.phase not in ("", "ended")


def delegate_of(world: World) -> int | None:
    writers = [place for place, column in enumerate(world.columns) if column.writes]
    return writers[0] if len(writers) == 1 else None


def put_node(nodes: tuple[Node, ...], who: int, node: Node) -> tuple[Node, ...]:
    return (*nodes[:who], node, *nodes[who + 1 :])


def put_column(world: World, place: int, column: Column) -> World:
    return world._replace(columns=(*world.columns[:place], column, *world.columns[place + 1 :]))


def put_seat(world: World, place: int, who: int, seat: Seat) -> World:
    column = world.columns[place]
    return put_column(world, place, column._replace(seats=(*column.seats[:who], seat, *column.seats[who + 1 :])))


def put_call(world: World, place: int, who: int, call: str) -> World:
    return put_seat(world, place, who, world.columns[place].seats[who]._replace(call=call))


def answered(column: Column, db: str, answer: str) -> Column:
    work = answer if column.heard and column.work == "running" else column.work
    return become(column, db)._replace(runs="", work=work, heard=True)


def abandoned(column: Column) -> Column:
    """The owner waits for the work no more: what is on its way may still arrive."""
    match column.work:
        case "prepare" | "apply":
            return column._replace(work="", ghosts=column.ghosts | {column.work})
        case "running":
            return column._replace(work="", heard=False)
        case _:
            return column._replace(work="")


def ended(world: World, who: int) -> World:
    """The machine has ended: its tasks are cancelled."""
    world = world._replace(nodes=put_node(world.nodes, who, Node("up", "ended")))
    for place, column in enumerate(world.columns):
        seat = column.seats[who]
        if seat.call:
            world = put_call(world, place, who, "")
        if who == OWNER and column.work:
            world = put_column(world, place, abandoned(world.columns[place]))
    return world


def died(world: World, who: int) -> World:
    columns = []
    for column in world.columns:
        call = column.seats[who].call.removeprefix("late ")
        if call:
            column = column._replace(ghosts=column.ghosts | {call})  # noqa: PLW2901
        if who == OWNER:
            column = abandoned(column)  # noqa: PLW2901
        columns.append(column._replace(seats=(*column.seats[:who], Seat(), *column.seats[who + 1 :])))
    return world._replace(columns=tuple(columns), nodes=put_node(world.nodes, who, Node("dead")))


def unseated(world: World, who: int) -> World:
    """Forgets what an earlier machine of this coordinator knew of the branches."""
    for place, column in enumerate(world.columns):
        seat = column.seats[who]
        world = put_seat(world, place, who, seat._replace(standing=""))
    return world


def without_finds(world: World, who: int) -> World:
    for place, column in enumerate(world.columns):
        if column.seats[who].found:
            world = put_seat(world, place, who, column.seats[who]._replace(found=False))
    return world
