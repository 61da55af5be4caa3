"""Evidence in a transcript: asking every ledger, and ending what is prepared as they prove it.

Lives here: the questions, and what is written down of the answers, as the engine does it. Must not live here: the
conclusion, which is `protocol.evidence`.
"""

from __future__ import annotations

from dataclasses import dataclass

from transcripts.board import Arrow
from transcripts.coordinator import Coordinator
from transcripts.wire import Request, Transaction
from twophase.coordinator.journal.events import Begun, Ended, Finished
from twophase.coordinator.protocol.decisions import Ending
from twophase.coordinator.protocol.evidence import Conclusion, Sign, conclude

_ENDINGS = {ending.value: ending for ending in Ending}
_ROWS = {
    "applied": Ending.APPLIED,
    "refused": Ending.REFUSED,
    "tombstone": Ending.ABORTED,
    "barred": Ending.ABORTED,
    "lost": Ending.LOST,
}


def settle(at: Coordinator, of: Transaction) -> None:
    """Ends what is prepared as the rows of all participants prove it; else raises an alarm."""
    signs, silent = ask_everybody(at, of)
    if silent:
        at.alarm(of.titled(f"no decision here, and {', '.join(silent)} may know how it ended"))
        return
    found = conclude(signs.values())
    at.stage.sights.add(found)
    match found:
        case Conclusion.NOTHING:
            at.alarm(of.titled("no decision here, and no ledger tells how it ended"))
        case Conclusion.CONTRADICTION:
            rows = "; ".join(f"{name}: {sign.value}" for name, sign in signs.items())
            at.alarm(of.titled(f"no decision here, and the ledgers contradict each other ({rows})"))
        case Conclusion.COMMIT | Conclusion.ABORT:
            at.stands(of.titled(f"the ledgers prove {found.value}"))
            _end(at, of, commit=found is Conclusion.COMMIT)


def _end(at: Coordinator, of: Transaction, *, commit: bool) -> None:
    seen = {there.name: there.branches[of.name].column.db for there in at.stage.here() if of.name in there.branches}
    prepared = [name for name, db in seen.items() if db == "prepared"]
    waiting = Proven(at, of, commit, set(prepared), {name: _ROWS[db] for name, db in seen.items() if db in _ROWS})
    for name in prepared:
        at.ask(of, of.branch_at(name), "commit" if commit else "abort", waiting)
    waiting.write_down_if_over()


@dataclass(eq=False, slots=True)
class Proven:
    """Waits until the prepared branches have ended as the ledgers prove it, then writes down what was seen."""

    at: Coordinator
    of: Transaction
    commit: bool
    left: set[str]
    endings: dict[str, Ending]
    silent: bool = False

    def answered(self, request: Request, said: str) -> None:
        """One has ended."""
        if (said == "applied") is not self.commit:
            self.at.alarm(self.of.titled(f"{request.to} is {said}, its siblings prove otherwise"))
        self.endings[request.to] = _ENDINGS[said]
        self.left.discard(request.to)
        self.write_down_if_over()

    def unanswered(self, request: Request) -> None:
        """The next sweep asks again."""
        self.silent = True
        self.left.discard(request.to)
        self.write_down_if_over()

    def write_down_if_over(self) -> None:
        """The branches that the journal did not know, how they ended, and the end, if it is one."""
        if self.left:
            return
        of, record = self.of, self.at.stage.disk.state.record(self.of.txid)
        refs = {place: of.ref(of.branch_at(place)) for place in self.endings}
        if record is None or not set(record.branches).issuperset(refs.values()):
            self.at.write(Begun(of.txid, None, tuple(refs.values())), of.titled("begun"))
        known = {} if record is None else record.endings
        for place, ending in self.endings.items():
            if known.get(refs[place].number) is not ending:
                said = of.titled(f"{place} {ending.value}")
                self.at.write(Finished(of.txid, refs[place].number, ending), said)
        if not self.silent and (record is None or not record.ended):
            ended = f"ended, {'committed' if self.commit else 'aborted'}"
            self.at.write(Ended(of.txid, self.commit), of.titled(ended))


def ask_everybody(at: Coordinator, of: Transaction) -> tuple[dict[str, Sign], list[str]]:
    """What each participant's row says, where there is one, and who gives no answer."""
    signs, silent = {}, []
    for there in at.stage.participants.values():
        if not (there.up and at.believes(there.name, there.timeline)):
            at.stage.board.draw(there.name, Arrow.LOST, at.name, of.titled("no answer"))
            silent.append(there.name)
            continue
        branch = there.branches.get(of.name)
        found = "none" if branch is None else branch.column.db
        at.stage.board.draw(there.name, Arrow.SENT, at.name, of.titled("no row" if found == "none" else found))
        sign = there.sign(of)
        if sign is not None:
            signs[there.name] = sign
    return signs, silent
