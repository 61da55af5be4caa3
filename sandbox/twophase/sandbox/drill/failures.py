"""The failures that are drilled, in prose: what happens, who finishes it, how long that may take, which drills show it.

Lives here: the order of the rows of docs/failure-matrix.md; each row stands in one of the two modules beside. Must not
live here: measured times (they come from a run) and the table's form (`matrix`).

Every drill belongs to exactly one row; a test holds that.
"""

from __future__ import annotations

from typing import Final

from twophase.sandbox.drill.failure import Failure
from twophase.sandbox.drill.failures_inside import INSIDE
from twophase.sandbox.drill.failures_outside import OUTSIDE

FAILURES: Final[tuple[Failure, ...]] = (*INSIDE, *OUTSIDE)
