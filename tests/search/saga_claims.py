"""What must hold of a saga in every world that can be reached, and at rest.

Lives here: the rules, as far as one saga can break them (the numbers are those of docs/protocol.md). Must not live
here: how worlds are made. What a single step breaks (its order, a turn without a row) is checked where it is taken, in
`saga_moves`.
"""

from __future__ import annotations

from search.explore import Rules
from search.saga_world import OWNER, SHAPES, Column, World, folding

NEVER = ("refused", "tombstone")
"""The rows that say: not done, and never will be."""


def rules(shape: str) -> Rules[World]:
    """What must hold of sagas of this shape."""
    pivot = SHAPES[shape].pivot

    def broken(world: World) -> str | None:
        return _broken(world, pivot)

    return Rules(folding(shape), at_rest, broken, wrong_at_rest)


def _broken(world: World, pivot: int | None) -> str | None:
    """The first rule that this world breaks, whatever happens next."""
    journal, columns = world.journal, world.columns
    for place, column in enumerate(columns):
        if column.done != (column.work == "applied") or column.undone != (column.undo == "applied"):
            return f"R7: step {place} was done {column.done} times and undone {column.undone} times: {rows(column)}"
        if column.undo and column.work != "applied":
            return f"R7: step {place} is undone and was not done: {rows(column)}"
    if len(world.told) > 1:
        return "R6: one client was told completed, and another one compensated"
    if "completed" in world.told and (journal.turned or any(c.undo or c.work in NEVER for c in columns)):
        return f"R6: told completed, and it is {everywhere(world)}"
    if "compensated" in world.told and (journal.ended == "completed" or is_complete(world)):
        return f"R6: told compensated, and it is {everywhere(world)}"
    decisive = columns if pivot is None else (columns[pivot],)
    if journal.turned and all(column.work == "applied" for column in decisive):
        return f"R2: it turned although nothing could make it turn any more: {everywhere(world)}"
    if journal.decision == "abort" and any(column.work or column.sent for column in columns):
        return f"R1: it never started, and it is {everywhere(world)}"
    return None


def at_rest(world: World) -> bool:
    """Whether nothing is left to be done: what a system comes to when nothing fails any more."""
    journal = world.journal
    if journal.decision == "saga" and not journal.ended:
        return False
    if journal.fenced and journal.begun and not journal.decision:
        return False
    up = [(who, node) for who, node in enumerate(world.nodes) if node.status == "up"]
    if all(who == OWNER and journal.fenced for who, _ in up):
        return False  # somebody starts it again
    return not any(node.proposal or node.phase not in ("", "over") for _, node in up)


def wrong_at_rest(world: World) -> str | None:
    """The rule that a world at rest breaks."""
    if is_half(world):
        return f"R1: it is over, and {everywhere(world)}"
    return None


def wrong_at_end(world: World, *, committed: bool) -> str | None:
    """The rule that is broken if a saga ends now."""
    if committed and not is_complete(world):
        return f"R1: it ended completed, and it is {everywhere(world)}"
    if not committed and world.journal.decision == "saga":
        if any(column.work == "applied" and not column.undo for column in world.columns):
            return f"R1: it ended compensated, and it is {everywhere(world)}"
        if any(not column.work for column in world.columns) and not world.forgot:
            return f"R1: it ended compensated, and a step can still be done: {everywhere(world)}"
    return None


def is_complete(world: World) -> bool:
    """Whether every step is done, and none undone."""
    return all(column.work == "applied" and not column.undo for column in world.columns)


def is_half(world: World) -> bool:
    """Whether a step is done and stays done, and another one is not."""
    return any(column.work == "applied" and not column.undo for column in world.columns) and not is_complete(world)


def rows(column: Column) -> str:
    """What its ledger says of a step."""
    return f"{column.work or 'no row'}{f', compensation {column.undo}' if column.undo else ''}"


def everywhere(world: World) -> str:
    """What the ledgers say."""
    return "; ".join(rows(column) for column in world.columns)
