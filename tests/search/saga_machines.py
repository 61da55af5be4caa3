"""The real saga machine and the journal's real rules, asked in the words of the search.

Lives here: the translation, with a memory of what was answered. Must not live here: any rule of the protocol.
"""

from __future__ import annotations

import functools
from typing import Final, TypeAlias

from search.saga_world import OWNER, SHAPES, Journal
from twophase.contract.names import Epoch, Txid
from twophase.coordinator.journal.events import Turned as TurnedFact
from twophase.coordinator.journal.port import EpochFenced, Proposal
from twophase.coordinator.journal.rules import EpochView, Situation, Standing, judge, judge_turn
from twophase.coordinator.protocol import saga
from twophase.coordinator.protocol.decisions import ABORT, SAGA, Decision, Ending
from twophase.coordinator.protocol.effects import SagaEffect
from twophase.coordinator.protocol.events import SagaEvent

Outcome: TypeAlias = tuple[str, tuple[str, ...], bool, tuple[SagaEffect, ...]]
"""A machine's answer: its phase, where every step stands, whether the saga is unwanted, the effects."""

ENDINGS: Final = {"applied": Ending.APPLIED, "refused": Ending.REFUSED, "tombstone": Ending.ABORTED}
"""What each row of the ledger is as an answer."""

_EPOCHS: Final = tuple(Epoch(number, f"{number:08x}") for number in range(1, 9))
_TXID: Final = Txid(_EPOCHS[OWNER], 1)
_DECISIONS: Final = {"saga": SAGA, "abort": ABORT, "presume": ABORT}


@functools.cache
def begin(shape: str) -> Outcome:
    """Begins a saga of this shape."""
    return _told(saga.begin(SHAPES[shape]))


@functools.cache
def resume(shape: str, known: tuple[str, ...], *, turned: bool) -> Outcome:
    """Takes it up. `known` says of every step what the journal knows: a row, undone, or nothing."""
    endings = {number: ENDINGS[word] for number, word in enumerate(known) if word in ENDINGS}
    undone = [number for number, word in enumerate(known) if word == "undone"]
    return _told(saga.resume(SHAPES[shape], endings, turned=turned, compensated=undone))


@functools.cache
def step(shape: str, phase: str, standings: tuple[str, ...], event: SagaEvent, *, unwanted: bool) -> Outcome:
    """Feeds an event."""
    starting = phase == saga.Phase.STARTING.value
    state = saga.State(
        saga.Phase(phase),
        SHAPES[shape],
        tuple((number, saga.Standing(standing)) for number, standing in enumerate(standings)),
        decision=None if starting else SAGA,
        unwanted=unwanted,
    )
    return _told(saga.step(state, event))


def _told(answer: saga.Step) -> Outcome:
    state, effects = answer
    standings = tuple(standing.value for _, standing in state.standings)
    # Whether it is wanted matters only until it starts; then everything that could be asked is asked.
    return state.phase.value, standings, state.unwanted and state.phase is saga.Phase.STARTING, effects


@functools.cache
def ruling(journal: Journal, proposer: int, kind: str) -> str | None:
    """The journal's answer to a proposal: saga or abort; None if the proposer is fenced and must stop."""
    proposal = Proposal(_TXID, _DECISIONS[kind], _EPOCHS[proposer], None, ())
    try:
        return judge(proposal, _situation(journal, proposer)).decision.kind.value
    except EpochFenced:
        return None


@functools.cache
def may_turn(journal: Journal, proposer: int) -> bool:
    """Whether the journal takes the turn; if not, the proposer is fenced and must stop."""
    try:
        judge_turn(TurnedFact(_TXID), _EPOCHS[proposer], _situation(journal, proposer))
    except EpochFenced:
        return False
    return True


def _situation(journal: Journal, proposer: int) -> Situation:
    owner = Standing.FENCED if journal.fenced else Standing.OPEN
    return Situation(
        existing=_decision(journal.decision),
        proposer=EpochView(owner if proposer == OWNER else Standing.OPEN),
        owner=EpochView(owner),
        holder=None,
    )


def _decision(kind: str) -> Decision | None:
    return _DECISIONS[kind] if kind else None
