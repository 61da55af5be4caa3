"""How fast the machine itself is, from one moment to the next.

Lives here: a fixed piece of work, timed. Must not live here: what follows from it (`paper.repeat`).

Where processors are shared with others (virtual machines, hyper-threads) the same code takes up to twice the processor
time while those others work, for seconds or for minutes. Neither the load average nor the steal time has to show that.
What was measured at another pace comes out otherwise, so the pace is kept beside every measurement.
"""

from __future__ import annotations

import time
from typing import Final

_PIECES: Final = 8
_STEPS: Final = 20_000


def pace_us() -> float:
    """The microseconds of processor time that a fixed piece of work takes now. Blocks for some milliseconds."""
    began = time.thread_time()
    for _ in range(_PIECES):
        total = 0
        for step in range(_STEPS):
            total += step
    return 1e6 * (time.thread_time() - began) / _PIECES
