"""Addresses a participant listens on, and is reached at.

Lives here: their form, and whether anybody but this machine can reach them. Must not live here: servers and channels.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from dataclasses import dataclass, replace
from typing import Final

from twophase.contract.status import shorten
from twophase.participant.errors import NotReady

_FORM: Final = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253}):([0-9]{1,5})")
_MAX_PORT: Final = 65535


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port, as in `127.0.0.1:0`, `payment.internal:7401` or `[::1]:7401`."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, option: str) -> Address:
        """Reads `host:port`; `option` is where it was given. Raises `NotReady`."""
        found = _FORM.fullmatch(text)
        if found is None or int(found[2]) > _MAX_PORT:
            raise NotReady(
                f"{option} is '{shorten(text)}', which is not HOST:PORT with a port of at most {_MAX_PORT}",
                f"{option} 127.0.0.1:7401",
            )
        return cls(found[1].strip("[]"), int(found[2]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def with_port(self, port: int) -> Address:
        """The same host with another port."""
        return replace(self, port=port)

    @property
    def is_wildcard(self) -> bool:
        """True if it stands for every address of this machine, so that nobody can be sent there."""
        try:
            return ipaddress.ip_address(self.host).is_unspecified
        except ValueError:
            return False

    def is_loopback(self) -> bool:
        """True if nobody on another machine can reach it. A name counts by what it resolves to; unresolved, it is not.

        Blocks while it resolves a name.
        """
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError:
            return False
        return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found)

    def why_not(self) -> NotReady:
        """Why a server could not listen here: gRPC does not say it, a socket of one's own does."""
        told = "the port was taken a moment ago"
        try:
            family, kind, protocol, _, where = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(where)
        except OSError as error:
            told = "the port is in use" if error.errno == errno.EADDRINUSE else str(error.strerror or error)
        return NotReady(f"cannot listen on {self}: {told}", f"--listen {self.with_port(0)} (takes a free port)")
