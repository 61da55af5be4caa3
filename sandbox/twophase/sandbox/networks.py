"""The ways in which a network fails.

Lives here: values. Must not live here: what makes it fail (`proxy`), what is tried with it (`drill.network`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Flow(Enum):
    """What becomes of the bytes of one direction."""

    PASSES = "passes"
    HELD = "held"
    SWALLOWED = "swallowed"


@dataclass(frozen=True, slots=True)
class Network:
    """How the network is. `requests` flow to the server, `replies` back. All durations are in seconds.

    `name` says it in words. The delays are those of each direction. `is_cut`: connections are reset, and new ones
    refused. `replies_for`: how long a new connection gets its replies all the same, so that it comes about.
    `reset_after`: how long after the first lost bytes a connection is reset.
    """

    name: str
    requests: Flow = Flow.PASSES
    replies: Flow = Flow.PASSES
    request_delay: float = 0.0
    reply_delay: float = 0.0
    is_cut: bool = False
    replies_for: float = 0.0
    reset_after: float | None = None


WHOLE: Final = Network("whole")
CUT: Final = Network("cut", is_cut=True)
"""Connections are reset, and new ones refused."""
BLACKHOLE: Final = Network("silent", Flow.SWALLOWED, Flow.SWALLOWED)
"""Connections stay, new ones are accepted, and nothing arrives, in either direction."""
HELD: Final = Network("held up", Flow.HELD, Flow.HELD)
"""Nothing arrives until the network is whole; then everything does, late."""
REQUESTS_ONLY: Final = Network("requests only", replies=Flow.SWALLOWED)
"""One-way: requests arrive and take effect; nothing comes back."""
REPLIES_ONLY: Final = Network("replies only", requests=Flow.SWALLOWED)
"""One-way: what the server sends arrives; nothing reaches it."""


def delayed(seconds: float) -> Network:
    """Everything arrives, in each direction so much later."""
    return Network(f"{seconds:g} s late", request_delay=seconds, reply_delay=seconds)


def replies_dropped(*, replies_for: float = 0.3, reset_after: float = 0.2) -> Network:
    """Requests arrive and take effect, answers do not come back, and then the connection is reset. A new one works for
    a moment and goes the same way.
    """
    return Network("answers lost", replies=Flow.SWALLOWED, replies_for=replies_for, reset_after=reset_after)
