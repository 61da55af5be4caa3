"""The one command, `twophase`: its verbs and what they say when something is missing.

Lives here: options, texts, exit codes. Must not live here: anything a verb does. A verb's code, and what it needs, is
imported when the verb runs, so that `--help` is instant and a client's installation needs no database driver.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from twophase.contract.addresses import Address, InvalidAddress
from twophase.contract.names import check_participant_name
from twophase.coordinator.transport import MAX_MESSAGE_BYTES

_OWN: Final = "twophase"
_LEVELS: Final = ("debug", "info", "warning", "error")
_DAY: Final = 86_400.0
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": _DAY}
_LONGEST_RETENTION: Final = 36_500 * _DAY
_TAKEOVER_AFTER: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Verb:
    """A verb that lives elsewhere: `target` is its function or typer app, `extra` what must be installed for it."""

    help: str
    target: str
    extra: str


_VERBS: Final = {
    "participant": _Verb(
        "Run a participant: a service's operations over its own Postgres, as 'module:attribute'.",
        "twophase.participant.cli:participant",
        "participant",
    ),
    "ledger": _Verb(
        "Prepare a service's database: print or apply the ledger's SQL and grants.",
        "twophase.participant.cli:ledger_app",
        "participant",
    ),
    "tx": _Verb(
        "Look at transactions: which there are, and what happened to one.",
        "twophase.coordinator.operator.tx_cli:tx_app",
        "coordinator",
    ),
    "saga": _Verb(
        "Look after sagas: their dead letters.",
        "twophase.coordinator.operator.saga_cli:saga_app",
        "coordinator",
    ),
    "indoubt": _Verb(
        "Show every branch that is prepared and not finished: what it waits for, and who waits for it.",
        "twophase.coordinator.operator.indoubt_cli:indoubt",
        "coordinator",
    ),
    "doctor": _Verb(
        "Check the coordinator, its journal and every participant: a line each, OK or what to type.",
        "twophase.coordinator.operator.doctor_cli:doctor",
        "coordinator",
    ),
    "journal": _Verb(
        "Look at a coordinator's journal without a coordinator.",
        "twophase.coordinator.operator.journal_cli:journal_app",
        "coordinator",
    ),
    "demo": _Verb(
        "Run orders through four services with four databases, and check that every one is everywhere or nowhere.",
        "twophase.sandbox.cli:demo",
        "sandbox",
    ),
    "drill": _Verb(
        "Kill real processes under load, at every point, and check that nothing is lost and nothing stays in doubt.",
        "twophase.sandbox.drill_cli:drill",
        "sandbox",
    ),
    "soak": _Verb(
        "Run thousands of sagas while processes are killed at random, and check that each is done or undone, once.",
        "twophase.sandbox.soak_cli:soak",
        "sandbox",
    ),
    "bench": _Verb(
        "Measure what a transaction costs, beside what others need for the same.",
        "twophase.benchmarks.cli:bench_app",
        "bench",
    ),
}


class _LazyCommand(TyperCommand):
    """Stands in for a verb in the list of commands; the verb itself is imported when it is called."""

    def __init__(self, name: str, verb: _Verb) -> None:
        super().__init__(name, help=verb.help)
        self._verb = verb

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        return _load(self._verb).make_context(info_name, args, parent, **extra)


class _Verbs(TyperGroup):
    """The group of all verbs: those declared below, then those that live elsewhere."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, verb in _VERBS.items():
            self.add_command(_LazyCommand(name, verb))


def _load(verb: _Verb) -> Any:
    module, _, attribute = verb.target.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        _explain_missing(error, verb.extra)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    alone = typer.Typer(add_completion=False)
    alone.command()(found)
    return typer.main.get_command(alone)


def _explain_missing(error: ModuleNotFoundError, extra: str) -> NoReturn:
    """Ends the command with what to install; a missing module of our own is a defect and is raised."""
    if error.name is None or error.name.partition(".")[0] == _OWN:
        raise error
    _fail(f"this needs {error.name}, which is not installed; type: pip install 'twophase[{extra}]'")


