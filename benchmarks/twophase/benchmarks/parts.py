"""The parts of `twophase bench scale`.

Lives here: their names. Must not live here: what they measure (`scale`); nothing here imports that.
"""

from __future__ import annotations

from enum import StrEnum


class Part(StrEnum):
    """What can be measured by itself. The value is the name on the command line."""

    FAN_OUT = "fan-out"
    MEMORY = "memory"
    START = "start"
