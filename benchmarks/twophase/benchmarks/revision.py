"""Which revision of a checkout is measured.

Lives here: asking git. Must not live here: what is measured.
"""

from __future__ import annotations

import subprocess
from pathlib import Path


def revision() -> str | None:
    """The commit that is measured, with a mark if it was changed since; None outside of a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    except FileNotFoundError:
        return None
    return ran.stdout.strip() or None if ran.returncode == 0 else None
