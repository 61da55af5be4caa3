"""What is in doubt, on a screen and as JSON.

Lives here: words and layout. Must not live here: options, exit codes, the connection (`indoubt_cli`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from twophase.coordinator.client import InDoubt, InDoubtBranch, Transaction, Waiter
from twophase.coordinator.operator.durations import counted, lasting
from twophase.coordinator.operator.layout import fact, hanging

YOUNG_S: Final = 1.0
"""Branches younger than this, of transactions that go their way, are told as a number."""

_MOST: Final = 50  # branches that are listed unless all are wanted: the oldest tell the story
_NAME: Final = len("participant")
_QUERY: Final = 200  # characters of a statement; the JSON has more
_DECISIONS: Final = {"COMMIT": "commit", "ABORT": "abort", "DELEGATED": "delegated to one branch"}
_STATES: Final = {
    "PREPARED": "prepared, as the journal says",
    "WORKING": "perhaps prepared: its vote is not known",
}
_WEAK: Final = "AccessShareLock"  # held by whoever reads, in the way of almost nobody


@dataclass(frozen=True, slots=True)
class Sight:
    """All that is shown: what is in doubt, and the transactions that ended against their decision. `database` is set if
    that was looked into, and no coordinator asked."""

    doubts: InDoubt
    heuristic: tuple[Transaction, ...] = ()
    database: str | None = None

    @property
    def oldest_s(self) -> float | None:
        """The age of the oldest branch that was seen; None if there is none."""
        return max((branch.age_s for branch in self.doubts.branches if branch.age_s is not None), default=None)

    def has_older_than(self, seconds: float) -> bool:
        """Whether a branch is in doubt for longer, or nobody knows for how long."""
        return any(branch.age_s is None or branch.age_s >= seconds for branch in self.doubts.branches)


def as_dict(sight: Sight) -> dict[str, Any]:
    """For JSON: everything, whatever the screen would leave out."""
    return {
        "in_doubt": len(sight.doubts.branches),
        "oldest_s": sight.oldest_s,
        **asdict(sight.doubts),
        "heuristic": [_heuristic(transaction) for transaction in sight.heuristic],
        "database": sight.database,
    }


def show(console: Console, sight: Sight, *, everything: bool) -> None:
    """Shows it. Unless `everything` is wanted, what is young and on its way is only counted."""
    doubts = sight.doubts
    if doubts.quarantine:
        hanging(console, Text("quarantine  ", "bold red"), doubts.quarantine)
        hanging(console, " " * 12, "nothing new is begun; what is not decided is settled by evidence only")
    listed = [branch for branch in doubts.branches if everything or not _is_on_its_way(branch)]
    hidden = len(doubts.branches) - len(listed)
    console.print(Text(_headline(sight, listed, hidden), "bold" if listed else ""), soft_wrap=True)
    for branch in listed if everything else listed[:_MOST]:
        console.print()
        console.print(Text(branch.gid, "bold yellow"), soft_wrap=True)
        for name, said in _facts(branch):
            fact(console, name, said, width=_NAME)
        _show_waiters(console, branch.waiters)
    if len(listed) > _MOST and not everything:
        console.print()
        console.print(f"and {counted(len(listed) - _MOST, 'branch', 'branches')} more, not listed; --all lists them")
    if hidden and listed:
        console.print()
        console.print(f"{_on_their_way(hidden)} not listed; --all lists them")
    for one in doubts.unanswered:
        console.print()
        console.print(Text.assemble((one.participant, "bold red"), " does not answer"), soft_wrap=True)
        fact(console, "error", one.error, width=_NAME)
        fact(console, "so", "what is prepared there is known from the journal only", width=_NAME)
    _show_heuristic(console, sight.heuristic)


def _is_on_its_way(branch: InDoubtBranch) -> bool:
    young = branch.age_s is not None and branch.age_s < YOUNG_S
    return young and bool(branch.doing) and not branch.attempts


def _on_their_way(number: int) -> str:
    return f"{counted(number, 'branch', 'branches')} of running transactions, younger than {YOUNG_S:g} s,"


def _headline(sight: Sight, listed: Sequence[InDoubtBranch], hidden: int) -> str:
    where = f" in the database {sight.database}" if sight.database is not None else ""
    if not listed:
        but = f" but {_on_their_way(hidden)} --all lists them" if hidden else ""
        return f"nothing is in doubt{where}{but}"
    oldest = "" if sight.oldest_s is None else f", the oldest for {lasting(sight.oldest_s)}"
    verb = "is" if len(listed) == 1 else "are"
    return f"{counted(len(listed), 'branch', 'branches')} {verb} in doubt{where}{oldest}"


def _facts(branch: InDoubtBranch) -> Iterator[tuple[str, str]]:
    if branch.participant:
        yield "participant", branch.participant
    if branch.age_s is not None:
        yield "state", f"prepared {lasting(branch.age_s)} ago" + (f" by {branch.owner}" if branch.owner else "")
    else:
        yield "state", _STATES.get(branch.state, branch.state.lower())
    request = f"request {branch.request_id}, " if branch.request_id else ""
    yield "for", f"{request}transaction {branch.txid}"
    if branch.doing:  # else no coordinator was asked
        yield "decision", _DECISIONS.get(branch.decision, "none yet")
        yield "coordinator", branch.doing
    if branch.last_error:
        yield "last error", branch.last_error
    if branch.locks:
        yield "holds", _locks(branch)
    if branch.horizon_xids is not None:
        yield "vacuum", f"held back by {counted(branch.horizon_xids, 'transaction id')}"
    if branch.observed and not branch.waiters:
        yield "waiting", "nobody"


def _locks(branch: InDoubtBranch) -> str:
    """The tables, by mode; indexes, the ledger's own tables and those that were only read are counted."""
    by_mode: defaultdict[str, list[str]] = defaultdict(list)
    others = 0
    for lock in branch.locks:
        if lock.target.startswith(("index ", "TOAST table ", "twophase.")) or lock.mode == _WEAK:
            others += 1
        else:
            by_mode[lock.mode].append(lock.target)
    told = [f"{', '.join(targets)} ({mode})" for mode, targets in sorted(by_mode.items())]
    if others:
        told.append(f"{counted(others, 'lock')} on indexes, the ledger and what it read")
    return "; ".join(told)


