"""How a transaction begins: what can be checked before anything is sent, its name, its parts.

Lives here: from a submission to a transaction under way. Must not live here: request ids (`engine`), what it does then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from twophase.contract.names import MAX_SEQUENCE, Txid
from twophase.coordinator.engine import offers, reasons, rejections
from twophase.coordinator.engine.api import Limits, Protocol, Submission
from twophase.coordinator.engine.live import Live
from twophase.coordinator.engine.offers import Offered
from twophase.coordinator.engine.running import Running
from twophase.coordinator.engine.saga import SagaUnderway, graph_of
from twophase.coordinator.engine.underway import Part, Surroundings, Underway
from twophase.coordinator.journal.events import Reason, RequestRef


class Starting:
    """Begins transactions, and names them. `check` raises `Rejected` while nothing new is to be begun."""

    def __init__(self, around: Surroundings, live: Live, limits: Limits, *, check: Callable[[], None]) -> None:
        self._around = around
        self._live = live
        self._limits = limits
        self._check = check
        self.next_sequence = 1

    async def start(self, submission: Submission, fingerprint: bytes) -> Underway:
        """Begins a transaction that nobody has begun. Raises `Rejected`; then nothing was sent."""
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        self._check()
        if len(self._live) >= self._limits.running:
            raise rejections.full(len(self._live), self._limits.running)
        found = await offers.find(submission, self._around.peers)
        if submission.protocol is Protocol.SAGA and not isinstance(found, Reason):
            found = await offers.undoable(found, graph_of(submission.calls), self._around.peers)
        self._check()
        request = RequestRef(submission.request_id, submission.attempt, fingerprint)
        left = submission.deadline - (loop.time() - arrived)
        away, offered = (found, ()) if isinstance(found, Reason) else (None, found)
        if away is None and left <= 0:
            names = tuple(dict.fromkeys(one.peer.name for one in offered))
            away = reasons.deadline(submission.deadline, names)
        running = self._make(submission, request, offered, deadline=max(0.0, left))
        self._live.add(running)
        if away is not None:
            running.refuse(away)
        else:
            running.begin()
        return running

    def _make(
        self, submission: Submission, request: RequestRef, offered: tuple[Offered, ...], *, deadline: float
    ) -> Underway:
        match submission.protocol:
            case Protocol.TWO_PHASE:
                in_turn = submission.in_turn
                parts = _branches(sorted(offered, key=_by_name) if in_turn else offered)
                return Running(self._around, self._next_txid(), request, parts, deadline=deadline, in_turn=in_turn)
            case Protocol.SAGA:
                parts = tuple(Part(number, one.peer, (one.call,)) for number, one in enumerate(offered))
                return SagaUnderway(self._around, self._next_txid(), request, parts, deadline=deadline)

    def _next_txid(self) -> Txid:
        sequence, epoch = self.next_sequence, self._around.journal.epoch
        if sequence >= MAX_SEQUENCE:
            raise RuntimeError(f"epoch {epoch} has given out all its {MAX_SEQUENCE} transactions; restart")
        self.next_sequence += 1
        return Txid(epoch, sequence)


def _by_name(offered: Offered) -> str:
    """The same order for everybody, so that those who want the same rows meet at the first of them."""
    return offered.peer.name


def _branches(offered: Iterable[Offered]) -> tuple[Part, ...]:
    """The branches of a two-phase commit: the operations at one participant are one branch, in their order (R12)."""
    groups: dict[str, list[Offered]] = {}
    for one in offered:
        groups.setdefault(one.peer.name, []).append(one)
    return tuple(
        Part(
            number,
            group[0].peer,
            tuple(one.call for one in group),
            read_only=all(one.described.read_only for one in group),
        )
        for number, group in enumerate(groups.values())
    )
