"""Orders from a CSV file, checked whole before anything is started.

Lives here: the format (RFC 4180, UTF-8 with or without a byte order mark) and what is said about a file that is not of
it. Blanks around a value do not count. Must not live here: what is done with the orders.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Final, NoReturn

from twophase.sandbox.checkout.orders import Line, Order
from twophase.sandbox.errors import OrdersInvalid

COLUMNS: Final = ("order_id", "customer_id", "sku", "quantity", "unit_price", "area")
HEADER: Final = ",".join(COLUMNS)
MAX_QUANTITY: Final = 1_000_000
MAX_LINES: Final = 500  # of one order: its operations stay below the size that a coordinator takes
MAX_NAME: Final = 100
_QUANTITY: Final = re.compile(r"0*([0-9]{1,7})")
_PRICE: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,4})?")


@dataclass(slots=True)
class _Draft:
    customer_id: str
    area: str
    line: int
    lines: list[Line] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in the file a value stands."""

    file: Path
    line: int
    column: str = ""

    def fail(self, fact: str, expected: str) -> NoReturn:
        column = f", column {self.column}" if self.column else ""
        raise OrdersInvalid(f"{self.file}, line {self.line}{column}: {fact}; expected {expected}")


def read_orders(path: Path) -> list[Order]:
    """The orders of a file, in the order of their first lines.

    Raises `OrdersInvalid` for the first thing that is wrong, with file, line, column and what was expected.
    """
    text = _decode(path)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    drafts: dict[str, _Draft] = {}
    first_line = 1
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            _Place(path, first_line).fail(f"this is no CSV ({error})", 'values parted by commas, quoted as "a ""b"" c"')
        if row is None:
            break
        place, first_line = _Place(path, first_line), reader.line_num + 1
        if not row:
            continue
        values = [value.strip() for value in row]
        if header is None:
            header = _checked_header(values, place)
        elif len(values) != len(header):
            place.fail(f"there are {len(values)} values", f"{len(header)} values: {','.join(header)}")
        else:
            _add(drafts, dict(zip(header, values, strict=True)), place)
    if header is None:
        _Place(path, 1).fail("the file is empty", f"the header {HEADER}")
    if not drafts:
        _Place(path, reader.line_num + 1).fail("there is no order", "a line below the header for each line of an order")
    return [
        Order(order_id=order_id, customer_id=draft.customer_id, area=draft.area, lines=tuple(draft.lines))
        for order_id, draft in drafts.items()
    ]


def _decode(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise OrdersInvalid(
            f"{path} cannot be read: {error.strerror or error}; expected a CSV file: {HEADER}"
        ) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, column = _position(raw, error.start)
        raise OrdersInvalid(
            f"{path}, line {line}, byte {column}: 0x{raw[error.start]:02x} is not UTF-8; expected a file in UTF-8"
            " (iconv -f ISO-8859-1 -t UTF-8 converts one)"
        ) from error
    if "\0" in text:
        line, column = _position(raw, raw.index(b"\0"))
        raise OrdersInvalid(f"{path}, line {line}, byte {column}: there is a NUL; expected text in UTF-8")
    return text


def _position(raw: bytes, offset: int) -> tuple[int, int]:
    before = raw[:offset]
    return before.count(b"\n") + 1, offset - (before.rfind(b"\n") + 1) + 1


def _checked_header(values: list[str], place: _Place) -> list[str]:
    for name in values:
        if name not in COLUMNS:
            place.fail(f"there is no column {name!r}", f"the header {HEADER}")
    if missing := [name for name in COLUMNS if name not in values]:
        place.fail(f"the column {missing[0]!r} is missing", f"the header {HEADER}")
    if len(values) != len(COLUMNS):
        place.fail("a column is there twice", f"the header {HEADER}")
    return values


def _add(drafts: dict[str, _Draft], row: dict[str, str], place: _Place) -> None:
    def at(column: str) -> _Place:
        return _Place(place.file, place.line, column)

    order_id, customer_id, sku, area = (
        _name(row[name], at(name)) for name in ("order_id", "customer_id", "sku", "area")
    )
    line = Line(
        sku=sku,
        quantity=_quantity(row["quantity"], at("quantity")),
        unit_price=_price(row["unit_price"], at("unit_price")),
    )
    draft = drafts.setdefault(order_id, _Draft(customer_id, area, place.line))
    for column, here, there in (("customer_id", customer_id, draft.customer_id), ("area", area, draft.area)):
        if here != there:
            at(column).fail(
                f"order {order_id!r} has {here!r} here and {there!r} in line {draft.line}",
                "the same in all lines of an order",
            )
    if len(draft.lines) == MAX_LINES:
        at("order_id").fail(f"order {order_id!r} has more than {MAX_LINES} lines", f"at most {MAX_LINES}")
    draft.lines.append(line)


def _name(text: str, place: _Place) -> str:
    if not text:
        place.fail("there is nothing", "a name")
    if len(text) > MAX_NAME:
        place.fail(f"the name has {len(text)} characters", f"at most {MAX_NAME}")
    if any(unicodedata.category(character) == "Cc" for character in text):
        place.fail(f"{text!a} has a control character or a line break", "a name without them")
    return text


def _quantity(text: str, place: _Place) -> int:
    found = _QUANTITY.fullmatch(text)
    if found is None or not 1 <= int(found[1]) <= MAX_QUANTITY:
        place.fail(f"{text!r} is no quantity", f"a whole number from 1 to {MAX_QUANTITY}")
    return int(found[1])


def _price(text: str, place: _Place) -> Decimal:
    if _PRICE.fullmatch(text) is None:
        place.fail(
            f"{text!r} is no price",
            "a number such as 14.00, not negative, with at most 9 digits before the point and 4 after it",
        )
    return Decimal(text)
