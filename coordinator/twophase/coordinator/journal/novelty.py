"""Which request ids a journal has certainly never seen, so that nobody has to look for them in its file.

Lives here: what is remembered of the ids, and learning from the file which ones it has. Must not live here: SQL.

Nearly every request is new, and every one is asked for before anything is done (R6): an answer from memory spares the
way to the reading thread and back. What is remembered is one bit for each value of a hash. A bit that is not set proves
that no id with that hash was handed to the journal, by this process or by those before it. One that is set proves
nothing: then the file is asked. It is asked about everything until all its ids are learned, which takes its time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

BITS: Final = 1 << 26
"""A power of two; 8 MiB. With a million ids 1.5 % of the new ones are looked for in the file, with 30 million 36 %."""

CROWDED: Final = BITS >> 2
"""With so many bits set, and twice as many as the file needed, it is learned anew: what it has forgotten makes room."""

AT_ONCE: Final = 1000
PAUSE: Final = 0.005
"""In seconds, between so many ids and the next: there is no hurry, and others are at work."""


class Novelty:
    """Use from one event loop. Make it before anything is handed to the journal.

    `settled` returns once everything that was handed to the journal before is in its file; `page` reads the ids of the
    file that come after one, in their order, at most so many.
    """

    def __init__(
        self,
        settled: Callable[[], Awaitable[object]],
        page: Callable[[str, int], Awaitable[Sequence[str]]],
        *,
        bits: int = BITS,
        crowded: int = CROWDED,
    ) -> None:
        self._settled = settled
        self._page = page
        self._bits = bits
        self._crowded = crowded
        self._limit = crowded
        self._known: _Hashes | None = None
        self._learning: _Hashes | None = _Hashes(bits)
        self._due = asyncio.Event()

    def note(self, request_id: str) -> None:
        """An id that is about to be handed to the journal. Call it before that."""
        if self._learning is not None:
            self._learning.add(request_id)
        if self._known is not None:
            self._known.add(request_id)
            if self._known.count >= self._limit:
                self._due.set()

    def is_new(self, request_id: str) -> bool:
        """Whether the journal certainly has nothing about it, neither in its file nor on the way there."""
        return self._known is not None and request_id not in self._known

    async def keep(self) -> None:
        """Learns what is in the file, and again whenever that is worth it; never returns. Raises what the two calls
        raise."""
        while True:
            await self._learn()
            await self._due.wait()
            # What is noted from here on is added. What was before may be on its way to a page that is read already.
            self._learning = _Hashes(self._bits)
            await self._settled()

    async def _learn(self) -> None:
        learning = self._learning
        assert learning is not None  # noqa: S101
        ids = await self._page("", AT_ONCE)
        while ids:
            for request_id in ids:
                learning.add(request_id)
            if len(ids) < AT_ONCE:
                break
            await asyncio.sleep(PAUSE)
            ids = await self._page(ids[-1], AT_ONCE)
        self._known, self._learning = learning, None
        self._limit = max(self._crowded, 2 * learning.count)
        self._due.clear()


class _Hashes:
    """A set of hashes that never takes more room. The hash is Python's, with a key of this process: nobody can choose
    ids that collide."""

    __slots__ = ("_bits", "_mask", "count")

    def __init__(self, bits: int) -> None:
        self._bits = bytearray(bits >> 3)
        self._mask = bits - 1
        self.count = 0

    def add(self, request_id: str) -> None:
        place = hash(request_id) & self._mask
        byte, bit = place >> 3, 1 << (place & 7)
        if not self._bits[byte] & bit:
            self._bits[byte] |= bit
            self.count += 1

    def __contains__(self, request_id: str) -> bool:
        place = hash(request_id) & self._mask
        return bool(self._bits[place >> 3] & 1 << (place & 7))
