"""The verbs `twophase bench ...`: their options, what they say when something is missing, their exit codes.

Lives here: what stands between a command line and the benchmarks. Must not live here: measuring. Imported when the verb
runs; what takes long to import, or starts threads, is imported later still.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from twophase.benchmarks.contenders import ABOUT, Contender, missing
from twophase.benchmarks.parts import Part
from twophase.benchmarks.report.command import report
from twophase.sandbox.signals import Failure, end_on_signals, run

if TYPE_CHECKING:
    from twophase.benchmarks.counts import Cost
    from twophase.benchmarks.scale_values import Scale, Sizes
    from twophase.benchmarks.values import Plan, Report

VOID: Final = 1
CHANGED: Final = 1
WRONG_INPUT: Final = 2
_SANDBOX: Final = ("psycopg", "psycopg_pool", "pydantic", "aiosqlite")
_MOST_CLIENTS: Final = 1_000

bench_app: Final = typer.Typer(
    name="bench",
    help="Measure what a transaction costs, beside what others need for the same.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@bench_app.callback()
def _bench() -> None:
    pass


bench_app.command()(report)


@bench_app.command()
def transfer(
    clients: Annotated[
        list[int] | None,
        typer.Option(
            min=1, max=_MOST_CLIENTS, show_default="1, 16 and 64", help="How many clients. Repeat it for more."
        ),
    ] = None,
    contender: Annotated[
        list[Contender] | None,
        typer.Option(show_default="all", help="Who is measured. Repeat it for more; ratios need the loop."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=1_000, help="How often each contender has its turn.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.05, max=3_600, help="How long each turn is measured.")] = 1.5,
    warm_up: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, max=3_600, help="How long each turn runs before that.")
    ] = 0.4,
    accounts: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="Accounts at each bank; few of them make transfers wait.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(help="What the transfers are made up from: same seed, same transfers.")] = 1,
    json_: Annotated[  # noqa: FBT002 - an option of a command line
        bool, typer.Option("--json", help="Print one JSON object, and nothing else, on standard output.")
    ] = False,
) -> None:
    """Move money between two databases: two-phase commit and saga, beside a hand-written loop, SQLAlchemy and DBOS.

    Starts two Postgres servers, a coordinator and two banks, lets all contenders make the same transfers in turn, and
    checks every account and every ledger after each turn. The exit code is 1 if they are not exact: such a run is void.
    """
    chosen = tuple(dict.fromkeys(contender or Contender))
    _check_installed(chosen)
    from twophase.benchmarks.values import CLIENTS, Plan

    plan = Plan(chosen, tuple(dict.fromkeys(clients or CLIENTS)), rounds, seconds, warm_up, seed, accounts)
    report = run(_transfer(plan))
    if isinstance(report, Failure):
        _fail(report.message, report.code)
    if json_:
        typer.echo(json.dumps(report.to_json()))
    else:
        from twophase.benchmarks import screen

        screen.show(screen.screen(), report)
    raise typer.Exit(VOID if report.is_void else 0)


@bench_app.command()
def counts(
    only: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only cases with this in their names, such as 'saga'.")
    ] = None,
    write: Annotated[  # noqa: FBT002 - an option of a command line
        bool, typer.Option("--write", help="Make what is counted the baseline, in this checkout.")
    ] = False,
    json_: Annotated[  # noqa: FBT002 - an option of a command line
        bool, typer.Option("--json", help="Print one JSON object, and nothing else, on standard output.")
    ] = False,
) -> None:
    """Count what transactions cost in messages, syncs and statements, and compare that with the baseline.

    Starts four Postgres servers; the rest runs in this process. Times do not matter here, so it may run on a machine
    that is busy. The exit code is 1 if a count is not the baseline's.
    """
    _check_installed(())
    if only is not None and write:
        _fail("the baseline is written whole: leave --only out, or --write", WRONG_INPUT)
    from twophase.benchmarks import baseline, screen

    try:
        known = {} if write else baseline.read()
    except OSError as error:
        _fail(f"the baseline is a file of a checkout, and is not there: {error}", WRONG_INPUT)
    costs = run(_counts(only or "", known))
    if isinstance(costs, Failure):
        _fail(costs.message, costs.code)
    if not costs:
        _fail(f"no case has {only!r} in its name", WRONG_INPUT)
    if write:
        baseline.write(costs)
        known = baseline.read()
    changed = baseline.differences(costs, {case: cost for case, cost in known.items() if only is None or case in costs})
    if json_:
        typer.echo(json.dumps({"counts": {case: cost.to_json() for case, cost in costs.items()}, "changed": changed}))
    else:
        screen.show_counts(screen.screen(), costs, changed)
    raise typer.Exit(CHANGED if changed else 0)


@bench_app.command()
def scale(
    part: Annotated[
        list[Part] | None, typer.Option(show_default="all", help="What is measured. Repeat it for more.")
    ] = None,
    quick: Annotated[  # noqa: FBT002 - an option of a command line
        bool, typer.Option("--quick", help="Everything small, in half a minute; the limits are not for that.")
    ] = False,
    participants: Annotated[int | None, typer.Option(min=2, max=64, help="Over how many to fan out.")] = None,
    delay: Annotated[
        float | None, typer.Option(metavar="MS", min=0, max=10_000, help="After how long each of them answers.")
    ] = None,
    concurrent: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="How many transactions are under way at the same time.")
    ] = None,
    transactions: Annotated[
        int | None, typer.Option(min=1, max=10_000_000, help="Over how many of them the memory is watched.")
    ] = None,
    warm_up: Annotated[
        int | None, typer.Option(metavar="TRANSACTIONS", min=0, max=10_000_000, help="How many come before these.")
    ] = None,
    ended: Annotated[
        list[int] | None,
        typer.Option(min=1, max=10_000_000, help="How many transactions the journal remembers. Repeat it for more."),
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, max=1_000, help="How often each kind of fan-out is tried.")
    ] = None,
    starts: Annotated[
        int | None, typer.Option(min=1, max=1_000, help="How often the coordinator starts on each journal.")
    ] = None,
    json_: Annotated[  # noqa: FBT002 - an option of a command line
        bool, typer.Option("--json", help="Print one JSON object, and nothing else, on standard output.")
    ] = False,
) -> None:
    """Measure one coordinator with many participants, with many transactions at once, and with a long history.

    The coordinator, its journal and the wire are real; the participants have no databases. Without --quick it takes
    some minutes and 4 GB of disk. The exit code says nothing about the figures.
    """
    _check_installed(())
    from twophase.benchmarks import resident
    from twophase.benchmarks.scale_values import QUICK, Sizes

    given: dict[str, Any] = {
        "participants": participants,
        "delay": None if delay is None else delay / 1000,
        "concurrent": concurrent,
        "transactions": transactions,
        "warm_up": warm_up,
        "repeats": repeats,
        "ended": tuple(dict.fromkeys(ended)) if ended else None,
        "starts": starts,
    }
    sizes = replace(QUICK if quick else Sizes(), **{name: value for name, value in given.items() if value is not None})
    chosen = tuple(dict.fromkeys(part or Part))
    if Part.MEMORY in chosen and not resident.is_known():
        _fail("this machine has no /proc, which the memory is read from: name the other parts with --part", WRONG_INPUT)
    found = run(_scale(sizes, chosen))
    if isinstance(found, Failure):
        _fail(found.message, found.code)
    if json_:
        typer.echo(json.dumps(found.to_json()))
    else:
        from twophase.benchmarks import scale_screen, screen

        scale_screen.show(screen.screen(), found)


async def _scale(sizes: Sizes, parts: tuple[Part, ...]) -> Scale:
    """The guardian comes before anything that starts threads."""
    from twophase.sandbox.guardian import Guardian

    end_on_signals()
    with Guardian() as guardian:
        from rich.console import Console

        from twophase.benchmarks.scale import run_scale
        from twophase.benchmarks.scale_screen import progression

        with progression(Console(stderr=True, highlight=False)) as progress:
            return await run_scale(sizes, parts, guardian, progress)


async def _counts(only: str, known: Mapping[str, Mapping[str, Any]]) -> dict[str, Cost]:
    """The guardian comes before anything that starts threads."""
    from twophase.sandbox.guardian import Guardian

    end_on_signals()
    with Guardian() as guardian:
        from twophase.benchmarks import baseline
        from twophase.benchmarks.counts import CASES, NAMES, SETTINGS, prepare_servers
        from twophase.sandbox.postgres import make_all

        clusters = await asyncio.to_thread(make_all, NAMES, guardian=guardian, settings=SETTINGS)
        await asyncio.to_thread(prepare_servers, clusters)
        directory = guardian.directory()
        return {
            case: await baseline.count(case, clusters, directory, expected=known.get(case))
            for case in CASES
            if only in case
        }


async def _transfer(plan: Plan) -> Report:
    """The guardian comes before anything that starts threads."""
    from twophase.sandbox.guardian import Guardian

    end_on_signals()
    with Guardian() as guardian:
        from rich.console import Console

        from twophase.benchmarks.screen import Progression
        from twophase.benchmarks.transfer import run_transfers

        progress = Progression(Console(stderr=True, highlight=False), plan)
        with progress.shown():
            return await run_transfers(plan, guardian, progress.begins)


def _check_installed(chosen: tuple[Contender, ...]) -> None:
    for package in _SANDBOX:
        if find_spec(package) is None:
            _fail(f"this needs {package}, which is not installed; type: pip install 'twophase[bench]'", WRONG_INPUT)
    for contender in chosen:
        absent = missing(contender)
        if absent is not None:
            _fail(
                f"the contender '{ABOUT[contender]}' needs {absent}, which is not installed; type: pip install"
                " 'twophase[bench]', or name the contenders to measure with --contender",
                WRONG_INPUT,
            )


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"twophase bench: {message}", err=True)
    raise typer.Exit(code)
