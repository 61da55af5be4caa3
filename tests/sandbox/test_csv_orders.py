"""Orders from CSV: what is accepted, and what is said of everything else."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pytest

from twophase.contract.names import check_request_id
from twophase.sandbox.checkout.csv_orders import HEADER, MAX_LINES, read_orders
from twophase.sandbox.checkout.generated import CLOSED_AREA, generate_orders
from twophase.sandbox.checkout.orders import Line, Order
from twophase.sandbox.errors import OrdersInvalid

GOOD = f"{HEADER}\n1,ALFKI,11,2,14.00,Köln\n2,BLONP,42,1,9.8,Cork\n1,ALFKI,72,5,34.8000,Köln\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orders.csv"


def test_lines_of_an_order_need_not_be_adjacent(path: Path) -> None:
    path.write_text(GOOD, encoding="utf-8")
    first, second = read_orders(path)
    assert first == Order("1", "ALFKI", "Köln", (Line("11", 2, Decimal("14.00")), Line("72", 5, Decimal("34.8"))))
    assert first.total == Decimal(202)
    assert (second.order_id, second.total) == ("2", Decimal("9.8"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_byte_order_mark_and_line_endings_make_no_difference(path: Path, encoding: str, ending: str) -> None:
    path.write_bytes(GOOD.replace("\n", ending).encode(encoding))
    expected = path.with_name("plain.csv")
    expected.write_text(GOOD, encoding="utf-8")
    assert read_orders(path) == read_orders(expected)


def test_quoted_fields_other_column_orders_blank_lines_and_blanks_around_values_are_fine(path: Path) -> None:
    path.write_text(
        'area,order_id,customer_id,sku,quantity,unit_price\n\n"Aachen, ""Ost""", 7 ,ANA T,Chai tea, 03 ,0\n\n',
        encoding="utf-8",
    )
    assert read_orders(path) == [Order("7", "ANA T", 'Aachen, "Ost"', (Line("Chai tea", 3, Decimal(0)),))]


def test_money_is_never_a_float(path: Path) -> None:
    path.write_text(f"{HEADER}\n1,A,B,3,0.1,C\n", encoding="utf-8")
    [order] = read_orders(path)
    assert order.total == Decimal("0.3")
    assert order.payloads()["payment"]["amount"] == "0.3"


@pytest.mark.parametrize("order_id", ["10248", "a b", "Größe/7", "x" * 100, "\U0001f680", "order/1"])
def test_every_order_id_gives_a_request_id_of_its_own(order_id: str) -> None:
    order = Order(order_id, "c", "a", ())
    assert check_request_id(order.request_id)
    assert order.request_id != Order(f"{order_id}.", "c", "a", ()).request_id


