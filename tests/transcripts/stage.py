"""The stage of a transcript: journal, coordinators, participants, network, and what is drawn of it.

Lives here: who is there, and how requests and answers go to and fro. Must not live here: what a coordinator makes of
them (`coordinator`, `two_phase`, `recovery`), the commands (`told_*`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from transcripts.board import Arrow, Board
from transcripts.disk import Disk
from transcripts.language import Impossible
from transcripts.participants import Participant
from transcripts.wire import Answer, Request, Transaction, Wire
from twophase.contract.names import Txid
from twophase.coordinator.journal.memory_state import Entry

if TYPE_CHECKING:
    from transcripts.coordinator import Coordinator

T = TypeVar("T")


class Stage:
    """All of it. `sights` are the protocol's own values that came up, so that a test can ask what never did."""

    def __init__(self) -> None:
        self.board = Board()
        self.disk = Disk()
        self.wire = Wire()
        self.coordinators: dict[str, Coordinator] = {}
        self.participants: dict[str, Participant] = {}
        self.transactions: dict[str, Transaction] = {}
        self.older: tuple[Entry, ...] | None = None
        self.newest: tuple[Entry, ...] | None = None
        self.sights: set[object] = set()
        self._later: deque[Callable[[], None]] = deque()

    # --- who is there -----------------------------------------------------------------------------------------------

    def coordinator(self, name: str | None) -> Coordinator:
        """The coordinator of that name, or the one that can act. Raises `Impossible`, also if it cannot act."""
        able = [each for each in self.coordinators.values() if each.status == "up"]
        if name is not None:
            found = _named(self.coordinators, name, "coordinator")
            if found not in able:
                raise Impossible(f"{name} is {found.status}: it can do nothing")
            return found
        if len(able) != 1:
            names = ", ".join(each.name for each in able) or "none"
            raise Impossible(f"say which coordinator: those that can act are {names}")
        return able[0]

    def participant(self, name: str) -> Participant:
        """The participant of that name. Raises `Impossible`."""
        return _named(self.participants, name, "participant")

    def transaction(self, name: str | None) -> Transaction:
        """The transaction of that name, or the only one. Raises `Impossible`."""
        if name is not None:
            return _named(self.transactions, name, "transaction")
        if len(self.transactions) != 1:
            raise Impossible(f"say which transaction: there are {', '.join(self.transactions) or 'none'}")
        return next(iter(self.transactions.values()))

    def named(self, txid: Txid) -> Transaction:
        """The transaction with that id."""
        return next(each for each in self.transactions.values() if each.txid == txid)

    def here(self) -> list[Participant]:
        """The participants that answer."""
        return [each for each in self.participants.values() if each.up]

    # --- to and fro -------------------------------------------------------------------------------------------------

    def send(self, request: Request) -> None:
        """Sends a request. One that cannot be sent is unanswered, and one of the second phase waits."""
        if self.participant(request.to).up:
            self.board.draw(request.sender, Arrow.SENT, request.to, request.of.titled(request.what))
            self.wire.requests.append(request)
        else:
            self.give_up(request)

    def give_up(self, request: Request) -> None:
        """The request was not answered: its sender hears of that once everything at hand is done."""
        self.board.draw(request.sender, Arrow.LOST, request.to, request.of.titled(request.what))
        self.unanswered(request)

    def unanswered(self, request: Request) -> None:
        """Nobody answers this request any more."""
        self.soon(lambda: self._tell_unanswered(request))

    def arrive(self, request: Request) -> None:
        """A request reaches its participant. One of the second phase is carried out and answered at once."""
        self.wire.requests.remove(request)
        there = self.participant(request.to)
        if request.what in ("prepare", "apply"):
            there.begin(request)
            return
        said = there.finish(request)
        if said is None:
            self.unanswered(request)
        else:
            self.say(there, request, said)

    def say(self, there: Participant, request: Request, said: str) -> None:
        """A participant answers. What nobody waits for goes nowhere."""
        awaited = request.waiter is not None
        arrow = Arrow.SENT if awaited else Arrow.LOST
        self.board.draw(there.name, arrow, request.sender, request.of.titled(shown(said)))
        if awaited:
            self.wire.answers.append(Answer(request, said, there.timeline))

    def hear(self, answer: Answer) -> None:
        """An answer reaches whoever waits for it."""
        request = answer.request
        if request.waiter is not None and self.coordinator(request.sender).believes(request.to, answer.timeline):
            request.waiter.answered(request, answer.said)
        elif request.waiter is not None:
            self.unanswered(request)
        self.wire.answers.remove(answer)

    def cut(self, there: Participant) -> None:
        """A participant's connections break: what was on its way is lost, but for late copies."""
        requests = [each for each in self.wire.requests if each.to == there.name and each.waiter is not None]
        answers = [each for each in self.wire.answers if each.request.to == there.name]
        self.wire.requests = [each for each in self.wire.requests if each not in requests]
        self.wire.answers = [each for each in self.wire.answers if each not in answers]
        for request in requests:
            self.give_up(request)
        for answer in answers:
            self.board.draw(there.name, Arrow.LOST, answer.request.sender, answer.request.of.titled(shown(answer.said)))
            self.unanswered(answer.request)
        self.end_sessions(there)

    def end_sessions(self, there: Participant) -> None:
        """What was running at a participant is gone, and not answered."""
        for request in there.stop():
            self.unanswered(request)

    def return_of(self, there: Participant) -> None:
        """A participant is back: what was waiting for it is sent again."""
        back = [each for each in self.wire.held if each.to == there.name]
        self.wire.held = [each for each in self.wire.held if each not in back]
        for request in back:
            if request.waiter is not None:
                self.send(request)

    def _tell_unanswered(self, request: Request) -> None:
        sender = self.coordinators[request.sender]
        if request.waiter is None:
            return
        if sender.status == "frozen":
            sender.unheard.append(request)
        else:
            request.waiter.unanswered(request)

    # --- one thing after the other ----------------------------------------------------------------------------------

    def soon(self, work: Callable[[], None]) -> None:
        """Does this after what is being done, in the order asked."""
        self._later.append(work)

    def settle(self) -> None:
        """Does everything that was put off."""
        while self._later:
            self._later.popleft()()


def shown(said: str) -> str:
    """An answer in words."""
    return "refused for now" if said == "retry" else said


def _named(there: dict[str, T], name: str, what: str) -> T:
    if name not in there:
        raise Impossible(f"there is no {what} {name!r}; there are {', '.join(there) or 'none'}")
    return there[name]
