"""Calls on a stream: many unary calls carried in both directions by one, several in a message.

Lives here: `calling`, the half that asks, and `answering`, the half that answers; both services of the contract use
them. `departures` says when what is ready leaves. Must not live here: what is asked, and what an answer means.

A message on a stream is a FRAME: calls with numbers, or answers with the numbers of their calls.
"""

from __future__ import annotations

from typing import Final

FRAME_BYTES: Final = 64 << 10
"""A frame is not filled further than this. What is larger by itself has a frame of its own."""

FRAME_COUNT: Final = 256
"""Nor with more calls or answers than this: a loop that works on one is held up that long."""
