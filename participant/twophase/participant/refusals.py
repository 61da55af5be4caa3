"""Why a branch ended with no: from an exception to the reason that the client reads.

Lives here: the mapping from Postgres' SQLSTATEs (its manual, appendix A) and from business code's exceptions. Must not
live here: what is done about it (`branch`).
"""

from __future__ import annotations

from typing import Final, TypeAlias

import psycopg

from twophase.contract.text import shorten
from twophase.participant.errors import ParticipantError, PayloadError, Refused, UnknownOperation
from twophase.v1 import types_pb2

Kind: TypeAlias = types_pb2.RefusalKind.ValueType

_CONFLICT: Final = types_pb2.REFUSAL_KIND_CONFLICT
_CONSTRAINT: Final = types_pb2.REFUSAL_KIND_CONSTRAINT
_INTERNAL: Final = types_pb2.REFUSAL_KIND_INTERNAL
_RESOURCE: Final = types_pb2.REFUSAL_KIND_RESOURCE
_UNPREPARABLE: Final = types_pb2.REFUSAL_KIND_UNPREPARABLE
_UNREACHABLE: Final = types_pb2.REFUSAL_KIND_UNREACHABLE

# SQLSTATEs after which the same work may well succeed, whole or by class.
_RETRYABLE: Final[dict[str, Kind]] = {
    "40001": _CONFLICT,
    "40P01": _CONFLICT,
    "55P03": _CONFLICT,
    "53": _RESOURCE,
    "08": _UNREACHABLE,
    "57P": _UNREACHABLE,
    "25P03": _UNREACHABLE,  # idle_in_transaction_session_timeout ended the session
    "25P04": _UNREACHABLE,  # transaction_timeout did
}

# What cannot be prepared, by the function of the server that says so: its messages are translated, this is not.
_UNPREPARED: Final[dict[str, str]] = {
    "AtPrepare_Notify": "send the notification after the commit, in a transaction of its own",
    "PrePrepare_Notify": "send the notification after the commit, in a transaction of its own",
    "PreCommit_Portals": "declare the cursor without WITH HOLD",
    "AtPrepare_Locks": "take the advisory lock either for the session or for the transaction, not both",
    "CheckForSessionAndXactLocks": "take the advisory lock either for the session or for the transaction, not both",
}
_UNPREPARED_ELSE: Final = (
    "use no temporary tables or views (a common table expression or an ordinary table instead)"
    " and export no snapshot in the operation"
)


class Halted(ParticipantError):
    """The branch was told to stop while it worked; Abort came."""


class TooLate(ParticipantError):
    """The deadline passed before the branch was prepared."""


class TransactionTampered(ParticipantError):
    """Business code ended the branch's transaction itself, changed its role, or left it failed."""


class Barred(ParticipantError):
    """The ledger bars the branch: a tombstone, or the horizon of its epoch."""


class TakesNoWrites(ParticipantError):
    """The transaction of a branch that may write is read-only."""


class NoConnection(ParticipantError):
    """Every connection for work was busy until the deadline; nothing was started."""


class ConnectionGone(ParticipantError):
    """The session is lost. What its transaction came to depends on what was sent last."""


def refusal(kind: Kind, message: str, *, code: str = "", retryable: bool = False) -> types_pb2.Refusal:
    """A reason; `code` is the kind's name unless given."""
    name = types_pb2.RefusalKind.Name(kind).removeprefix("REFUSAL_KIND_")
    return types_pb2.Refusal(kind=kind, code=code or name, message=message, retryable=retryable)


