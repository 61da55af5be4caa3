"""What is on its way: requests to participants, and their answers.

Lives here: the messages, and finding the one that a command means. Must not live here: what they do where they arrive.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from transcripts.language import Impossible
from twophase.contract.names import Txid
from twophase.coordinator.journal.events import BranchRef, RequestRef

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction: its name in the transcript (empty for one that needs none), its branches in their order."""

    name: str
    txid: Txid
    client: str
    request: RequestRef | None
    places: tuple[str, ...]
    reads: frozenset[int] = frozenset()
    in_turn: bool = False

    def titled(self, what: str) -> str:
        """Something about it, with its name before it if it has one."""
        return f"{self.name} {what}".lstrip()

    def branch_at(self, place: str) -> int:
        """The number of its branch there."""
        if place not in self.places:
            raise Impossible(f"{place} has no branch of {self.name or 'the transaction'}")
        return self.places.index(place)

    def ref(self, branch: int) -> BranchRef:
        """A branch as the journal knows it."""
        return BranchRef(branch, self.places[branch])


class Waiter(Protocol):
    """Whoever waits for the answer to a request."""

    def answered(self, request: Request, said: str) -> None:
        """The participant has said this."""
        ...

    def unanswered(self, request: Request) -> None:
        """There is no answer, or none that counts."""
        ...


@dataclass(eq=False, slots=True)
class Request:
    """A request. `waiter` is None once nobody waits for its answer: it may arrive all the same, at any later time."""

    sender: str
    to: str
    what: str
    of: Transaction
    position: int
    waiter: Waiter | None


@dataclass(eq=False, slots=True)
class Answer:
    """What a participant said, and on which timeline its server was then."""

    request: Request
    said: str
    timeline: int


@dataclass(slots=True)
class Wire:
    """Everything that is on its way. `held` are requests to participants that are away."""

    requests: list[Request] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    held: list[Request] = field(default_factory=list)

    def request(self, to: str, what: str, *, tx: str | None, sender: str | None, late: bool = False) -> Request:
        """The request that these words mean; `late` for one that nobody waits for. Raises `Impossible`."""
        found = [
            each
            for each in self.requests
            if (each.to, each.what, each.waiter is None) == (to, what, late)
            and tx in (None, each.of.name)
            and sender in (None, each.sender)
        ]
        if len({(each.of.name, each.sender) for each in found}) > 1:
            raise Impossible(f"more than one {what} is on its way to {to}: say of which transaction, and from whom")
        if not found:
            raise Impossible(f"no {'late ' if late else ''}{what} is on its way to {to}{self._instead()}")
        return found[0]

    def answer(self, of: str, *, tx: str | None, sender: str | None) -> Answer:
        """The answer that these words mean. Raises `Impossible`."""
        found = [
            each
            for each in self.answers
            if each.request.to == of and tx in (None, each.request.of.name) and sender in (None, each.request.sender)
        ]
        if len(found) > 1:
            raise Impossible(f"more than one answer of {of} is on its way: say about which transaction, and to whom")
        if not found:
            raise Impossible(f"no answer of {of} is on its way")
        return found[0]

    def _instead(self) -> str:
        there = [f"{each.what} to {each.to}{' (late)' if each.waiter is None else ''}" for each in self.requests]
        return f"; there is: {', '.join(there)}" if there else ""
