"""How often a serving process looks for garbage.

Lives here: the one setting that coordinator and participants share. Must not live here: anything else about memory.
"""

from __future__ import annotations

import gc


def look_less_often() -> None:
    """Keeps what was made up to now for good, and looks at the rest less often. For a process that is ready to serve.

    What a call that is over leaves is no ring of references, so there is little to be found. By its defaults the
    collector would look at all that is under way every dozen calls.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
