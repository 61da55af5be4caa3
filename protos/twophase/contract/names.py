"""Names: journals, epochs, transactions, branches (GIDs), participants, operations, steps, requests.

Lives here: their forms, parsed and validated as a whole. Every name is ASCII with fields of fixed width, so that order
as text is order as numbers and no name is a prefix of another. Must not live here: who gives a name out.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import Final

MAX_BRANCHES: Final = 0x10000
MAX_SEQUENCE: Final = 0x1_0000_0000_0000

_JOURNAL = r"[0-9a-f]{16}"
_TXID = r"([0-9a-f]{8})-([0-9a-f]{8})-([0-9a-f]{12})"
_JOURNAL_RE: Final = re.compile(_JOURNAL)
_NONCE_RE: Final = re.compile(r"[0-9a-f]{8}")
_TXID_RE: Final = re.compile(_TXID)
_GID_RE: Final = re.compile(rf"tp-({_JOURNAL})-{_TXID}-([0-9a-f]{{4}})")
_PARTICIPANT_RE: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
_OPERATION_RE: Final = re.compile(r"[a-z][a-z0-9_.-]{0,62}")
_REQUEST_RE: Final = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
_STEP_RE: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class InvalidName(ValueError):
    """A name that does not have its form. The message says what was given and what is expected."""


@dataclass(frozen=True, slots=True, order=True)
class Epoch:
    """One start of one coordinator: the identity of an owner.

    `number` counts up with every start on a journal; `nonce`, 8 hex digits, tells apart two epochs of one number, which
    only a journal restored from a backup can give out.
    """

    number: int
    nonce: str
    _text: str = field(init=False, repr=False, compare=False)  # asked for a dozen times in every transaction

    def __post_init__(self) -> None:
        if not 0 < self.number < 2**32:
            raise InvalidName(f"epoch number {self.number} is not between 1 and {2**32 - 1}")
        if _NONCE_RE.fullmatch(self.nonce) is None:
            raise InvalidName(f"epoch nonce {self.nonce!r} is not 8 lower-case hex digits")
        object.__setattr__(self, "_text", f"{self.number:08x}-{self.nonce}")

    def __str__(self) -> str:
        return self._text


@dataclass(frozen=True, slots=True, order=True)
class Txid:
    """A global transaction: the epoch that gave it out and a number within it. Ordered without a clock."""

    epoch: Epoch
    sequence: int
    _text: str = field(init=False, repr=False, compare=False)  # as above

    def __post_init__(self) -> None:
        if not 0 <= self.sequence < MAX_SEQUENCE:
            raise InvalidName(f"sequence {self.sequence} is not between 0 and {MAX_SEQUENCE - 1}")
        object.__setattr__(self, "_text", f"{self.epoch}-{self.sequence:012x}")

    def __str__(self) -> str:
        return self._text

    def __hash__(self) -> int:
        return hash(self._text)

    @classmethod
    def parse(cls, text: str) -> Txid:
        """Reads `<epoch>-<nonce>-<sequence>`. Raises `InvalidName`."""
        found = _TXID_RE.fullmatch(text)
        if found is None:
            raise InvalidName(
                f"transaction name {text!r} is not of the form <epoch>-<nonce>-<sequence> (8, 8 and 12 hex digits)"
            )
        number, nonce, sequence = found.groups()
        return cls(Epoch(int(number, 16), nonce), int(sequence, 16))


@dataclass(frozen=True, slots=True, order=True)
class Gid:
    """A branch, by the name under which Postgres keeps it while it is prepared.

    55 ASCII characters (Postgres allows 199 bytes) without quotes or backslashes, so it may stand in SQL as a literal.
    """

    journal: str
    txid: Txid
    branch: int
    _text: str = field(init=False, repr=False, compare=False)  # as above

    def __post_init__(self) -> None:
        check_journal_id(self.journal)
        if not 0 <= self.branch < MAX_BRANCHES:
            raise InvalidName(f"branch number {self.branch} is not between 0 and {MAX_BRANCHES - 1}")
        object.__setattr__(self, "_text", f"tp-{self.journal}-{self.txid}-{self.branch:04x}")

    def __str__(self) -> str:
        return self._text

    def __hash__(self) -> int:
        return hash(self._text)

    @classmethod
    def parse(cls, text: str) -> Gid:
        """Reads a GID. Raises `InvalidName` for everything that is not one of ours, whole."""
        found = _GID_RE.fullmatch(text)
        if found is None:
            raise InvalidName(
                f"GID {text!r} is not of the form tp-<journal>-<epoch>-<nonce>-<sequence>-<branch>"
                " (16, 8, 8, 12 and 4 hex digits)"
            )
        journal, number, nonce, sequence, branch = found.groups()
        return cls(journal, Txid(_epoch(number, nonce), int(sequence, 16)), int(branch, 16))


@functools.lru_cache(maxsize=64)
def _epoch(number: str, nonce: str) -> Epoch:
    """Nearly all branches are of one epoch."""
    return Epoch(int(number, 16), nonce)


def check_journal_id(text: str) -> str:
    """Returns `text` if it is a journal id, 16 lower-case hex digits. Raises `InvalidName`."""
    if _JOURNAL_RE.fullmatch(text) is None:
        raise InvalidName(f"journal id {text!r} is not 16 lower-case hex digits")
    return text


def check_participant_name(text: str) -> str:
    """Returns `text` if it can name a participant. Raises `InvalidName`."""
    if _PARTICIPANT_RE.fullmatch(text) is None:
        raise InvalidName(
            f"participant name {text!r} is not 1 to 63 characters of a-z, 0-9 and '-' that start with a letter"
        )
    return text


def check_operation_name(text: str) -> str:
    """Returns `text` if it can name an operation. Raises `InvalidName`."""
    if _OPERATION_RE.fullmatch(text) is None:
        raise InvalidName(
            f"operation name {text!r} is not 1 to 63 characters of a-z, 0-9, '_', '.' and '-' that start with a letter"
        )
    return text


def check_request_id(text: str) -> str:
    """Returns `text` if it can name a request. Raises `InvalidName`."""
    if _REQUEST_RE.fullmatch(text) is None:
        raise InvalidName(
            f"request id {text!r} is not 1 to 128 characters of A-Z, a-z, 0-9, '.', '_', ':', '/' and '-'"
        )
    return text


def check_step_name(text: str) -> str:
    """Returns `text` if a client can name a step so. Raises `InvalidName`."""
    if _STEP_RE.fullmatch(text) is None:
        raise InvalidName(f"step name {text!r} is not 1 to 64 characters of A-Z, a-z, 0-9, '.', '_', ':' and '-'")
    return text
