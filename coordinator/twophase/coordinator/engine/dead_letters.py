"""Dead letters: compensations, and steps after a pivot, that have failed so often that somebody must look.

Lives here: listing them from the journal, and what an operator does about one. Must not live here: when something
becomes a dead letter (`saga`); it is tried again all the while.
"""

from __future__ import annotations

import asyncio
import logging

from twophase.contract.crashpoints import CrashPoint, reach
from twophase.contract.names import Gid, Txid
from twophase.coordinator.engine import rejections
from twophase.coordinator.engine.api import DeadLetter, Resolution
from twophase.coordinator.engine.barring import bar
from twophase.coordinator.engine.links import LinkLost
from twophase.coordinator.engine.live import Live
from twophase.coordinator.engine.saga import SagaUnderway
from twophase.coordinator.engine.underway import FINISH_SECONDS, Surroundings
from twophase.coordinator.journal.events import DeadLettered, Happening, Resolved, SagaStep, TransactionRecord
from twophase.coordinator.journal.port import Journal
from twophase.coordinator.protocol.decisions import Ending

_log = logging.getLogger(__name__)


async def dead_letters(journal: Journal) -> tuple[DeadLetter, ...]:
    """All of them, those of the oldest saga first. Costs what is unfinished, not history."""
    found = []
    for record in await journal.unfinished():
        if record.dead:
            history = await journal.history(record.txid)
            found += [_letter(record, number, history) for number in sorted(record.dead)]
    return tuple(found)


async def retry(live: Live, journal: Journal, txid: Txid, step: str) -> None:
    """Tries one again at once. Raises `Rejected`."""
    running, number = await _find(live, journal, txid, step)
    running.try_again(number)


async def resolve(
    around: Surroundings, live: Live, letter: tuple[Txid, str], *, actor: str, reason: str, even_if_away: bool
) -> Resolution:
    """Takes the dead letter of a saga and a step for done. Raises `Rejected`; then nothing was recorded.

    It is recorded before the participant bars it: a crash in between leaves who said so, and why, and whoever takes the
    saga up has it barred. That the participant answers is made sure of first. Of one that is resolved already nothing
    is recorded again.
    """
    txid, step = letter
    number = await _resolved(around.journal, txid, step)
    word: Resolved | None = None
    if number is None:
        running, number = await _find(live, around.journal, txid, step)
        peer = running.parts[number].peer
        try:
            await around.peers.greet(peer, within=FINISH_SECONDS)
        except LinkLost:
            if not even_if_away:
                raise rejections.cannot_be_barred(peer.name, step) from None
        if await _resolved(around.journal, txid, step) is None:
            running, number = await _find(live, around.journal, txid, step)  # it may be done by now
            if running.claims_the_word(number):  # else somebody else was faster
                word = Resolved(txid, number, actor, reason)
    # To its end, whoever stops waiting: what is resolved and not barred would be tried on, and done one day.
    resolving = _carry_out(around, live, (txid, number), word)
    ending = await asyncio.shield(around.tasks.follow(resolving, _seen))
    return Resolution(barred=ending is not None and ending is not Ending.APPLIED, done=ending is Ending.APPLIED)


async def _carry_out(around: Surroundings, live: Live, dead: tuple[Txid, int], word: Resolved | None) -> Ending | None:
    """Records the word, if there is one to record, has the participant bar it, and lets the saga go on."""
    txid, number = dead
    if word is not None:
        reach(CrashPoint.SAGA_BEFORE_RESOLVE)
        around.journal.append(word)
    await around.journal.flush()  # also the word of whoever was faster: it is barred by that, too
    if word is not None:
        reach(CrashPoint.SAGA_AFTER_RESOLVE)
    record = await around.journal.transaction(txid)
    if record is None:
        return None  # it had been resolved long ago, and was forgotten just now
    if word is not None:
        step = _step(record, number).name
        _log.warning("dead letter at step %r of saga %s is resolved by %s: %s", step, txid, word.actor, word.reason)
    ending = await _bar(around, record, number)
    running = live.get(txid)
    if isinstance(running, SagaUnderway):
        running.take_for_done(number)
    return ending


def _seen(resolving: asyncio.Future[Ending | None]) -> None:
    """What goes wrong in it is the engine's, too: nobody may be left to hear of it."""
    resolving.result()


async def _resolved(journal: Journal, txid: Txid, step: str) -> int | None:
    """The number of a step that is resolved already, else None."""
    record = await journal.transaction(txid)
    number = _number_of(record, step)
    return number if record is not None and number in record.resolved else None


async def _bar(around: Surroundings, record: TransactionRecord, number: int) -> Ending | None:
    peer = around.peers.get(_step(record, number).participant)
    if peer is None:
        return None
    gid = Gid(around.journal.journal_id, record.txid, number)
    return await bar(peer, gid, compensation=record.turned)


async def _find(live: Live, journal: Journal, txid: Txid, step: str) -> tuple[SagaUnderway, int]:
    record = await journal.transaction(txid)
    running = live.get(txid)
    number = _number_of(record, step)
    if record is not None and number in record.dead and isinstance(running, SagaUnderway):
        return running, number
    raise rejections.no_dead_letter(str(txid), step)


def _number_of(record: TransactionRecord | None, step: str) -> int:
    """The step of that name; -1 if there is none."""
    steps = record.definition.steps if record is not None and record.definition is not None else ()
    return next((number for number, each in enumerate(steps) if each.name == step), -1)


def _step(record: TransactionRecord, number: int) -> SagaStep:
    if record.definition is None:
        raise ValueError(f"the record of {record.txid} does not say what saga it is")
    return record.definition.steps[number]


def _letter(record: TransactionRecord, number: int, history: tuple[Happening, ...]) -> DeadLetter:
    dead, step = record.dead[number], _step(record, number)
    return DeadLetter(
        txid=record.txid,
        request_id=record.request.request_id if record.request is not None else "",
        step=step.name,
        participant=step.participant,
        operation=step.operation,
        compensation=record.turned,
        attempts=dead.attempts,
        reason=dead.reason,
        since=_since(history, number),
        branch=number,
    )


def _since(history: tuple[Happening, ...], number: int) -> int:
    """When it last became a dead letter."""
    moments = [one.at for one in history if isinstance(one.event, DeadLettered) and one.event.branch == number]
    return moments[-1]
