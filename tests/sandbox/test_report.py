"""What a visitor of the demo sees: whole in a narrow terminal, plain where nobody looks, the same facts as JSON."""

from __future__ import annotations

import io
import json
from collections import Counter, defaultdict
from dataclasses import replace
from decimal import Decimal

import pytest
from rich.console import Console

from twophase.coordinator.client import Protocol
from twophase.sandbox import report
from twophase.sandbox.checkout.audit import Findings
from twophase.sandbox.checkout.driver import Answer, Told
from twophase.sandbox.checkout.generated import CLOSED_AREA, generate_orders
from twophase.sandbox.checkout.opening import Opening
from twophase.sandbox.checkout.orders import Line, Order
from twophase.sandbox.demo import Result

OPENING = Opening(stock=500, funds=Decimal(10000), closed_areas=(CLOSED_AREA,))
ORDER = Order("O 1", "Ünal", "Cork", (Line("tea", 3, Decimal("838.7333")),))
LONG = "customer Ünal has 2516.25, the order costs 4041.50; " * 3


def answered(told: Told, seconds: float = 0.2, reason: str = "", message: str = "", attempts: int = 1) -> Answer:
    return Answer(ORDER, told, seconds, attempts, reason, message)


RESULT = Result(
    protocol=Protocol.TWO_PHASE,
    answers=(
        answered(Told.COMMITTED, 0.1),
        answered(Told.COMMITTED, 1.25, attempts=3),
        answered(Told.REFUSED, reason="NO_FUNDS", message=LONG),
        answered(Told.REFUSED, reason="NO_FUNDS", message=LONG),
        answered(Told.REFUSED, reason="AREA_CLOSED", message="nothing is delivered to Atlantis at the moment"),
    ),
    findings=Findings((), (), ()),
    seconds=0.5,
    clients=8,
)


def shown(result: Result, width: int, *, terminal: bool = True) -> list[str]:
    sink = io.StringIO()
    console = Console(file=sink, width=width, force_terminal=terminal, no_color=True, highlight=False)
    report.show(console, result, OPENING, "made up from seed 1")
    return sink.getvalue().splitlines()


@pytest.mark.parametrize("width", [50, 80, 200])
def test_every_fact_has_a_line_of_its_own_however_narrow_it_is(width: int) -> None:
    lines = shown(RESULT, width, terminal=False)
    assert len(lines) == 15
    table = [line.split() for line in lines[2:8]]
    assert [row[:-1] if row[0] == "median" else row[:2] for row in table][:4] == [
        ["committed", "2"],
        ["refused", "3"],
        ["NO_FUNDS", "2"],
        ["AREA_CLOSED", "1"],
    ]
    assert table[4][:4] == ["median", "latency", "1250.0", "ms"]
    assert table[5][:2] == ["throughput", "10/s"]
    assert all(len(line) <= width for line in lines[2:8])


def test_where_nobody_looks_there_are_no_colours_and_nothing_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    report.show(report.screen(), RESULT, OPENING, "made up from seed 1")
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert LONG in text


def test_progress_is_for_a_terminal_that_may_be_written_to() -> None:
    for terminal, quiet in ((False, False), (True, True)):
        sink = io.StringIO()
        console = Console(file=sink, force_terminal=terminal)
        progress = report.Progression(console, quiet=quiet)
        with progress.starting("starting"), progress.orders(1) as on_answer:
            on_answer(RESULT.answers[0])
        assert sink.getvalue() == ""
    sink = io.StringIO()
    progress = report.Progression(Console(file=sink, force_terminal=True, width=80), quiet=False)
    with progress.starting("starting"):
        pass
    with progress.orders(1) as on_answer:
        on_answer(RESULT.answers[2])
    assert "starting" in sink.getvalue()
    assert "1 refused" in sink.getvalue()


def test_what_is_wrong_is_shown_first_and_in_full() -> None:
    wrong = replace(RESULT, findings=Findings(("stock of inventory lacks (tea, 6)",), ("tp-left",), ("O 1",)))
    assert not wrong.consistent
    text = "\n".join(shown(wrong, 80))
    assert "WRONG  stock of inventory lacks (tea, 6)" in text
    assert "WRONG  still prepared: tp-left" in text
    assert "add up" not in text


def test_json_has_every_figure_and_stays_exact() -> None:
    document = json.loads(report.to_json(RESULT, replace(OPENING, funds=Decimal("0.1000")), "from orders.csv"))
    assert document == {
        "protocol": "two-phase",
        "orders": 5,
        "committed": 2,
        "refused": 3,
        "refused_by_reason": {"NO_FUNDS": 2, "AREA_CLOSED": 1},
        "in_doubt": 0,
        "consistent": True,
        "problems": [],
        "prepared_left": 0,
        "p50_ms": 1250.0,
        "p99_ms": 1250.0,
        "seconds": 0.5,
        "orders_per_second": 10.0,
        "retries": 2,
        "clients": 8,
        "source": "from orders.csv",
        "stock": 500,
        "funds": "0.1000",
        "closed_areas": ["Atlantis"],
    }


def test_of_sagas_it_is_said_how_many_were_undone() -> None:
    undone = replace(answered(Told.REFUSED, reason="NO_FUNDS"), compensated=True)
    result = replace(RESULT, protocol=Protocol.SAGA, answers=(*RESULT.answers, undone))
    lines = shown(result, 80, terminal=False)
    assert lines[0] == "6 orders made up from seed 1, as sagas"
    assert any(line.split()[:2] == ["compensated", "1"] for line in lines)
    assert json.loads(report.to_json(result, OPENING, "x"))["compensated"] == 1
    assert "compensated" not in json.loads(report.to_json(RESULT, OPENING, "x"))


def test_without_a_committed_order_there_are_no_latencies() -> None:
    none = replace(RESULT, answers=RESULT.answers[2:])
    document = json.loads(report.to_json(none, OPENING, ""))
    assert (document["p50_ms"], document["p99_ms"], document["committed"]) == (None, None, 0)
    assert not any("latency" in line for line in shown(none, 80))


def test_with_the_defaults_most_orders_commit_and_some_fail_for_every_reason() -> None:
    """One after the other, as a single client would send them."""
    stock: Counter[str] = Counter()
    spent: dict[str, Decimal] = defaultdict(Decimal)
    ends: Counter[str] = Counter()
    for order in generate_orders(200, 1):
        pieces = Counter({line.sku: line.quantity for line in order.lines})
        if order.area in OPENING.closed_areas:
            ends["AREA_CLOSED"] += 1
        elif any(stock[sku] + wanted > OPENING.stock for sku, wanted in pieces.items()):
            ends["OUT_OF_STOCK"] += 1
        elif spent[order.customer_id] + order.total > OPENING.funds:
            ends["NO_FUNDS"] += 1
        else:
            stock.update(pieces)
            spent[order.customer_id] += order.total
            ends["committed"] += 1
    assert ends["committed"] > 100
    assert all(ends[reason] >= 10 for reason in ("AREA_CLOSED", "OUT_OF_STOCK", "NO_FUNDS")), ends
