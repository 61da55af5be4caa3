"""What can go wrong in the sandbox, as classes. Every message has the fact, the value and the remedy."""

from __future__ import annotations


class SandboxError(Exception):
    """The base of every error of the sandbox."""


class PostgresMissing(SandboxError):
    """There are no Postgres binaries that can be run."""


class PostgresFailed(SandboxError):
    """A Postgres cluster could not be made, started or stopped. The message ends with its log's last lines."""


class ProcessFailed(SandboxError):
    """A process of the sandbox did not become ready, or ended by itself. The message ends with its log's last lines."""


class OrdersInvalid(SandboxError):
    """A file of orders cannot be used. The message has file, line, column and what was expected."""