def _fail(line: str) -> NoReturn:
    typer.echo(f"twophase: {line}", err=True)
    raise typer.Exit(1)


app = typer.Typer(
    name="twophase",
    cls=_Verbs,
    help="Commits one piece of business in several Postgres databases, everywhere or nowhere.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _print_version(asked: bool) -> None:  # noqa: FBT001 - typer's callback
    if asked:
        from importlib.metadata import version

        typer.echo(f"twophase {version('twophase')}")
        raise typer.Exit


@app.callback()
def _twophase(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    *,
    journal: Annotated[
        Path,
        typer.Option(
            envvar="TWOPHASE_JOURNAL",
            help="The journal's file. It is made if it is not there; its directory must be.",
            dir_okay=False,
        ),
    ],
    listen: Annotated[
        str,
        typer.Option(envvar="TWOPHASE_LISTEN", metavar="HOST:PORT", help="Where to listen; port 0 takes a free one."),
    ] = "127.0.0.1:7400",
    participant: Annotated[
        list[str] | None,
        typer.Option(
            envvar="TWOPHASE_PARTICIPANT",
            metavar="NAME=HOST:PORT",
            help="A participant to make known as soon as it answers. Repeat it for each; in the variable, part them by"
            " spaces.",
        ),
    ] = None,
    label: Annotated[
        str, typer.Option(envvar="TWOPHASE_LABEL", help="A name for this installation, in every line of the log.")
    ] = "",
    default_deadline: Annotated[
        float,
        typer.Option(
            envvar="TWOPHASE_DEFAULT_DEADLINE", metavar="SECONDS", help="For transactions that come without a deadline."
        ),
    ] = 10.0,
    deadline_cap: Annotated[
        float,
        typer.Option(
            envvar="TWOPHASE_DEADLINE_CAP", metavar="SECONDS", help="The longest deadline a client may ask for."
        ),
    ] = 60.0,
    payload_limit: Annotated[
        int,
        typer.Option(envvar="TWOPHASE_PAYLOAD_LIMIT", metavar="BYTES", help="The largest payload of one operation."),
    ] = 1 << 20,
    retention: Annotated[
        str,
        typer.Option(
            envvar="TWOPHASE_RETENTION",
            metavar="DURATION",
            help="How long a transaction is remembered after it has ended everywhere, as in 90s, 30m, 12h, 7d. Its"
            " request id is protected for as long: a repetition that comes later runs again. Longer than the"
            " deadline cap.",
        ),
    ] = "7d",
    grace: Annotated[
        float,
        typer.Option(
            envvar="TWOPHASE_GRACE", metavar="SECONDS", min=0, help="How long running work may finish at the end."
        ),
    ] = 10.0,
    ballast: Annotated[
        int,
        typer.Option(
            envvar="TWOPHASE_BALLAST",
            metavar="MIB",
            min=0,
            help="What to keep in reserve on the journal's disk, for finishing what is decided once it is full. With"
            " less than that free, nothing new is begun; 0 for no reserve.",
        ),
    ] = 64,
    standby: Annotated[
        bool,
        typer.Option(
            "--standby",
            envvar="TWOPHASE_STANDBY",
            help="If another coordinator of this machine has the journal, wait, and take over when it is gone.",
        ),
    ] = False,
    takeover_after: Annotated[
        float | None,
        typer.Option(
            envvar="TWOPHASE_TAKEOVER_AFTER",
            metavar="SECONDS",
            help="With --standby: kill the other one if it is frozen for so long; 0 for never.",
            show_default="5.0",
        ),
    ] = None,
    after_restore: Annotated[
        bool,
        typer.Option(
            "--after-restore",
            help="Say that the journal was restored from an older copy and the newer one is lost. All participants must"
            " be there. For one start, by hand.",
        ),
    ] = False,
    allow_plaintext: Annotated[
        bool,
        typer.Option(
            "--allow-plaintext",
            envvar="TWOPHASE_ALLOW_PLAINTEXT",
            help="Listen where other machines can reach it, without encryption: only on a network you trust.",
        ),
    ] = False,
    log_level: Annotated[
        str,
        typer.Option(
            envvar="TWOPHASE_LOG_LEVEL", metavar="LEVEL", help="debug, info, warning or error; goes to stderr."
        ),
    ] = "warning",
) -> None:
    """Run the coordinator. It prints one line when it is ready, or stands by, and ends on SIGTERM or SIGINT."""
    _log_to_stderr(log_level, label)
    _check_limits(default_deadline, deadline_cap, payload_limit)
    kept = _retention(retention, deadline_cap)
    _check_takeover(takeover_after, standby=standby)
    if after_restore and standby:
        raise typer.BadParameter("a restored journal has no other coordinator", param_hint="--after-restore")
    where = _address(listen)
    declared = tuple(_participant(text) for text in participant or ())
    try:
        from twophase.coordinator import server
    except ModuleNotFoundError as error:
        _explain_missing(error, "coordinator")
    from twophase.coordinator.engine.api import Limits

    settings = server.Settings(
        journal=journal,
        listen=where,
        label=label,
        participants=declared,
        limits=Limits(default_deadline, deadline_cap, payload_limit, retention=kept),
        plaintext_allowed=allow_plaintext,
        grace=grace,
        ballast=ballast << 20,
        standby=standby,
        after_restore=after_restore,
        takeover_after=_TAKEOVER_AFTER if takeover_after is None else takeover_after,
    )
    try:
        asyncio.run(server.serve(settings, typer.echo))
    except server.CannotStart as error:
        _fail(str(error))


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except InvalidAddress as error:
        raise typer.BadParameter(str(error), param_hint="--listen") from error


def _participant(text: str) -> tuple[str, str]:
    name, _, address = text.partition("=")
    try:
        return check_participant_name(name), str(Address.parse(address))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not NAME=HOST:PORT: {error}", param_hint="--participant") from error


def _check_limits(default_deadline: float, deadline_cap: float, payload_limit: int) -> None:
    if not 0 < deadline_cap <= _DAY:
        raise typer.BadParameter(f"{deadline_cap:g} is not above 0 and at most {_DAY:g}", param_hint="--deadline-cap")
    if not 0 < default_deadline <= deadline_cap:
        fact = f"{default_deadline:g} is not above 0 and at most the cap, {deadline_cap:g}"
        raise typer.BadParameter(fact, param_hint="--default-deadline")
    if not 0 < payload_limit <= MAX_MESSAGE_BYTES:
        fact = f"{payload_limit} is not between 1 and {MAX_MESSAGE_BYTES}, the largest message"
        raise typer.BadParameter(fact, param_hint="--payload-limit")


def _retention(text: str, deadline_cap: float) -> float:
    """The retention in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a number with s, m, h or d behind it", param_hint="--retention")
    seconds = float(found[1]) * _UNITS[found[2]]
    if not 0 < seconds <= _LONGEST_RETENTION:
        raise typer.BadParameter(f"{text} is not above 0 and at most 36500d", param_hint="--retention")
    if seconds <= deadline_cap:
        raise typer.BadParameter(
            f"{text} is not longer than the longest deadline, {deadline_cap:g} s (--deadline-cap): a branch that is"
            " still at work when its transaction is forgotten might not see that, and be applied a second time",
            param_hint="--retention",
        )
    return seconds


def _check_takeover(seconds: float | None, *, standby: bool) -> None:
    if seconds is None:
        return
    if not standby:
        raise typer.BadParameter("only a coordinator with --standby takes over", param_hint="--takeover-after")
    if seconds != 0 and not 1 <= seconds <= _DAY:
        raise typer.BadParameter(
            f"{seconds:g} is neither 0 (never) nor between 1 and {_DAY:g}", param_hint="--takeover-after"
        )


def _log_to_stderr(level: str, label: str) -> None:
    if level.lower() not in _LEVELS:
        raise typer.BadParameter(f"{level!r} is not one of {', '.join(_LEVELS)}", param_hint="--log-level")
    shown = f"{label} ".replace("%", "%%") if label else ""
    logging.basicConfig(
        stream=sys.stderr, level=level.upper(), format=f"%(asctime)s %(levelname)s {shown}%(name)s: %(message)s"
    )
