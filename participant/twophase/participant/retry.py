"""How a saga's step is tried again: the policy that an operation declares.

Lives here: the policy and its limits. Must not live here: the tries (the coordinator makes them), how it is declared
(`operations`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from google.protobuf.duration_pb2 import Duration

from twophase.participant.errors import DeclarationError
from twophase.v1 import participant_pb2

_MOST_ATTEMPTS: Final = 2**32 - 1
_LONGEST_PAUSE: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Retry:
    """How often, and how soon, an operation is tried again as a step of a saga after a refusal that is retryable.

    `attempts` in all, then the step counts as refused. `first_pause` and `longest_pause` in seconds: the pauses grow
    exponentially between them, with jitter. Compensations, and steps after the pivot, are tried for ever with these
    pauses; `attempts` failures of theirs are an alarm and a dead letter.

    Raises `DeclarationError`.
    """

    attempts: int = 5
    first_pause: float = 0.05
    longest_pause: float = 5.0

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= _MOST_ATTEMPTS:
            raise DeclarationError(
                f"Retry(attempts={self.attempts}): it is tried at least once; write attempts=1 for no second attempt"
            )
        if not (math.isfinite(self.first_pause) and 0 < self.first_pause <= self.longest_pause <= _LONGEST_PAUSE):
            raise DeclarationError(
                f"Retry(first_pause={self.first_pause}, longest_pause={self.longest_pause}): the pauses are seconds,"
                f" the first more than 0 and not longer than the longest, which is at most {_LONGEST_PAUSE:g}"
            )

    def message(self) -> participant_pb2.RetryPolicy:
        """The same on the wire."""
        return participant_pb2.RetryPolicy(
            attempts=self.attempts,
            first_pause=duration(self.first_pause),
            longest_pause=duration(self.longest_pause),
        )


def duration(seconds: float) -> Duration:
    """A length of time on the wire; what is below 0 is 0."""
    message = Duration()
    message.FromNanoseconds(max(0, int(seconds * 1e9)))
    return message
