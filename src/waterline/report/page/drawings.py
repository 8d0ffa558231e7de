"""SVG documents as elements of the page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from waterline.report.page.markup import Html

LEFT_OUT = ("metadata", "style", "title", "desc", "script")


def inline(document: str, prefix: str) -> Html:
    """An SVG document as an element.

    Several drawings share a page, so its ids get a prefix. Its `style` attributes become the attributes of the same
    names, and its style elements go: the page's policy allows neither. It is hidden from screen readers, which are told
    the picture's description.
    """
    root = ElementTree.fromstring(document)
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in LEFT_OUT:
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = _presentation(element.attrib.pop("style", "")) | element.attrib
        element.attrib.clear()
        for name, value in attributes.items():
            element.set(_local(name), _prefixed(_local(name), value, prefix))
        element.text, element.tail = _text(element.text), _text(element.tail)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)  # it is as wide as the page lets it be
    root.set("aria-hidden", "true")
    return Html(ElementTree.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    """Without its namespace: HTML knows svg, and has no prefixes."""
    return name.rpartition("}")[2]


def _presentation(style: str) -> dict[str, str]:
    pairs = (part.split(":", 1) for part in style.split(";") if ":" in part)
    return {name.strip(): value.strip() for name, value in pairs}


def _prefixed(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return prefix + value
    if name == "href":
        return re.sub("^#", f"#{prefix}", value)
    if name in ("d", "points", "x", "y"):
        return re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", " ".join(value.split()))
    return value.replace("url(#", f"url(#{prefix}")


def _text(text: str | None) -> str | None:
    """White space between elements says nothing."""
    return text if text and text.strip() else None