def refusal_of(error: BaseException) -> types_pb2.Refusal:
    """The reason that an exception of a branch stands for, raised by business code or by the steps around it."""
    match error:
        case Refused():
            return types_pb2.Refusal(
                kind=types_pb2.REFUSAL_KIND_BUSINESS,
                code=_sendable(error.code),
                message=_sendable(error.message),
                retryable=error.retryable,
            )
        case UnknownOperation():
            return refusal(types_pb2.REFUSAL_KIND_UNKNOWN_OPERATION, str(error))
        case PayloadError():
            return refusal(types_pb2.REFUSAL_KIND_INVALID_PAYLOAD, str(error))
        case Halted() | Barred():
            return refusal(types_pb2.REFUSAL_KIND_ABORTED, str(error))
        case TooLate():
            return refusal(types_pb2.REFUSAL_KIND_DEADLINE, str(error), retryable=True)
        case ConnectionGone():
            return refusal(_UNREACHABLE, f"{error}; nothing of the branch is left, send it again", retryable=True)
        case NoConnection():
            return refusal(_RESOURCE, str(error), retryable=True)
        case TakesNoWrites():
            return refusal(_RESOURCE, str(error), code="25006", retryable=True)
        case ParticipantError():
            return refusal(_INTERNAL, str(error))
        case psycopg.Error():
            return _of_postgres(error)
        case _:
            pass
    # Only the class: the text of an exception that nobody declared may hold anything. It is in the participant's log.
    return refusal(
        _INTERNAL,
        f"the operation raised {type(error).__name__}, which it does not declare; the participant's log has the"
        " traceback. To refuse, raise Refused.",
    )


def _sendable(text: object) -> str:
    """Business code may say anything: the name of a file that is no UTF-8, an exception instead of its text. A refusal
    that could not be sent would be no answer, and a saga would ask for one again and again."""
    return str(text).encode(errors="backslashreplace").decode()


def _of_postgres(error: psycopg.Error) -> types_pb2.Refusal:
    code = error.sqlstate
    if code is None:
        if isinstance(error, psycopg.OperationalError):
            return refusal_of(ConnectionGone("the connection to the participant's database was lost"))
        return refusal(_INTERNAL, f"psycopg raised {type(error).__name__}: {shorten(str(error))}")
    said = shorten(error.diag.message_primary or type(error).__name__)
    where = error.diag.source_function or ""
    match code:
        case "53200" if where == "MarkAsPreparing":
            text = f"{said}: every slot for prepared transactions is taken; raise max_prepared_transactions (a restart)"
            return refusal(_RESOURCE, text, code=code, retryable=True)
        case "55000" if where == "MarkAsPreparing":
            text = f"{said}: ALTER SYSTEM SET max_prepared_transactions = 100, then restart the server"
            return refusal(_RESOURCE, text, code=code)
        case "0A000" if said.startswith("cannot PREPARE") or where in _UNPREPARED or where == "PrepareTransaction":
            return refusal(_UNPREPARABLE, f"{said}: {_UNPREPARED.get(where, _UNPREPARED_ELSE)}", code=code)
        case "42710" if where == "MarkAsPreparing":
            text = (
                f"{said}: something else in this cluster holds a prepared transaction of that name; it was left alone"
            )
            return refusal(_INTERNAL, text, code=code)
        case "25006":
            text = f"{said}: the operation is declared read_only; remove the declaration, or the write"
            return refusal(_INTERNAL, text, code=code)
        case "25P02":
            return refusal_of(TransactionTampered(SWALLOWED))
        case "57014":
            return refusal(_CONFLICT, f"{said}: somebody cancelled it", code=code, retryable=True)
        case _:
            pass
    if code.startswith("23"):
        on = f" (constraint {error.diag.constraint_name}" if error.diag.constraint_name else ""
        on += f", table {error.diag.table_name})" if on and error.diag.table_name else ")" if on else ""
        return refusal(_CONSTRAINT, f"{said}{on}", code=code)
    for prefix, kind in _RETRYABLE.items():
        if code.startswith(prefix):
            return refusal(kind, said, code=code, retryable=True)
    return refusal(_INTERNAL, f"Postgres refused a statement of the operation: {said}", code=code)


SWALLOWED: Final = (
    "business code caught an SQL error and went on, but the branch's transaction had failed with it."
    " Let the error pass, or run the statement inside connection.transaction(), which is a savepoint."
)
ENDED: Final = (
    "business code ended the branch's transaction with SQL of its own (COMMIT, ROLLBACK) or left another role set."
    " What it committed stays; twophase cannot undo it. Use connection.transaction() for savepoints."
)
