"""How the coordinator, its journal and its participants are, for people.

Lives here: the checks of the coordinator's own, and asking every participant for its. Must not live here: what is wrong
with a database (the participant says that), putting anything right, layout.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypeAlias

from twophase.coordinator.engine.api import DeadLetter, Limits, Rejected
from twophase.coordinator.engine.dead_letters import dead_letters
from twophase.coordinator.engine.links import LinkLost, NotOffered
from twophase.coordinator.engine.live import Live
from twophase.coordinator.engine.peers import Peer
from twophase.coordinator.engine.underway import Surroundings
from twophase.coordinator.journal.port import OnDisk, ParticipantRecord
from twophase.v1 import participant_pb2, types_pb2

_Result: TypeAlias = types_pb2.CheckResult.ValueType

_OK: Final = types_pb2.CHECK_RESULT_OK
_WARNING: Final = types_pb2.CHECK_RESULT_WARNING
_PROBLEM: Final = types_pb2.CHECK_RESULT_PROBLEM

DIAGNOSE_SECONDS: Final = 6.0
"""How long one participant may take to look at its database."""
_GREET_SECONDS: Final = 3.0

_LITTLE_SPACE: Final = 1 << 30  # bytes on the journal's disk
_NO_SPACE: Final = 64 << 20
_LONG_LOG: Final = 256 << 20  # it is moved into the file at a few megabytes
_SLOW_SYNC: Final = 0.5  # seconds


@dataclass(frozen=True, slots=True)
class ParticipantDiagnosis:
    """How one participant is: first whether it answers, then its own checks."""

    record: ParticipantRecord
    checks: tuple[types_pb2.Check, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """How everything is: the coordinator and its journal, then every participant, by name."""

    checks: tuple[types_pb2.Check, ...]
    participants: tuple[ParticipantDiagnosis, ...]
    label: str


async def diagnose(around: Surroundings, live: Live, limits: Limits, refusal: Rejected | None) -> Diagnosis:
    """Looks at everything, at all participants at the same time; at most some seconds. `refusal` is what new
    transactions are answered with at the moment, if they are refused.
    """
    peers = sorted(around.peers, key=lambda peer: peer.name)
    participants = await asyncio.gather(*(_participant(around, peer) for peer in peers))
    journal = around.journal
    return Diagnosis(
        checks=(
            _coordinator(around, live, limits),
            _admission(refusal),
            *([await asyncio.to_thread(_file, journal), _writes(journal)] if isinstance(journal, OnDisk) else ()),
            _quarantine(around),
            await _unfinished(around, live),
            await _heuristics(around),
            _dead(await dead_letters(around.journal)),
            _participants(len(peers)),
        ),
        participants=tuple(participants),
        label=journal.label if isinstance(journal, OnDisk) else "",
    )


def _check(subject: str, result: _Result, finding: str, remedy: str = "") -> types_pb2.Check:
    return types_pb2.Check(subject=subject, result=result, finding=finding, remedy=remedy)


# --- the coordinator --------------------------------------------------------------------------------------------------


def _coordinator(around: Surroundings, live: Live, limits: Limits) -> types_pb2.Check:
    finding = (
        f"twophase {version('twophase')}, epoch {around.journal.epoch.number},"
        f" {len(live)} transactions under way of at most {limits.running}"
    )
    if len(live) >= limits.running:
        return _check("coordinator", _PROBLEM, finding, "twophase indoubt  -- says what the transactions wait for")
    return _check("coordinator", _OK, finding)


def _admission(refusal: Rejected | None) -> types_pb2.Check:
    if refusal is None:
        return _check("new transactions", _OK, "are taken")
    problem = refusal.problem
    return _check("new transactions", _PROBLEM, f"are refused: {problem.message}", problem.remedy)


def _file(journal: OnDisk) -> types_pb2.Check:
    """Blocks: it asks the file system."""
    subject, path = "journal file", journal.path
    try:
        size, log = path.stat().st_size, _size_of_log(path)
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        remedy = f"ls -l {path}  -- it must not be moved while the coordinator runs"
        return _check(subject, _PROBLEM, f"{path} cannot be looked at: {error.strerror or error}", remedy)
    finding = f"{path}: {_bytes(size)} and {_bytes(log)} of log, {_bytes(free)} free on its disk"
    if free < _LITTLE_SPACE:
        result = _PROBLEM if free < _NO_SPACE else _WARNING
        return _check(subject, result, finding, f"df -h {path.parent}  -- make room; a full disk stops the coordinator")
    if log > _LONG_LOG:
        remedy = f"fuser {path}  -- another program that reads the journal keeps its log from being moved into the file"
        return _check(subject, _WARNING, finding, remedy)
    return _check(subject, _OK, finding)


def _size_of_log(path: Path) -> int:
    try:
        return path.with_name(f"{path.name}-wal").stat().st_size
    except FileNotFoundError:
        return 0


def _writes(journal: OnDisk) -> types_pb2.Check:
    seconds = journal.sync_seconds
    if seconds is None:
        return _check("journal writes", _OK, "nothing was forced to disk since the start")
    finding = f"the last forced write took {seconds * 1000:.1f} ms"
    if seconds >= _SLOW_SYNC:
        return _check("journal writes", _WARNING, finding, "put the journal on a disk of its own, or a faster one")
    return _check("journal writes", _OK, finding)


def _quarantine(around: Surroundings) -> types_pb2.Check:
    proof = around.peers.quarantine.proof
    if not proof:
        return _check("quarantine", _OK, "no participant has seen more than this journal knows")
    finding = f"the journal is older than its participants: {proof}; nothing new is begun"
    remedy = (
        "stop the coordinator, put the newest copy of the journal back, and start it again;"
        " if that is lost, start it with --after-restore"
    )
    return _check("quarantine", _PROBLEM, finding, remedy)


async def _unfinished(around: Surroundings, live: Live) -> types_pb2.Check:
    """Decided, and not finished everywhere: each is at work, again and again."""
    unfinished = await around.journal.unfinished()
    waited_for = sorted(
        {
            part.peer.name
            for running in live
            for part in running.parts.values()
            if part.attempts and part.number in running.open
        }
    )
    finding = f"decided and not finished everywhere yet: {len(unfinished)}"
    if waited_for:
        finding += f"; waited for: {', '.join(waited_for)}"
        remedy = (
            "twophase indoubt  -- says what each branch in doubt waits for\n"
            "twophase tx list --unfinished  -- sagas, too"
        )
        return _check("unfinished transactions", _WARNING, finding, remedy)
    return _check("unfinished transactions", _OK, finding)


async def _heuristics(around: Surroundings) -> types_pb2.Check:
    found = await around.journal.heuristics()
    if not found:
        return _check("heuristic outcomes", _OK, "no branch ended against its transaction's decision")
    finding = f"transactions with a branch that ended against the decision: {len(found)}; the first is {found[0].txid}"
    remedy = "twophase indoubt  -- lists them; compare the databases, and put the data right by hand"
    return _check("heuristic outcomes", _WARNING, finding, remedy)


def _dead(letters: tuple[DeadLetter, ...]) -> types_pb2.Check:
    if not letters:
        return _check("dead letters", _OK, "no saga has failed so often at a step that somebody must look")
    first = letters[0]
    where = f"step {first.step!r} of saga {first.txid} at {first.participant} ({first.reason.code})"
    finding = f"sagas' steps that fail again and again: {len(letters)}; the first is {where}"
    return _check("dead letters", _WARNING, finding, "twophase saga dead list  -- says what fails, and why")


def _participants(number: int) -> types_pb2.Check:
    if number:
        return _check("participants", _OK, f"{number} registered")
    remedy = "twophase participant MODULE:ATTRIBUTE --coordinator HOST:PORT"
    return _check("participants", _WARNING, "none is registered, so there is nothing to commit", remedy)


def _bytes(number: int) -> str:
    amount, units = float(number), iter(("bytes", "kB", "MB", "GB"))
    unit = next(units)
    for larger in units:
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:,.0f} {unit}"


# --- participants -----------------------------------------------------------------------------------------------------


async def _participant(around: Surroundings, peer: Peer) -> ParticipantDiagnosis:
    """Whether it answers, and as whom; then what it says of its database."""
    request = participant_pb2.DiagnoseRequest(journal_id=around.journal.journal_id)
    refused, answer = await asyncio.gather(_met(around, peer), _asked(peer, request))
    own: tuple[types_pb2.Check, ...]
    match answer:
        case NotOffered():
            remedy = "install a newer twophase there"
            own = (_check("diagnosis", _WARNING, "this participant does not offer Diagnose", remedy),)
        case LinkLost():
            return ParticipantDiagnosis(peer.record, (_away(peer, refused or str(answer)),))
        case participant_pb2.DiagnoseResponse():
            own = tuple(answer.checks)
            if not peer.speaks_for(answer.identity):
                refused = refused or "its answer comes from another database or timeline than the registered one"
    first = _away(peer, refused) if refused else _check("reachable", _OK, _whom(peer.record))
    return ParticipantDiagnosis(peer.record, (first, *own))


async def _met(around: Surroundings, peer: Peer) -> str:
    """Why it does not shake hands; empty if it does."""
    try:
        await around.peers.ready(peer, within=_GREET_SECONDS)
    except LinkLost as error:
        return str(error)
    return ""


async def _asked(peer: Peer, request: participant_pb2.DiagnoseRequest) -> participant_pb2.DiagnoseResponse | LinkLost:
    try:
        return await peer.link.diagnose(request, timeout=DIAGNOSE_SECONDS)
    except LinkLost as error:
        return error


def _whom(record: ParticipantRecord) -> str:
    where = f"database {record.database!r} of server {record.system_identifier}, timeline {record.timeline}"
    return f"at {record.address}, {where}"


def _away(peer: Peer, why: str) -> types_pb2.Check:
    where = peer.record.address
    remedy = (
        f"twophase participant MODULE:ATTRIBUTE --listen {where} --coordinator HOST:PORT"
        "  -- start it; at another address, it registers that"
    )
    return _check("reachable", _PROBLEM, f"not at {where}: {why}", remedy)
