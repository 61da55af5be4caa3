"""What `twophase bench scale` shows in a terminal: what is going on, its tables, and what is wanted.

Lives here: words and layout. Must not live here: options (`cli`), figures (`scale_values`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from rich.text import Text

from twophase.benchmarks.scale_values import FanOuts, Memory, Scale, Starts
from twophase.benchmarks.screen import plain_table, wanted_table


@contextmanager
def progression(console: Console) -> Iterator[Callable[[str], None]]:
    """What is going on, on stderr: one line that changes in a terminal, a line each elsewhere."""
    if not console.is_terminal:
        yield lambda what: console.print(Text(what))
        return
    with console.status("starting") as status:
        yield lambda what: status.update(Text(what))


def show(console: Console, scale: Scale) -> None:
    """Everything that was measured, and what is wanted of it."""
    tables = [
        *([_fan_outs(scale.fan_outs)] if scale.fan_outs else ()),
        *([_memory(scale.memory)] if scale.memory else ()),
        *([_starts(scale.starts)] if scale.starts else ()),
        wanted_table(scale.wanted()),
    ]
    for table in tables:
        console.print(table)
        console.print()
    before, after = (scale.load_average[moment][0] for moment in ("before", "after"))
    console.print(Text(f"{scale.setting.machine}; load average {before:.1f} before, {after:.1f} after"))
    console.print(Text(", ".join(f"{name} {version}" for name, version in scale.setting.versions.items())))


def _fan_outs(fan_outs: FanOuts) -> Table:
    table = plain_table("one transaction over", "median ms", "fastest - slowest", "of the first")
    for row in fan_outs.rows():
        extremes = f"{min(row.latencies_ms):.1f} - {max(row.latencies_ms):.1f}"
        of_first = f"{row.median_ms / fan_outs.lone.median_ms:.2f}"
        table.add_row(Text(row.what), f"{row.median_ms:.1f}", extremes, of_first)
    return table


def _memory(memory: Memory) -> Table:
    table = plain_table(f"coordinator's memory, {memory.concurrent:,} transactions at the same time", "MB")
    table.add_row("before the first", f"{memory.idle_mb:.1f}")
    table.add_row(f"after a warm-up of {memory.warm_up:,}", f"{memory.first_mb:.1f}")
    table.add_row(f"after {memory.transactions:,} more", f"{memory.last_mb:.1f}")
    table.add_row("at its peak", f"{memory.peak_mb:.1f}")
    return table


def _starts(starts: Sequence[Starts]) -> Table:
    table = plain_table(
        "start, ended transactions in the journal", "journal MB", "ready s", "of none", "committed s", "of none"
    )
    for each in starts:
        table.add_row(
            f"{each.ended:,}",
            f"{each.megabytes:,.1f}",
            f"{each.ready_seconds:.2f}",
            f"{each.ready_seconds / starts[0].ready_seconds:.2f}",
            f"{each.committed_seconds:.2f}",
            f"{each.committed_seconds / starts[0].committed_seconds:.2f}",
        )
    return table
