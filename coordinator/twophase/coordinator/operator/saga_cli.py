"""The verbs `twophase saga dead list`, `show`, `retry` and `resolve`.

Lives here: options, layout, exit codes. Must not live here: words (`saga_words`), times (`moments`), the connection.
"""

from __future__ import annotations

import getpass
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Final, TypeAlias

import typer
from rich.console import Console

from twophase.contract.names import InvalidName, Txid
from twophase.coordinator.client import AsyncClient, DeadLetter
from twophase.coordinator.operator import moments, words
from twophase.coordinator.operator.connection import DEFAULT_COORDINATOR, AsJson, Coordinator, ask, fail
from twophase.coordinator.operator.durations import counted
from twophase.coordinator.operator.layout import fact, hanging
from twophase.coordinator.operator.screen import columns, screen

_WIDTH: Final = len("last failure")
_KINDS: Final = {"COMPENSATION": "its compensation", "WORK": "the step itself, which is after the pivot"}


def _a_transaction(text: str) -> str:
    try:
        return str(Txid.parse(text))
    except InvalidName as error:
        raise typer.BadParameter(str(error)) from error


_Saga: TypeAlias = Annotated[str, typer.Argument(metavar="TXID", help="The saga.", callback=_a_transaction)]
_Step: TypeAlias = Annotated[str, typer.Argument(metavar="STEP", help="The step, by its name.")]

saga_app: Final = typer.Typer(
    name="saga",
    help="Look after sagas: their dead letters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
dead_app: Final = typer.Typer(
    name="dead",
    help="Dead letters: compensations, and steps after a pivot, that fail again and again.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
saga_app.add_typer(dead_app)


@saga_app.callback()
def _saga() -> None:
    """Look after sagas: their dead letters."""


@dead_app.command("list")
def list_(*, coordinator: Coordinator = DEFAULT_COORDINATOR, json: AsJson = False) -> None:
    """List the dead letters, those of the oldest saga first. Each is tried again all the same."""
    letters = ask(coordinator, lambda client: client.dead_letters())
    if json:
        typer.echo(words.to_json({"dead_letters": [asdict(letter) for letter in letters]}))
    else:
        draw(screen(), letters)


@dead_app.command()
def show(txid: _Saga, step: _Step, *, coordinator: Coordinator = DEFAULT_COORDINATOR, json: AsJson = False) -> None:
    """Show a dead letter: what fails, since when, why, and what can be done about it."""
    letter = _find(coordinator, txid, step)
    if json:
        typer.echo(words.to_json({"dead_letter": asdict(letter)}))
    else:
        render(screen(), letter)


@dead_app.command()
def retry(txid: _Saga, step: _Step, *, coordinator: Coordinator = DEFAULT_COORDINATOR, json: AsJson = False) -> None:
    """Try a dead letter again at once, and count its failures anew."""
    ask(coordinator, lambda client: client.retry_dead_letter(txid, step))
    if json:
        typer.echo(words.to_json({"txid": txid, "step": step, "tried_again": True}))
    else:
        typer.echo(f"step {step} of saga {txid} is being tried again; see: twophase tx show {txid}")


@dead_app.command()
def resolve(
    txid: _Saga,
    step: _Step,
    *,
    reason: Annotated[
        str,
        typer.Option("--reason", metavar="TEXT", help="What was done instead, or why nothing needs to be; recorded."),
    ],
    actor: Annotated[
        str | None, typer.Option("--actor", metavar="NAME", help="Who says so; recorded. Your login name unless given.")
    ] = None,
    even_if_away: Annotated[
        bool,
        typer.Option(
            "--even-if-away",
            help="Also if its participant does not answer. A copy that is under way may then take effect later.",
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Ask nothing. Without a terminal nothing is asked anyway.")
    ] = False,
    coordinator: Coordinator = DEFAULT_COORDINATOR,
    json: AsJson = False,
) -> None:
    """Take a dead letter for done, by your word: the saga goes on, and it is tried no more.

    Its participant bars it first, so that a copy that is under way does nothing. This cannot be taken back.
    """
    who = actor if actor is not None else _login_name()
    if not yes and not json and _on_a_terminal():
        console = screen()
        render(console, _find(coordinator, txid, step))
        console.print()
        typer.confirm("Take it for done? It is not tried any more, and the saga goes on", abort=True)

    async def resolving(client: AsyncClient) -> Any:
        return await client.resolve_dead_letter(txid, step, actor=who, reason=reason, even_if_away=even_if_away)

    found = ask(coordinator, resolving)
    if json:
        told = {"txid": txid, "step": step, "actor": who, "reason": reason, **asdict(found)}
        typer.echo(words.to_json(told))
    elif found.done:
        typer.echo(f"step {step} of saga {txid}: it had been done after all, before it could be resolved; it goes on")
    elif found.barred:
        typer.echo(f"step {step} of saga {txid} is resolved; its participant bars it now, and the saga goes on")
    else:
        line = f"step {step} of saga {txid} is resolved, and the saga goes on; but its participant did not bar it:"
        typer.echo(f"{line} a copy that is under way may take effect later")


def draw(console: Console, letters: Sequence[DeadLetter]) -> None:
    """All of them, a line each."""
    if not letters:
        console.print("there is no dead letter")
        return
    rows = [
        (one.txid, one.step, one.participant, one.kind.lower(), str(one.attempts), moments.full(one.since), _why(one))
        for one in letters
    ]
    headings = ("saga", "step", "at", "what fails", "times", "since", "last failure")
    console.print(columns(headings, rows, right=("times",)))
    console.print()
    console.print(
        f"{counted(len(letters), 'dead letter')}; what helps with one says: twophase saga dead show TXID STEP"
    )


def render(console: Console, letter: DeadLetter) -> None:
    """One of them, and what can be done about it."""
    for name, said in _facts(letter):
        fact(console, name, said, width=_WIDTH)
    name = f"{letter.txid} {letter.step}"
    hanging(
        console, "  type:  ", f"twophase saga dead retry {name}  -- when its cause is gone; it is tried anyway, in time"
    )
    hanging(console, "  type:  ", f'twophase saga dead resolve {name} --reason "..."  -- when it was done by hand')


def _facts(letter: DeadLetter) -> Iterator[tuple[str, str]]:
    yield "saga", letter.txid
    if letter.request_id:
        yield "request", letter.request_id
    yield "step", letter.step
    yield "participant", letter.participant
    yield "operation", letter.operation
    yield "what fails", _KINDS.get(letter.kind, letter.kind.lower())
    yield "failed", f"{counted(letter.attempts, 'time')} in a row, a dead letter since {moments.full(letter.since)}"
    yield "last failure", _why(letter)
    yield "branch", letter.gid


def _why(letter: DeadLetter) -> str:
    return f"{letter.refusal.code}: {letter.refusal.message}"


def _find(coordinator: str, txid: str, step: str) -> DeadLetter:
    letters = ask(coordinator, lambda client: client.dead_letters())
    found = next((letter for letter in letters if (letter.txid, letter.step) == (txid, step)), None)
    if found is None:
        others = [letter.step for letter in letters if letter.txid == txid]
        hint = f"it has them at {', '.join(others)}" if others else "list them with: twophase saga dead list"
        fail(f"saga {txid} has no dead letter at a step {step!r}; {hint}")
    return found


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        fail("your login name is not known here; say with --actor who resolves it")


def _on_a_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()
