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
from twophase.sandbox.signals import Failure, end_on_signals, run

VOID: Final = 1
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
) -> None:
    """Measure two-phase commit and saga side by side, crashes included, and write a report that says when to use which.

    Writes report.html (one file, opens offline), report.md with its drawings, and results.json. The exit code is 1 if
    the databases did not hold what they should at some point: such a run is void, and its report shows no figures.
    """
    if from_ is not None and (suite is not None or seed is not None):
        _fail("--from writes what was measured before: leave --suite and --seed out, or --from", WRONG_INPUT)
    _check_installed(_WRITING if from_ is not None else (*_WRITING, *_MEASURING))
    from twophase.benchmarks.report.paper import folder, summary
    from twophase.benchmarks.screen import screen

    try:
        with folder.made(out) as directory:
            found = _read(from_) if from_ is not None else _measured(suite or Suite.QUICK, 1 if seed is None else seed)
            files = folder.write(found, directory)
    except OSError as error:
        _fail(f"the report could not be written to {out}: {error}; name another directory with --out", WRONG_INPUT)
    summary.show(screen(), found, files)
    raise typer.Exit(VOID if found.is_void else 0)


def _read(path: Path) -> Results:
    from twophase.benchmarks.report.paper.folder import NotResultsError, read

    try:
        return read(path)
    except OSError as error:
        _fail(f"{path} cannot be read: {error}", WRONG_INPUT)
    except NotResultsError as error:
        _fail(f"{error}; --from takes the results.json of an earlier run", WRONG_INPUT)


def _measured(suite: Suite, seed: int) -> Results:
    found = run(_measure(suite, seed))
    if isinstance(found, Failure):
        _fail(found.message, found.code)
    return found


async def _measure(suite: Suite, seed: int) -> Results:
    """The guardian comes before anything that starts threads."""
    from twophase.sandbox.guardian import Guardian

    end_on_signals()
    with Guardian() as guardian:
        from rich.console import Console

        from twophase.benchmarks.report.measure.measuring import measure
        from twophase.benchmarks.report.paper.summary import Progression

        progress = Progression(Console(stderr=True, highlight=False))
        with progress.shown():
            return await measure(suite, seed=seed, progress=progress, guardian=guardian)


def _check_installed(packages: tuple[str, ...]) -> None:
    for package in packages:
        if find_spec(package) is None:
            _fail(f"this needs {package}, which is not installed; type: pip install 'twophase[bench]'", WRONG_INPUT)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"twophase bench report: {message}", err=True)
    raise typer.Exit(code)
