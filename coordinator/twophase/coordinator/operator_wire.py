"""Between what the engine tells operators and the contract's messages.

Lives here: mapping, one function a message. Must not live here: what applications are told (`wire`), gRPC.
"""

from __future__ import annotations

from twophase.contract.names import Epoch, Gid
from twophase.coordinator import wire
from twophase.coordinator.engine.api import DeadLetter
from twophase.coordinator.engine.diagnosis import Diagnosis, ParticipantDiagnosis
from twophase.coordinator.engine.indoubt import Doubt, Survey
from twophase.coordinator.journal.events import BranchRef
from twophase.v1 import coordinator_pb2, types_pb2


def in_doubt_response(survey: Survey, epoch: Epoch) -> coordinator_pb2.ListInDoubtResponse:
    """The answer to ListInDoubt."""
    return coordinator_pb2.ListInDoubtResponse(
        branches=[_in_doubt(doubt) for doubt in survey.branches],
        unanswered=[
            coordinator_pb2.Unanswered(participant=one.participant, error=one.error) for one in survey.unanswered
        ],
        quarantine=survey.quarantine,
        epoch=wire.epoch_message(epoch),
    )


def diagnose_response(
    diagnosis: Diagnosis, journal_id: str, epoch: Epoch
) -> coordinator_pb2.CoordinatorDiagnoseResponse:
    """The answer to Diagnose."""
    return coordinator_pb2.CoordinatorDiagnoseResponse(
        checks=diagnosis.checks,
        participants=[_participant(one) for one in diagnosis.participants],
        journal_id=journal_id,
        label=diagnosis.label,
        epoch=wire.epoch_message(epoch),
    )


def dead_letters_response(
    letters: tuple[DeadLetter, ...], journal_id: str, epoch: Epoch
) -> coordinator_pb2.ListDeadLettersResponse:
    """The answer to ListDeadLetters."""
    return coordinator_pb2.ListDeadLettersResponse(
        dead_letters=[_dead_letter(letter, journal_id) for letter in letters], epoch=wire.epoch_message(epoch)
    )


def _dead_letter(letter: DeadLetter, journal_id: str) -> coordinator_pb2.DeadLetter:
    message = coordinator_pb2.DeadLetter(
        txid=str(letter.txid),
        request_id=letter.request_id,
        step=letter.step,
        participant=letter.participant,
        operation=letter.operation,
        kind=types_pb2.BRANCH_KIND_COMPENSATION if letter.compensation else types_pb2.BRANCH_KIND_WORK,
        attempts=letter.attempts,
        refusal=wire.refusal(letter.reason),
        gid=str(Gid(journal_id, letter.txid, letter.branch)),
    )
    message.since.FromMilliseconds(letter.since)
    return message


def _in_doubt(doubt: Doubt) -> coordinator_pb2.InDoubtBranch:
    record, seen = doubt.record, doubt.seen
    state = coordinator_pb2.BRANCH_STATE_PREPARED
    if seen is None and record is not None:
        state = wire.branch_state(record, BranchRef(doubt.gid.branch, doubt.participant))
    branch = coordinator_pb2.InDoubtBranch(
        gid=str(doubt.gid),
        txid=str(doubt.gid.txid),
        request_id="" if record is None or record.request is None else record.request.request_id,
        participant=doubt.participant,
        state=state,
        decision=wire.decision(None if record is None else record.decision),
        doing=doubt.doing,
        attempts=doubt.attempts,
        last_error=doubt.last_error,
        observed=seen is not None,
    )
    if seen is not None:
        branch.age.CopyFrom(seen.age)
        branch.owner = seen.owner
        branch.locks.extend(seen.locks)
        branch.waiters.extend(seen.waiters)
        branch.horizon_age = seen.horizon_age
    return branch


def _participant(diagnosis: ParticipantDiagnosis) -> coordinator_pb2.ParticipantDiagnosis:
    record = diagnosis.record
    return coordinator_pb2.ParticipantDiagnosis(
        participant=record.name,
        address=record.address,
        identity=types_pb2.DatabaseIdentity(
            system_identifier=record.system_identifier, timeline=record.timeline, database=record.database
        ),
        checks=diagnosis.checks,
    )
