"""The verb `twophase bench report`: its options, what it says when something is wrong, its exit codes.

Lives here: what stands between a command line and the report. Must not live here: measuring (`measure`), writing
(`paper`). What takes long to import, or starts threads, is imported when it is needed.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from twophase.benchmarks.report.values import Results, Suite
from twophase.sandbox.signals import INTERRUPTED, Failure, end_on_signals, run

VOID: Final = 1
"""The exit code of a run that is void, or that lacks a section."""
TURNED: Final = 1
"""The exit code if one of two runs says the contrary of the other."""
WRONG_INPUT: Final = 2
_WRITING: Final = ("matplotlib",)
_MEASURING: Final = ("psycopg", "psycopg_pool", "pydantic", "aiosqlite", "sqlalchemy", "dbos")


def report(
    suite: Annotated[
        Suite | None,
        typer.Option(
            show_default="quick", help="quick: every section, minutes. full: more levels and repetitions, an hour."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where to write; files of an earlier report there are replaced.")
    ] = Path("twophase-report"),
    seed: Annotated[
        int | None, typer.Option(show_default="1", help="What the load is made up from: same seed, same load.")
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="Measure nothing: write the report of this results.json again."),
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="FILE FILE", help="Measure nothing: say whether two results.json came out the same."),
    ] = None,
) -> None:
    """Measure two-phase commit and saga side by side, crashes included, and write a report that says when to use which.

    Writes report.html (one file, opens offline), report.md with its drawings, and results.json. The exit code is 1 if
    the databases did not hold what they should at some point: such a run is void, and its report shows no figures. It
    is 1, too, if a section failed; then the others are there. Interrupted, it writes the report of what it has.
    With --compare it is 1 if a conclusion of one run is the contrary of the other's.
    """
    if compare is not None:
        if (suite, seed, from_) != (None, None, None):
            _fail("--compare reads what was measured before: leave the other options out, or --compare", WRONG_INPUT)
        _compare(*compare)
    if from_ is not None and (suite is not None or seed is not None):
        _fail("--from writes what was measured before: leave --suite and --seed out, or --from", WRONG_INPUT)
    _check_installed(_WRITING if from_ is not None else (*_WRITING, *_MEASURING))
    from twophase.benchmarks.report.paper import folder, summary
    from twophase.benchmarks.screen import screen

    try:
        with folder.made(out) as directory:
            if from_ is not None:
                found = _read(from_)
            else:
                found = _measured(suite or Suite.QUICK, 1 if seed is None else seed, directory)
            files = folder.write(found, directory)
    except OSError as error:
        _fail(f"the report could not be written to {out}: {error}; name another directory with --out", WRONG_INPUT)
    summary.show(screen(), found, files)
    if found.interrupted and from_ is None:
        _fail("interrupted; everything that was started is stopped, and what was measured is written", INTERRUPTED)
    raise typer.Exit(0 if found.is_whole else VOID)


def _compare(first: Path, second: Path) -> NoReturn:
    from twophase.benchmarks.report.paper.repeat import lines_of, repeat_of

    found = repeat_of(_read(first), _read(second))
    for line in lines_of(found):
        typer.echo(line)
    raise typer.Exit(0 if found.is_repeated else TURNED)


def _read(path: Path) -> Results:
    from twophase.benchmarks.report.paper.folder import NotResultsError, read

    try:
        return read(path)
    except OSError as error:
        _fail(f"{path} cannot be read: {error}", WRONG_INPUT)
    except NotResultsError as error:
        _fail(f"{error}; what is wanted is the results.json of an earlier run", WRONG_INPUT)


def _measured(suite: Suite, seed: int, directory: Path) -> Results:
    found = run(_measure(suite, seed, directory))
    if isinstance(found, Failure):
        _fail(found.message, found.code)
    return found


async def _measure(suite: Suite, seed: int, directory: Path) -> Results:
    """The guardian comes before anything that starts threads. `directory` has the results so far at any time."""
    from twophase.sandbox.guardian import Guardian

    end_on_signals()
    with Guardian() as guardian:
        from rich.console import Console

        from twophase.benchmarks.report.measure.budget import expected_seconds
        from twophase.benchmarks.report.measure.measuring import measure
        from twophase.benchmarks.report.measure.plan import PLANS
        from twophase.benchmarks.report.paper.folder import keep
        from twophase.benchmarks.report.paper.progression import Progression

        expected = expected_seconds(PLANS[suite])
        watcher = Progression(Console(stderr=True, highlight=False), expected, lambda found: keep(found, directory))
        with watcher.shown():
            return await measure(suite, seed=seed, watcher=watcher, guardian=guardian)


def _check_installed(packages: tuple[str, ...]) -> None:
    for package in packages:
        if find_spec(package) is None:
            _fail(f"this needs {package}, which is not installed; type: pip install 'twophase[bench]'", WRONG_INPUT)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"twophase bench report: {message}", err=True)
    raise typer.Exit(code)
