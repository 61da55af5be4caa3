"""The wall clock in the journal's unit.

Lives here: reading it. What it says is shown, and told from by how long ago something was (retention); never which of
two things came first, and never whether something is safe.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

Clock: TypeAlias = Callable[[], int]


def wall_clock() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
