"""The verbs of `twophase` that concern a participant: `participant` runs one, `ledger` prepares its database.

Lives here: options, their texts, and how an expected failure looks. Must not live here: what the verbs do.
`participant` is a command's function and `ledger_app` a typer application; who builds the command line mounts them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Final

import typer

from twophase.contract.names import InvalidName
from twophase.participant import migrations
from twophase.participant.errors import NotReady
from twophase.participant.loading import load
from twophase.participant.resource import Settings
from twophase.participant.server import NO_DSN, ServerSettings, dsn_of, serve


class LogLevel(StrEnum):
    """What is written to stderr."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


_Name = Annotated[str, typer.Option("--participant", metavar="NAME", help="The participant's name.")]
_Role = Annotated[
    str | None,
    typer.Option(
        metavar="ROLE", help="The role the service connects as, if it is another one; it is granted what it needs."
    ),
]

ledger_app: Final = typer.Typer(
    name="ledger",
    help="Prepare a service's database: print or apply the ledger's SQL and grants.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def participant(
    target: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:ATTRIBUTE", help="The Participant to run, such as shop.payment:payment.", show_default=False
        ),
    ],
    *,
    dsn: Annotated[
        str | None,
        typer.Option(
            envvar="TWOPHASE_DSN",
            metavar="DSN",
            help="Its database, if the Participant does not name one. Command lines can be read by others: a password"
            " belongs in the variable, in PGPASSWORD or in ~/.pgpass.",
        ),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(envvar="TWOPHASE_LISTEN", metavar="HOST:PORT", help="Where to listen; port 0 takes a free one."),
    ] = "127.0.0.1:0",
    coordinator: Annotated[
        str,
        typer.Option(
            envvar="TWOPHASE_COORDINATOR",
            metavar="HOST:PORT",
            help="The coordinator to register with, for as long as it takes.",
            show_default=False,
        ),
    ] = "",
    advertise: Annotated[
        str,
        typer.Option(
            envvar="TWOPHASE_ADVERTISE",
            metavar="HOST:PORT",
            help="The address to register, as reached from the coordinator; without it, where it listens.",
            show_default=False,
        ),
    ] = "",
    allow_plaintext: Annotated[
        bool,
        typer.Option(
            "--allow-plaintext",
            envvar="TWOPHASE_ALLOW_PLAINTEXT",
            help="Listen where other machines can reach it, without encryption: only on a network you trust.",
        ),
    ] = False,
    migrate: Annotated[
        bool,
        typer.Option(
            "--migrate",
            envvar="TWOPHASE_MIGRATE",
            help="First make the ledger or bring it up to date; needs a role that may create a schema.",
        ),
    ] = False,
    connections: Annotated[
        int,
        typer.Option(
            envvar="TWOPHASE_CONNECTIONS",
            min=1,
            help="How many branches may work at a time. A few more connections are kept apart to finish them.",
        ),
    ] = Settings().work_connections,
    grace: Annotated[
        float,
        typer.Option(
            envvar="TWOPHASE_GRACE", metavar="SECONDS", min=0, help="How long running work may take at the end."
        ),
    ] = ServerSettings().grace,
    log_level: Annotated[LogLevel, typer.Option(envvar="TWOPHASE_LOG_LEVEL", help="What goes to stderr.")] = (
        LogLevel.WARNING
    ),
) -> None:
    """Run a participant: a service's operations over its own Postgres.

    Prints one line when it is ready, and ends on SIGTERM or SIGINT.
    """
    _log_to_stderr(log_level)
    settings = ServerSettings(
        listen=listen,
        coordinator=coordinator,
        advertise=advertise,
        allow_plaintext=allow_plaintext,
        grace=grace,
        database=Settings(work_connections=connections),
    )
    with _failures_told():
        chosen = load(target)
        if migrate:
            migrations.migrate(dsn_of(chosen, dsn), chosen.name)
        ended_clean = asyncio.run(serve(chosen, typer.echo, dsn=dsn, settings=settings))
    if not ended_clean:
        # Business code that never ends keeps its thread, and its thread the process. Postgres rolls back its branch.
        logging.shutdown()
        os._exit(1)


@ledger_app.command("sql")
def ledger_sql(*, name: _Name, role: _Role = None) -> None:
    """Print the SQL that makes the ledger or brings it up to date, with its grants; for psql, as the owner."""
    with _failures_told():
        typer.echo(migrations.migration_sql(participant=name, role=role), nl=False)


@ledger_app.command("migrate")
def ledger_migrate(
    *,
    name: _Name,
    dsn: Annotated[
        str | None,
        typer.Option(
            envvar="TWOPHASE_DSN", metavar="DSN", help="The database, as a role that may create a schema in it."
        ),
    ] = None,
    role: _Role = None,
) -> None:
    """Make the ledger in a database or bring it up to date, with its grants."""
    with _failures_told():
        if not dsn:
            raise NotReady("no database was given", NO_DSN)
        migrations.migrate(dsn, name, role=role)
    typer.echo(f"the ledger of participant '{name}' is up to date (version {migrations.VERSION})")


@contextmanager
def _failures_told() -> Iterator[None]:
    """Ends the command with exit code 1 and a few lines on stderr, for what a user can put right."""
    try:
        yield
    except NotReady as error:
        typer.echo(f"twophase: {error}", err=True)
        for remedy in error.remedies:
            typer.echo(f"  type: {remedy}", err=True)
        raise typer.Exit(1) from None
    except InvalidName as error:
        typer.echo(f"twophase: {error}", err=True)
        raise typer.Exit(1) from None


def _log_to_stderr(level: LogLevel) -> None:
    logging.basicConfig(
        stream=sys.stderr, level=level.value.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
