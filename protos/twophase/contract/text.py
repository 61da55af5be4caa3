"""Values as they may be shown in messages.

Lives here: making any text fit for a line. Must not live here: messages.
"""

from __future__ import annotations

from typing import Final

_SHOWN: Final = 200


def shorten(text: str) -> str:
    """A value as it may be shown in a message: at most 200 characters, with what is unprintable escaped."""
    shown = text if text.isprintable() else ascii(text)[1:-1]
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}... ({len(text)} characters)"
