"""Why the engine refuses a call as such: the status, the words and the remedy of each case, in one place.

Lives here: building `Rejected`. Must not live here: when it is raised.
"""

from __future__ import annotations

import grpc

from twophase.contract.status import Problem
from twophase.coordinator.engine.api import Call, Rejected
from twophase.v1 import participant_pb2


def stopping() -> Rejected:
    """The coordinator takes nothing new."""
    return _rejected(
        grpc.StatusCode.UNAVAILABLE, "STOPPING", "the coordinator is stopping and nothing was started", "send it again"
    )


def quarantined(proof: str) -> Rejected:
    """The journal is an older copy: the request may have been carried out already."""
    fact = f"this coordinator's journal is older than its participants and it begins nothing new: {proof}"
    remedy = "put the newest journal back, or, if it is lost, start the coordinator with --after-restore"
    return _rejected(grpc.StatusCode.FAILED_PRECONDITION, "QUARANTINE", fact, remedy)


def full(running: int, limit: int) -> Rejected:
    """As many transactions are under way as may be."""
    fact = f"{running} transactions are running, the limit is {limit}, and nothing was started"
    return _rejected(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_TRANSACTIONS", fact, "send it again later")


def no_room(free: str, needed: str) -> Rejected:
    """The journal's disk is nearly full: what is decided is finished, and nothing else is begun."""
    fact = f"{free} on the disk of the coordinator's journal, and nothing was started"
    remedy = f"make room there, until {needed} are free, and send it again"
    return _rejected(grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_ROOM", fact, remedy)


def request_id_reused(request_id: str) -> Rejected:
    """The request id stands for other content."""
    fact = f"request id {request_id!r} was used with other content"
    remedy = "use a new request id for other content"
    return _rejected(
        grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED", fact, remedy, field="request_id", value=request_id
    )


def unknown_participant(index: int, name: str) -> Rejected:
    """The operation's participant is not registered."""
    return _rejected(
        grpc.StatusCode.NOT_FOUND,
        "UNKNOWN_PARTICIPANT",
        f"no participant {name!r} is registered",
        "register it (twophase participant --coordinator ...), or correct the name",
        field=f"operations[{index}].participant",
        value=name,
    )


def unknown_operation(index: int, call: Call, offered: list[str]) -> Rejected:
    """The participant does not have the operation."""
    return _rejected(
        grpc.StatusCode.NOT_FOUND,
        "UNKNOWN_OPERATION",
        f"participant {call.participant!r} has no operation {call.operation!r}",
        f"use one of: {', '.join(offered) or '(it offers none)'}",
        field=f"operations[{index}].name",
        value=call.operation,
    )


def no_compensation(index: int, call: Call, *, pivot: bool) -> Rejected:
    """The step may have to be undone, and its operation does not say how."""
    where = "comes before the pivot" if pivot else "may have to be undone, since no step is the pivot,"
    return _rejected(
        grpc.StatusCode.INVALID_ARGUMENT,
        "NO_COMPENSATION",
        f"step {call.step!r} {where} and its operation {call.participant}.{call.operation} has no compensation",
        "declare one at the participant (@participant.compensation), or make the step the pivot",
        field=f"operations[{index}]",
        value=call.step,
    )


def no_dead_letter(txid: str, step: str) -> Rejected:
    """There is no such dead letter, or none any more."""
    return _rejected(
        grpc.StatusCode.NOT_FOUND,
        "UNKNOWN_DEAD_LETTER",
        f"saga {txid} has no dead letter at a step {step!r}",
        "list them with: twophase saga dead list",
        field="step",
        value=step,
    )


def cannot_be_barred(participant: str, step: str) -> Rejected:
    """The participant is away, so a copy that is under way may take effect after the dead letter is resolved."""
    return _rejected(
        grpc.StatusCode.FAILED_PRECONDITION,
        "PARTICIPANT_UNREACHABLE",
        f"participant {participant!r} does not answer, so that step {step!r} cannot be barred there first",
        "resolve it when the participant is back; or, if it never will be, resolve it with even_if_away",
        field="step",
        value=step,
    )


def wrong_payload_type(index: int, call: Call, *, wanted: str, given: str) -> Rejected:
    """The payload is of another kind than the operation takes."""
    return _rejected(
        grpc.StatusCode.INVALID_ARGUMENT,
        "WRONG_PAYLOAD_TYPE",
        f"operation {call.operation!r} of participant {call.participant!r} takes {wanted}, not {given}",
        f"send {wanted}",
        field=f"operations[{index}].payload",
        value=given,
    )


def unreachable(name: str, address: str, why: str) -> Rejected:
    """Nobody of that name answers at the address that is to be registered."""
    return _rejected(
        grpc.StatusCode.FAILED_PRECONDITION,
        "PARTICIPANT_UNREACHABLE",
        f"participant {name!r} does not answer at {address}: {why}",
        "start it, or register the address that the coordinator reaches it by",
        field="address",
        value=address,
    )


def name_taken(name: str, *, owner: str, given: str) -> Rejected:
    """The name belongs to another database."""
    return _rejected(
        grpc.StatusCode.ALREADY_EXISTS,
        "NAME_TAKEN",
        f"participant name {name!r} belongs to {owner}, not to {given}",
        "give the other database a name of its own",
        field="participant",
        value=name,
    )


def database_taken(name: str, *, owner: str, database: str) -> Rejected:
    """The database has a name already. Two branches in one database could wait for each other unseen (R12)."""
    return _rejected(
        grpc.StatusCode.ALREADY_EXISTS,
        "DATABASE_TAKEN",
        f"{database} is registered as participant {owner!r} already, and a participant is its database",
        f"register it as {owner!r}, or use another database",
        field="participant",
        value=name,
    )


def is_of_its_type(described: participant_pb2.OperationDescription, call: Call) -> bool:
    """Whether the payload is of the kind that the operation takes, as far as the coordinator can tell."""
    if described.message_type:
        return call.payload.message.TypeName() == described.message_type
    return call.payload.WhichOneof("content") != "message"


def refuse_another_type(described: participant_pb2.OperationDescription, index: int, call: Call) -> None:
    """Raises `Rejected` for a payload of a kind the operation does not take; what is inside is the participant's to
    check, who also knows whether the operation takes nothing."""
    if is_of_its_type(described, call):
        return
    content = call.payload.WhichOneof("content")
    given = call.payload.message.TypeName() if content == "message" else content or "nothing"
    if described.message_type:
        wanted = f"a protobuf message of type {described.message_type}"
        raise wrong_payload_type(index, call, wanted=wanted, given=given)
    raise wrong_payload_type(index, call, wanted="JSON", given=f"the protobuf message {given}")


def _rejected(
    code: grpc.StatusCode, reason: str, fact: str, remedy: str, *, field: str = "", value: str = ""
) -> Rejected:
    return Rejected(Problem(code, reason, f"{fact}; {remedy}", field=field, value=value, remedy=remedy))
