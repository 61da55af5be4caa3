"""The real machines, asked in the words of the search.

Lives here: the translation between a world and `protocol.twophase`, `protocol.resolution` and `journal.rules`, with a
memory of what they answered. Must not live here: any rule of the protocol; a bug is planted by replacing one of these.
"""

from __future__ import annotations

import functools
from typing import Final, TypeAlias

from search.world import Journal
from twophase.contract.names import Epoch, Txid
from twophase.coordinator.journal.port import EpochFenced, Proposal
from twophase.coordinator.journal.rules import EpochView, Situation, Standing, judge
from twophase.coordinator.protocol import twophase
from twophase.coordinator.protocol.decisions import ABORT, COMMIT, Decision, delegated
from twophase.coordinator.protocol.effects import Effect
from twophase.coordinator.protocol.events import (
    Event,
)
from twophase.coordinator.protocol.resolution import Owner, Seen, Verdict, resolve

Outcome: TypeAlias = tuple[str, tuple[tuple[int, str], ...], str, tuple[Effect, ...]]
"""A machine's answer: its phase, (branch, standing) of every branch it knows, its decision, the effects."""

_READS, _WRITES = "is to read", "is to write"
QUEUED: Final = (_READS, _WRITES)
"""Where a branch stands whose turn has not come."""

_EPOCHS: Final = tuple(Epoch(number, f"{number:08x}") for number in range(1, 9))
_TXID: Final = Txid(_EPOCHS[0], 1)


def decision_of(kind: str, delegate: int | None) -> Decision:
    """The decision a word of the search stands for."""
    match kind:
        case "commit":
            return COMMIT
        case "abort" | "presume":
            return ABORT
        case _:
            assert delegate is not None
            return delegated(delegate)


@functools.cache
def begin(plan: tuple[bool, ...], *, in_turn: bool = False) -> Outcome:
    """Begins with branches that write or do not."""
    branches = [twophase.Branch(n, read_only=not writes) for n, writes in enumerate(plan)]
    return _told(twophase.begin(branches, in_turn=in_turn))


@functools.cache
def resume(kind: str, delegate: int | None, branches: tuple[int, ...]) -> Outcome:
    """Takes up what was decided."""
    return _told(twophase.resume(decision_of(kind, delegate), branches))


@functools.cache
def step(phase: str, standings: tuple[tuple[int, str], ...], kind: str, delegate: int | None, event: Event) -> Outcome:
    """Feeds an event."""
    state = twophase.State(
        twophase.Phase(phase),
        tuple((number, twophase.Standing(standing)) for number, standing in standings if standing not in QUEUED),
        decision_of(kind, delegate) if kind else None,
        queue=tuple(twophase.Branch(n, standing == _READS) for n, standing in standings if standing in QUEUED),
    )
    return _told(twophase.step(state, event))


def _told(answer: twophase.Step) -> Outcome:
    state, effects = answer
    standings = tuple((number, standing.value) for number, standing in state.standings)
    standings += tuple((each.number, _READS if each.read_only else _WRITES) for each in state.queue)
    return state.phase.value, standings, state.decision.kind.value if state.decision else "", effects


def ruling(journal: Journal, proposer: int, kind: str, delegate: int | None) -> str | None:
    """The journal's answer to a proposal; None if the proposer is fenced and must stop."""
    return _ruling(journal.decision, proposer, kind, delegate, fenced=journal.fenced)


@functools.cache
def _ruling(existing: str, proposer: int, kind: str, delegate: int | None, *, fenced: bool) -> str | None:
    owner = Standing.FENCED if fenced else Standing.OPEN
    situation = Situation(
        existing=decision_of(existing, delegate) if existing else None,
        proposer=EpochView(owner if proposer == 0 else Standing.OPEN),
        owner=EpochView(owner),
        holder=None,
    )
    proposal = Proposal(_TXID, decision_of(kind, delegate), _EPOCHS[proposer], None, ())
    try:
        return judge(proposal, situation).decision.kind.value
    except EpochFenced:
        return None


@functools.cache
def verdict(*, live: bool, decision: str, delegate: int | None, ours: bool, fenced: bool, seen_again: bool) -> Verdict:
    """What a sweep concludes from what it read, in whatever order it read it."""
    seen = Seen(_TXID, 0)
    owner = Owner.OURS if ours else Owner.FENCED if fenced else Owner.OTHERS
    findings = resolve(
        [seen],
        {_TXID} if live else set(),
        lambda _: decision_of(decision, delegate) if decision else None,
        lambda _: owner,
        {seen} if seen_again else set(),
    )
    return findings[0].verdict if findings else Verdict.LEAVE
