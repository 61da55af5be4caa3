"""Elements of HTML and SVG, escaped by whoever writes them out.

Lives here: one function for making an element, one for writing a page. Must not live here: any page.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias
from xml.etree import ElementTree as ET

Content: TypeAlias = "ET.Element | str"

_DOCTYPE: Final = "<!DOCTYPE html>\n"


def element(tag: str, *content: Content, **attributes: Any) -> ET.Element:
    """An element. In the names of attributes `_` stands for `-`, and one at the end for nothing (`class_`)."""
    made = ET.Element(tag, {name.rstrip("_").replace("_", "-"): _text(value) for name, value in attributes.items()})
    append(made, *content)
    return made


def append(to: ET.Element, *content: Content) -> None:
    """Adds content at the end of an element."""
    for each in content:
        if isinstance(each, ET.Element):
            to.append(each)
        elif len(to):
            to[-1].tail = (to[-1].tail or "") + each
        else:
            to.text = (to.text or "") + each


def page(root: ET.Element) -> str:
    """The text of a whole HTML page."""
    return _DOCTYPE + ET.tostring(root, encoding="unicode", method="html") + "\n"


def _text(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
