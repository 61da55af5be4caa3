"""The `reason` of an ErrorInfo that the coordinator's service gives: what a program branches on.

Lives here: the names, once, for the service and the client. Must not live here: messages, status codes.
"""

from __future__ import annotations

from typing import Final

MISSING_FIELD: Final = "MISSING_FIELD"
"""A field that is needed is empty."""

MALFORMED_FIELD: Final = "MALFORMED_FIELD"
"""A field does not have its form."""

MALFORMED_MESSAGE: Final = "MALFORMED_MESSAGE"
"""The bytes are not a message of the call's type."""

OVER_LIMIT: Final = "OVER_LIMIT"
"""A field is larger, longer or more than the coordinator takes."""

UNKNOWN_VALUE: Final = "UNKNOWN_VALUE"
"""A number that names no value of the field's enum."""

MALFORMED_STEPS: Final = "MALFORMED_STEPS"
"""The steps of a request make no saga: two of one name, one that is not there, a circle, two pivots, one beside it."""

NOT_OFFERED: Final = "NOT_OFFERED"
"""The call, or what it asks for, is in the contract but not offered."""

UNKNOWN_TRANSACTION: Final = "UNKNOWN_TRANSACTION"
"""There is no record of the transaction."""

PAYLOAD_REFUSED: Final = "PAYLOAD_REFUSED"
"""The transaction was started and is aborted: a participant could not read a payload. Nothing is left of it."""

OPERATION_REFUSED: Final = "OPERATION_REFUSED"
"""The transaction was started and is aborted: a participant does not have an operation. Nothing is left of it."""

INTERNAL: Final = "INTERNAL"
"""A defect of the coordinator; what became of the call is not known."""

OUTCOMES: Final = frozenset({PAYLOAD_REFUSED, OPERATION_REFUSED})
"""The reasons that are the outcome of a transaction, where all others say that this call started nothing."""
