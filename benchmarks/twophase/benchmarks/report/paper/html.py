"""The report as one page that needs nothing else.

Lives here: tags and style. Must not live here: words (`document` and what it calls), escaping (the sandbox's `markup`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from xml.etree import ElementTree as ET

from twophase.benchmarks.report.paper.blocks import (
    LEADS,
    Block,
    Bullets,
    Contents,
    Document,
    Finding,
    Heading,
    Paragraph,
    Part,
    Plot,
    Table,
)
from twophase.sandbox.drill.markup import element, page

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; color: #111; background: #fff; max-width: 980px; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.8em; line-height: 1.2; margin-bottom: .2em; } h2 { font-size: 1.35em; margin: 2.4em 0 .4em;
  border-top: 2px solid #111; padding-top: .5em; } h3 { font-size: 1.05em; margin: 1.6em 0 .2em; }
p { margin: .5em 0; max-width: 46em; } .subtitle { color: #444; } a { color: inherit; }
.finding { border-left: 4px solid #111; padding: .1em 0 .1em 1em; margin: 1em 0; max-width: 46em; }
.finding p { margin: .2em 0; } .finding .text { font-weight: bold; } .finding .more { font-size: .88em; color: #333; }
.finding dl { margin: .3em 0; font-size: .92em; } .finding dl div { display: flex; gap: 2em;
  justify-content: space-between; border-bottom: 1px dotted #bbb; }
.finding dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: 1em 0; font-size: .88em; min-width: 60%; }
caption { text-align: left; font-weight: bold; padding-bottom: .3em; }
th, td { text-align: left; padding: .2em 1em .2em 0; border-bottom: 1px solid #bbb; vertical-align: top; }
thead th { border-bottom: 2px solid #111; vertical-align: bottom; } tbody th { font-weight: normal; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 1.2em 0; } figcaption { font-size: .88em; color: #333; max-width: 52em; }
svg.plot { width: 100%; height: auto; } svg.plot * { stroke-linejoin: round; stroke-linecap: butt; }
@media print { body { font-size: 11px; margin: 0; } figure, table, .finding { break-inside: avoid; }
  h2, h3 { break-after: avoid; } .scroll { overflow: visible; } }
"""
_REFERENCE: Final = re.compile(r"url\(#([^)]*)\)")


def html(document: Document) -> str:
    """The page."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", document.title),
        element("style", _STYLE),
    )
    body = element(
        "body",
        element(
            "header", element("h1", document.title), *_if(document.subtitle, "p", document.subtitle, class_="subtitle")
        ),
        element("main", *(_part(part) for part in document.parts)),
    )
    return page(element("html", head, body, lang="en"))


def _part(part: Part) -> ET.Element:
    blocks = (made for block in part.blocks for made in _block(block))
    return element("section", element("h2", part.title), *blocks, id=part.anchor)


def _block(block: Block) -> Iterator[ET.Element]:
    match block:
        case Paragraph(text, lead):
            yield element("p", *_if(lead, "strong", lead), f" {text}" if lead else text)
        case Bullets(items):
            yield element("ul", *(element("li", item) for item in items))
        case Heading(text):
            yield element("h3", text)
        case Table():
            yield _table(block)
        case Plot():
            caption = element("figcaption", block.caption)
            yield element("figure", _inline(block), caption, id=f"plot-{block.name}")
        case Finding():
            yield _finding(block)
        case Contents(entries):
            links = (
                element("li", element("a", title, href=f"#{anchor}"), f": {question}")
                for anchor, title, question in entries
            )
            yield element("nav", element("ul", *links), aria_label="Contents")


def _finding(finding: Finding) -> ET.Element:
    more = [
        (lead, text) for lead, text in zip(LEADS, (finding.holds, finding.flips, finding.sure), strict=True) if text
    ]
    pairs = (
        element("div", element("dt", name), element("dd", value, class_="number")) for name, value in finding.figures
    )
    return element(
        "div",
        element("p", finding.text, class_="text"),
        element("dl", *pairs),
        *(element("p", element("strong", f"{lead}:"), f" {text}", class_="more") for lead, text in more),
        element("p", element("a", "the details", href=f"#{finding.anchor}"), class_="more"),
        class_="finding",
    )


def _table(table: Table) -> ET.Element:
    def cells(row: tuple[str, ...], tag: str) -> Iterator[ET.Element]:
        for place, text in enumerate(row):
            if place >= table.words:
                yield element(tag, text, class_="number")
            elif tag == "td" and place == 0:
                yield element("th", text, scope="row")
            else:
                yield element(tag, text)

    head = element("tr", *cells(tuple(table.head), "th"))
    for cell in head:
        cell.set("scope", "col")
    rows = (element("tr", *cells(tuple(row), "td")) for row in table.rows)
    made = element("table", element("caption", table.caption), element("thead", head), element("tbody", *rows))
    return element("div", made, class_="scroll")


def _if(text: str, tag: str, *content: str, **attributes: str) -> list[ET.Element]:
    return [element(tag, *content, **attributes)] if text else []


def _inline(plot: Plot) -> ET.Element:
    """The drawing as part of the page: names without namespaces, and ids that no other drawing has."""
    root = ET.fromstring(plot.svg)  # noqa: S314 - our own drawing
    for parent in root.iter():
        parent.tag = _local(parent.tag)
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
        for name, value in list(parent.attrib.items()):
            del parent.attrib[name]
            parent.set(_local(name), _own(_local(name), value, plot.name))
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("class", "plot")
    root.set("role", "img")
    root.set("aria-label", plot.alt)
    return root


def _own(attribute: str, value: str, name: str) -> str:
    if attribute == "id":
        return f"{name}-{value}"
    if attribute == "href" and value.startswith("#"):
        return f"#{name}-{value[1:]}"
    return _REFERENCE.sub(rf"url(#{name}-\1)", value)


def _local(name: str) -> str:
    return name.rpartition("}")[2]
