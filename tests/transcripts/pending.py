"""What is on its way to the journal: judged by the real rule, written, synced, answered.

Lives here: that way, and the proposal of a decision. Must not live here: what is made of the answer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

from transcripts.board import Arrow
from transcripts.wire import Transaction
from twophase.coordinator.journal.port import Basis, EpochFenced, JournalError, Proposal, Ruling
from twophase.coordinator.journal.rules import decided_by, needs_force

if TYPE_CHECKING:
    from transcripts.coordinator import Coordinator


class Ruled(Protocol):
    """Whoever waits for a ruling of the journal."""

    def ruled(self, ruling: Ruling) -> None:
        """The journal has ruled."""
        ...

    def refused(self, error: JournalError) -> None:
        """The journal does not take it."""
        ...


class Pending(ABC):
    """Something handed to the journal. `is_written` once it was taken, and waits for its sync."""

    def __init__(self, at: Coordinator, of: Transaction) -> None:
        self.at = at
        self.of = of
        self.is_written = False

    @property
    @abstractmethod
    def said(self) -> str:
        """What the journal answers, in words."""

    @abstractmethod
    def judge_and_write(self) -> bool:
        """Writes it, if the real rule takes it; whether the answer waits for a sync. Raises what the rule raises."""

    @abstractmethod
    def go_on(self) -> None:
        """Whoever waits for the answer has it."""

    @abstractmethod
    def stop(self, error: JournalError) -> None:
        """Whoever waits is told that it was not taken."""

    def write(self) -> bool:
        """The journal takes it up; whether the answer must wait for a sync. Who is fenced ends itself."""
        try:
            waits = self.judge_and_write()
        except JournalError as error:
            self.at.stage.sights.add(type(error))
            self.at.pending.remove(self)
            self.at.stage.board.draw("journal", Arrow.LOST, self.at.name, self.of.titled(type(error).__name__))
            if isinstance(error, EpochFenced):
                self.at.die()
            else:
                self.stop(error)
            return False
        self.is_written = True
        if not waits:
            self.answer(Arrow.SENT)
        return waits

    def answer(self, arrow: Arrow) -> None:
        """The journal's answer arrives."""
        self.at.pending.remove(self)
        self.at.stage.board.draw("journal", arrow, self.at.name, self.of.titled(self.said))
        self.go_on()


class Proposed(Pending):
    """A decision that is proposed."""

    def __init__(self, at: Coordinator, of: Transaction, proposal: Proposal, waiter: Ruled) -> None:
        super().__init__(at, of)
        self._proposal = proposal
        self._waiter = waiter
        self._ruling = Ruling(proposal.decision, Basis.ACCEPTED)

    @property
    def said(self) -> str:
        """See `Pending`."""
        decision = self.at.words(self.of, self._ruling.decision)
        if self._ruling.claimed_by is not None:
            return f"{decision}: {self.at.stage.named(self._ruling.claimed_by).name} has the request id"
        return f"{decision}, decided before" if self._ruling.basis is Basis.EARLIER else decision

    def judge_and_write(self) -> bool:
        """See `Pending`."""
        stage = self.at.stage
        self._ruling = stage.disk.judge(self._proposal)
        stage.sights.add(self._ruling.basis)
        if self._ruling.basis is not Basis.EARLIER:
            stage.disk.write(decided_by(self._proposal, self._ruling.decision))
        return needs_force(self._ruling.decision) or self._ruling.claimed_by is not None

    def go_on(self) -> None:
        """See `Pending`."""
        self._waiter.ruled(self._ruling)

    def stop(self, error: JournalError) -> None:
        """See `Pending`."""
        self._waiter.refused(error)
