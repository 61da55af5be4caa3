"""The names that the contract gives: branches, transactions, journals, epochs.

Lives here: their forms, checked as a whole before anything is looked up. Must not live here: who asks for what.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

HIGHEST_SEQUENCE: Final = 16**12

_JOURNAL: Final = re.compile(r"[0-9a-f]{16}")
_NONCE: Final = re.compile(r"[0-9a-f]{8}")
_TXID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{12}")
_GID: Final = re.compile(r"tp-([0-9a-f]{16})-([0-9a-f]{8}-[0-9a-f]{8})-([0-9a-f]{12})-[0-9a-f]{4}")


class Malformed(ValueError):
    """A field of a call has not its form: INVALID_ARGUMENT. The message names it."""


@dataclass(frozen=True, slots=True)
class Gid:
    """A branch. `epoch` is its owner, `<number>-<nonce>` as in the name; `sequence` its transaction's number there."""

    text: str
    journal: str
    epoch: str
    sequence: int


def gid_of(text: str) -> Gid:
    """Reads a branch's name. Raises `Malformed`."""
    found = _GID.fullmatch(text)
    if found is None:
        raise Malformed(f"gid: {text[:60]!r} is not of the form tp-<journal>-<epoch>-<nonce>-<sequence>-<branch>")
    journal, epoch, sequence = found.groups()
    return Gid(text, journal, epoch, int(sequence, 16))


def journal_of(text: str) -> str:
    """Reads a journal's id. Raises `Malformed`."""
    if _JOURNAL.fullmatch(text) is None:
        raise Malformed(f"journal_id: {text[:60]!r} is not 16 lower-case hex digits")
    return text


def txid_of(text: str) -> str:
    """Reads a transaction's name. Raises `Malformed`."""
    if _TXID.fullmatch(text) is None:
        raise Malformed(f"txid: {text[:60]!r} is not of the form <epoch>-<nonce>-<sequence>")
    return text


def epoch_of(number: int, nonce: str) -> str:
    """An epoch as it stands in the names of its branches. Raises `Malformed`."""
    if number == 0 or _NONCE.fullmatch(nonce) is None:
        raise Malformed(f"epoch: {number} with the nonce {nonce[:60]!r} is none; a nonce is 8 lower-case hex digits")
    return f"{number:08x}-{nonce}"


def names_under(prefix: str) -> tuple[str, str]:
    """From where, and up to where, the names lie that go on behind `prefix` and a dash: '.' follows '-' in ASCII."""
    return f"{prefix}-", f"{prefix}."
