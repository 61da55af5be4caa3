"""Where a contender's process finds what it works with.

Lives here: addresses, and their way through the environment. Must not live here: what is done there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final, Self

_VARIABLE: Final = "TWOPHASE_BENCH_PLACES"


@dataclass(frozen=True, slots=True)
class Places:
    """Connection URIs by participant, the coordinator's `host:port`, and DBOS' system database as an URL.

    They have passwords in them, so they travel in the environment.
    """

    databases: Mapping[str, str] = field(default_factory=dict)
    coordinator: str = ""
    state: str = ""

    def to_environment(self) -> dict[str, str]:
        """For `from_environment`."""
        return {_VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> Self:
        """What this process was given. Raises `KeyError` if that is nothing."""
        return cls(**json.loads(os.environ[_VARIABLE]))
