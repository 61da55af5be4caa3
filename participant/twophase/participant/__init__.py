"""The library a service imports to take part in transactions: it declares operations; branches, ledger and gRPC follow.

    from twophase.participant import Participant, Refused, Retry

Never imports the coordinator.
"""

from twophase.participant.errors import DeclarationError, NotReady, ParticipantError, PayloadError, Refused
from twophase.participant.operations import Participant
from twophase.participant.retry import Retry

__all__ = ["DeclarationError", "NotReady", "Participant", "ParticipantError", "PayloadError", "Refused", "Retry"]