def _show_waiters(console: Console, waiters: Iterable[Waiter]) -> None:
    name = "waiting"
    for waiter in waiters:
        who = f"{waiter.user} ({waiter.application})" if waiter.application else waiter.user or "the server itself"
        behind = f", behind pid {waiter.behind}" if waiter.behind else ""
        fact(console, name, f"pid {waiter.pid}, {who}, for {lasting(waiter.waiting_s)}{behind}", width=_NAME)
        query = " ".join(waiter.query.split())
        fact(console, "", f"  {query}" if len(query) <= _QUERY else f"  {query[:_QUERY]} ...", width=_NAME)
        name = ""


def _show_heuristic(console: Console, transactions: Sequence[Transaction]) -> None:
    if not transactions:
        return
    verb = "has" if len(transactions) == 1 else "have"
    console.print()
    headline = f"{counted(len(transactions), 'transaction')} {verb} a branch that ended against the decision"
    console.print(Text(headline, "bold red"), soft_wrap=True)
    for transaction in transactions:
        console.print()
        console.print(Text(transaction.txid, "bold"), soft_wrap=True)
        fact(console, "request", transaction.request_id or "not known", width=_NAME)
        fact(console, "decision", _DECISIONS.get(transaction.decision, "none yet"), width=_NAME)
        for gid, participant in _against(transaction):
            fact(console, "against it", f"{gid} at {participant}", width=_NAME)


def _against(transaction: Transaction) -> list[tuple[str, str]]:
    return [(branch.gid, branch.participant) for branch in transaction.branches if branch.state == "HEURISTIC"]


def _heuristic(transaction: Transaction) -> dict[str, Any]:
    return {
        "txid": transaction.txid,
        "request_id": transaction.request_id,
        "decision": transaction.decision,
        "branches": [{"gid": gid, "participant": participant} for gid, participant in _against(transaction)],
    }
