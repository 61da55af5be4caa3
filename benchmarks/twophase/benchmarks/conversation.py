"""What a process of clients and whoever measures say to each other: lines of JSON over a socket.

Lives here: the clients' side. Must not live here: the other side (`clients`), what is asked for and answered, and
nothing of the sandbox, which the clients do not need.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from twophase.contract.addresses import Address

AT: Final = "at"
"""In every answer: the moment it tells of. After `DONE` comes nothing more of one order."""
DONE: Final = "done"


def serve(
    title: str,
    listen: Address,
    run: Callable[[dict[str, Any], Callable[[str], None]], Mapping[str, Any]],
) -> None:
    """Takes one visitor, and from it one order after the other, which `run` answers; in between it may tell of moments.
    Ends when the visitor has gone. `title` says who is ready, in the process' ready line."""
    with socket.create_server((listen.host, listen.port)) as server:
        sys.stdout.write(f"{title} is ready on {listen}\n")
        sys.stdout.flush()
        visitor, _ = server.accept()
    with visitor, visitor.makefile("rw", encoding="utf-8", newline="\n") as lines:

        def tell(answer: Mapping[str, Any]) -> None:
            lines.write(json.dumps(answer) + "\n")
            lines.flush()

        for line in lines:
            told = run(json.loads(line), lambda moment: tell({AT: moment}))
            tell({AT: DONE, **told})
