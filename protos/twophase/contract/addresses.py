"""Addresses that servers listen on and are reached at.

Lives here: their form, and who can reach them. Must not live here: servers and channels.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass, replace
from typing import Final

from twophase.contract.text import shorten

_FORM: Final = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253}):([0-9]{1,5})")
_MAX_PORT: Final = 65535


class InvalidAddress(ValueError):
    """An address that is not `host:port`. The message says what was given and what is expected."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port, as in `127.0.0.1:7400`, `orders.internal:7400` or `[::1]:7400`."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads `host:port`; port 0 is allowed (for a server: any free one). Raises `InvalidAddress`."""
        found = _FORM.fullmatch(text)
        if found is None or int(found[2]) > _MAX_PORT:
            raise InvalidAddress(f"address '{shorten(text)}' is not host:port with a port of at most {_MAX_PORT}")
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
            found = {str(info[4][0]) for info in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)}
        except OSError:
            return False
        return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)
