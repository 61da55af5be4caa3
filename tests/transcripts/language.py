"""The language of the commands: phrases, each with what it does.

Lives here: `Book`, in which a module writes its phrases, and finding the phrase that a command is. Must not live here:
the phrases (`told_*`), what they act on (`stage`).

In a phrase `{name}` stands for one word, `{name...}` for all that is left, and what is in brackets may be left out:
`the {what}[ of {tx}] to {who} is lost`. Words are handed over by name, None for those that were left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Concatenate, Generic, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class Unknown(Exception):
    """No phrase, or more than one, is what the command says."""


class Impossible(Exception):
    """The command cannot be done as things stand. The message says why."""


@dataclass(frozen=True, slots=True)
class Phrase(Generic[T]):
    """A way to say something, and what is done then."""

    words: str
    pattern: re.Pattern[str]
    act: Callable[..., None]


@dataclass(frozen=True, slots=True)
class Book(Generic[T]):
    """Phrases that act on a T."""

    phrases: list[Phrase[T]] = field(default_factory=list)

    def phrase(self, words: str) -> Callable[[Callable[Concatenate[T, P], None]], Callable[Concatenate[T, P], None]]:
        """Writes the decorated function into the book, under these words."""

        def write(act: Callable[Concatenate[T, P], None]) -> Callable[Concatenate[T, P], None]:
            self.phrases.append(Phrase(words, _pattern(words), act))
            return act

        return write


def act(books: Iterable[Book[T]], on: T, command: str) -> None:
    """Does what a command says. Raises `Unknown`, or what the phrase raises."""
    found = list(_matches(books, command))
    if not found:
        raise Unknown(f"no phrase says {command!r}")
    if len(found) > 1:
        raise Unknown(f"{command!r} can be read as each of: {'; '.join(phrase.words for phrase, _ in found)}")
    phrase, words = found[0]
    phrase.act(on, **words)


def matching(books: Iterable[Book[T]], command: str) -> list[Phrase[T]]:
    """The phrases that a command may be."""
    return [phrase for phrase, _ in _matches(books, command)]


def _matches(books: Iterable[Book[T]], command: str) -> Iterator[tuple[Phrase[T], dict[str, str | None]]]:
    for book in books:
        for phrase in book.phrases:
            match = phrase.pattern.fullmatch(command)
            if match is not None:
                yield phrase, match.groupdict()


def _pattern(words: str) -> re.Pattern[str]:
    pattern = re.escape(words)
    pattern = re.sub(r"\\{(\w+)\\\.\\\.\\\.\\}", r"(?P<\1>.+)", pattern)
    pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[\\w-]+)", pattern)
    return re.compile(pattern.replace(r"\[", "(?:").replace(r"\]", ")?"))
