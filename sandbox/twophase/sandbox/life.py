"""What happens to the processes and links of a system, for whoever wants to be told.

Lives here: the words. Must not live here: who tells (`processes`, `postgres`, `system`), and who listens
(`drill.timeline`).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TypeAlias

Watcher: TypeAlias = Callable[[str, str], None]
"""Is told who, and what has become of it. Called from any thread, at the moment it happens."""


class Life(Enum):
    """What a process is doing."""

    STARTING = "starting"
    STANDING_BY = "standing by"
    UP = "up"
    FROZEN = "frozen"
    STOPPING = "stopping"
    DOWN = "down"


def nobody(who: str, what: str) -> None:
    """A watcher that does not care."""
