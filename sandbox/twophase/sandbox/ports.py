"""TCP ports on the loopback address for servers that are to keep their address over a restart.

Lives here: choosing them. Below the kernel's ephemeral range, because a client that keeps dialling an ephemeral port
whose server is down can be given that very port for its own end, and then talks to itself.
"""

from __future__ import annotations

import random
import socket
import threading
from typing import Final

LOOPBACK: Final = "127.0.0.1"
_LOWEST: Final = 20_000
_HIGHEST: Final = 32_000
_TRIES: Final = 200
_given_out: set[int] = set()
_lock = threading.Lock()
_random = random.SystemRandom()


def free_port() -> int:
    """A port that nobody listens on now and that this process was not given before.

    Somebody else may take it before it is used, so a server that finds it taken has to be given another one.
    Raises `OSError` if none is found.
    """
    for _ in range(_TRIES):
        port = _random.randrange(_LOWEST, _HIGHEST)
        with _lock:
            if port in _given_out:
                continue
            _given_out.add(port)
        if not is_taken(port):
            return port
    raise OSError(f"no free TCP port between {_LOWEST} and {_HIGHEST} on {LOOPBACK} in {_TRIES} tries")


def is_taken(port: int) -> bool:
    """True if a server listens on this port of the loopback address (or on all addresses)."""
    with socket.socket() as probe:
        # As servers do: a connection that is only waiting out its last minutes is not in the way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return True
    return False
