"""What can go wrong in a participant, as classes.

Lives here: the errors a service raises or sees. Must not live here: their mapping to votes (`branch`) or to gRPC
(`service`).
"""

from __future__ import annotations


class ParticipantError(Exception):
    """The base of every error of the participant library. The message has the fact, the value and the remedy."""


class Refused(ParticipantError):
    """Business code raises this to refuse: the branch is rolled back, and the client reads the reason.

    `code` is for programs (UPPER_SNAKE_CASE by custom), `message` for people. `retryable` says that the same request,
    unchanged, may succeed later; the coordinator passes it on.
    """

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retryable = retryable


class PayloadError(ParticipantError):
    """A payload is not of its operation's type. Raised before any business code has run.

    `operation` is the operation's name, empty where it is not known yet.
    """

    def __init__(self, message: str, *, operation: str = "") -> None:
        super().__init__(message)
        self.operation = operation


class UnknownOperation(PayloadError):
    """The participant has no operation of that name. Raised before any business code has run."""


class DeclarationError(ParticipantError):
    """An operation or participant is declared wrongly; raised at import time of the service, with what to write."""


class NotReady(ParticipantError):
    """The participant cannot start: its database is not fit (slots, ledger, grants, identity), or what it was started
    with will not do. `remedies` are what to type, in order."""

    def __init__(self, message: str, *remedies: str) -> None:
        super().__init__(message)
        self.remedies = remedies
