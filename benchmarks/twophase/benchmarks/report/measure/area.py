"""Figures out of times: goodput in slots, and the work that an outage cost.

Lives here: pure arithmetic. Must not live here: measuring.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

SLOT: Final = 0.1
"""Seconds."""
_BACK: Final = 0.9
_SLOTS_TO_BELIEVE: Final = 5


def in_slots(moments: Iterable[float], seconds: float) -> list[float]:
    """How many of the moments (seconds from the beginning) fall into each slot of `SLOT`."""
    counts = [0.0] * max(1, round(seconds / SLOT))
    for moment in moments:
        number = int(moment / SLOT + 1e-9)
        if moment >= 0 and number < len(counts):
            counts[number] += 1
    return counts


@dataclass(frozen=True, slots=True)
class Loss:
    """`lost`: what would have been done and was not, from the crash until the goodput was back, `back` seconds from the
    beginning; None if it never was.
    """

    lost: float
    back: float | None


def area_lost(slots: Sequence[float], *, rate: float, crash: float, ready: float | None) -> Loss:
    """The area between what was done before (`rate` a second) and what was done since the crash.

    The goodput is back where half a second, from when it was `ready` on, brings nine tenths of it. Never less than 0:
    a backlog that is worked off in time was late and not lost. Without `ready` all slots to the end count.
    """
    first = int(crash / SLOT)
    end, back = len(slots), None
    if ready is not None:
        for start in range(max(first, int(ready / SLOT)), len(slots) - _SLOTS_TO_BELIEVE + 1):
            if sum(slots[start : start + _SLOTS_TO_BELIEVE]) >= _BACK * rate * SLOT * _SLOTS_TO_BELIEVE:
                end, back = start + _SLOTS_TO_BELIEVE, start * SLOT
                break
    return Loss(max(0.0, rate * SLOT * (end - first) - sum(slots[first:end])), back)