BAD = {
    "empty": ("", "line 1: the file is empty; expected the header order_id,"),
    "only blank lines": ("\n\n", "line 1: the file is empty"),
    "header only": (f"{HEADER}\n", "line 2: there is no order; expected a line below the header"),
    "missing column": ("order_id,customer_id,sku,quantity,unit_price\n", "line 1: the column 'area' is missing"),
    "unknown column": (f"{HEADER},note\n", "line 1: there is no column 'note'; expected the header"),
    "column twice": (f"{HEADER},area\n", "line 1: a column is there twice"),
    "no header": ("1,ALFKI,11,2,14.00,Cork\n", "line 1: there is no column '1'; expected the header"),
    "too few values": (f"{HEADER}\n1,A,B,1,1.00\n", "line 2: there are 5 values; expected 6 values: order_id,"),
    "too many values": (f"{HEADER}\n1,A,B,1,1,00,C\n", "line 2: there are 7 values; expected 6"),
    "zero": (f"{HEADER}\n1,A,B,0,1.00,C\n", "line 2, column quantity: '0' is no quantity; expected a whole number"),
    "negative": (f"{HEADER}\n1,A,B,-1,1.00,C\n", "line 2, column quantity: '-1' is no quantity"),
    "fraction": (f"{HEADER}\n1,A,B,1.5,1.00,C\n", "line 2, column quantity: '1.5' is no quantity"),
    "huge": (f"{HEADER}\n1,A,B,1000001,1.00,C\n", "line 2, column quantity: '1000001' is no quantity"),
    "word": (f"{HEADER}\n1,A,B,two,1.00,C\n", "line 2, column quantity: 'two' is no quantity"),
    "other digits": (f"{HEADER}\n1,A,B,٣,1.00,C\n", "line 2, column quantity: '٣' is no quantity"),
    "NaN": (f"{HEADER}\n1,A,B,1,NaN,C\n", "line 2, column unit_price: 'NaN' is no price; expected a number such as"),
    "Infinity": (f"{HEADER}\n1,A,B,1,Infinity,C\n", "column unit_price: 'Infinity' is no price"),
    "exponent": (f"{HEADER}\n1,A,B,1,1e3,C\n", "column unit_price: '1e3' is no price"),
    "negative price": (f"{HEADER}\n1,A,B,1,-1.00,C\n", "column unit_price: '-1.00' is no price"),
    "comma": (f'{HEADER}\n1,A,B,1,"1,00",C\n', "column unit_price: '1,00' is no price"),
    "decimals": (f"{HEADER}\n1,A,B,1,1.00001,C\n", "column unit_price: '1.00001' is no price"),
    "no price": (f"{HEADER}\n1,A,B,1,,C\n", "column unit_price: '' is no price"),
    "no order": (f"{HEADER}\n,A,B,1,1,C\n", "line 2, column order_id: there is nothing; expected a name"),
    "no sku": (f"{HEADER}\n1,A,  ,1,1,C\n", "line 2, column sku: there is nothing; expected a name"),
    "long": (f"{HEADER}\n1,A,{'x' * 101},1,1,C\n", "column sku: the name has 101 characters; expected at most 100"),
    "control": (f"{HEADER}\n1,A,B\x07,1,1,C\n", r"column sku: 'B\x07' has a control character"),
    "line break": (f'{HEADER}\n1,A,"B\nB",1,1,C\n', r"line 2, column sku: 'B\nB' has a control character or a line"),
    "after a line break": (f'{HEADER}\n"1\n",A,B,1,1,C\n2,A,B,x,1,C\n', "line 4, column quantity: 'x'"),
    "other customer": (
        f"{HEADER}\n1,A,B,1,1,C\n1,Z,B,1,1,C\n",
        "line 3, column customer_id: order '1' has 'Z' here and 'A' in line 2; expected the same in all lines",
    ),
    "other area": (f"{HEADER}\n1,A,B,1,1,C\n1,A,B,1,1,D\n", "line 3, column area: order '1' has 'D' here and 'C'"),
    "open quote": (f'{HEADER}\n1,A,"B,1,1,C\n2,A,B,1,1,C\n', "line 2: this is no CSV (unexpected end of data)"),
    "stray quote": (f'{HEADER}\n1,A,"B"B,1,1,C\n', "line 2: this is no CSV"),
    "NUL": (f"{HEADER}\n1,A,B\0,1,1,C\n", "line 2, byte 6: there is a NUL; expected text in UTF-8"),
    "too many lines": (f"{HEADER}\n" + "1,A,B,1,1,C\n" * (MAX_LINES + 1), "order '1' has more than 500 lines"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_malformed_file_is_told_by_file_line_column_and_what_is_expected(path: Path, case: str) -> None:
    text, said = BAD[case]
    path.write_bytes(text.encode())
    with pytest.raises(OrdersInvalid, match=f"^{re.escape(str(path))}, .*{re.escape(said)}") as caught:
        read_orders(path)
    assert "; expected " in str(caught.value)
    assert "\n" not in str(caught.value)


BYTES = {
    "latin-1": (f"{HEADER}\n1,A,B,1,1,K\xf6ln\n".encode("latin-1"), "line 2, byte 12: 0xf6 is not UTF-8"),
    "utf-16": (GOOD.encode("utf-16"), "line 1, byte 1: 0xff is not UTF-8"),
    "torn": (GOOD.encode()[:-1] + b"\xc3", "line 4, byte "),
}


@pytest.mark.parametrize("case", BYTES)
def test_another_encoding_is_told_by_line_and_byte(path: Path, case: str) -> None:
    raw, said = BYTES[case]
    path.write_bytes(raw)
    with pytest.raises(OrdersInvalid, match=f"{re.escape(said)}.*expected a file in UTF-8"):
        read_orders(path)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(OrdersInvalid, match=r"missing\.csv cannot be read: No such file or directory"):
        read_orders(tmp_path / "missing.csv")
    with pytest.raises(OrdersInvalid, match="cannot be read: Is a directory"):
        read_orders(tmp_path)


def test_the_same_seed_makes_the_same_orders() -> None:
    assert generate_orders(50, 7) == generate_orders(50, 7)
    assert generate_orders(50, 7) != generate_orders(50, 8)
    assert generate_orders(20, 7) == generate_orders(50, 7)[:20]


@pytest.mark.parametrize("seed", range(5))
def test_made_up_orders_go_everywhere_a_closed_area_included(seed: int) -> None:
    orders = generate_orders(200, seed)
    assert CLOSED_AREA in {order.area for order in orders}
    assert len({order.order_id for order in orders}) == len({order.request_id for order in orders}) == 200
