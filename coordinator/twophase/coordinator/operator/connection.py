"""How an operator's verb reaches a coordinator, and how it ends when it cannot.

Lives here: the option, one run of a client, exit codes and the lines that go with them. Must not live here: what a verb
asks for, and how the answer looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, NoReturn, TypeAlias, TypeVar

import grpc
import typer

from twophase.coordinator.client import AsyncClient, CallRejected, CoordinatorUnavailable, InvalidRequest, TwophaseError

FAILED: Final = 1
WRONG_INPUT: Final = 2
UNREACHABLE: Final = 3
"""Exit codes: the answer is no, the question is wrong, nobody answered."""

SECONDS: Final = 5.0
"""How long an answer is waited for."""

T = TypeVar("T")

Coordinator: TypeAlias = Annotated[
    str,
    typer.Option("--coordinator", envvar="TWOPHASE_COORDINATOR", metavar="HOST:PORT", help="The coordinator to ask."),
]
AsJson: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print one JSON object, and nothing else, on standard output.")
]
DEFAULT_COORDINATOR: Final = "127.0.0.1:7400"


def fail(line: str, code: int = FAILED) -> NoReturn:
    """Ends the command with one line on stderr."""
    typer.echo(f"twophase: {line}", err=True)
    raise typer.Exit(code)


def ask(coordinator: str, question: Callable[[AsyncClient], Awaitable[T]]) -> T:
    """The answer of a coordinator. Ends the command if the question is wrong, or nobody answers for some seconds."""

    async def asking() -> T:
        async with AsyncClient(coordinator, timeout=SECONDS) as client:
            return await question(client)

    try:
        return asyncio.run(asking())
    except InvalidRequest as error:
        fail(str(error), WRONG_INPUT)
    except CoordinatorUnavailable as error:
        fail(f"{error}; name the one you mean with --coordinator or TWOPHASE_COORDINATOR", UNREACHABLE)
    except CallRejected as error:
        if error.code is grpc.StatusCode.UNIMPLEMENTED:
            fact = f"what listens at {coordinator} does not offer this ({error})"
            fail(f"{fact}: no coordinator, or one of an older release")
        fail(str(error))
    except TwophaseError as error:
        fail(str(error))
