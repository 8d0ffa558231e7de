"""SVG documents as elements of the page."""

from __future__ import annotations

from xml.etree import ElementTree

from waterline.report.page.markup import Html

LEFT_OUT = ("title", "desc")  # the page says it
OF_A_DOCUMENT = ("width", "height", "version", "role", "aria-labelledby")


def inline(document: str, prefix: str) -> Html:
    """An SVG document, styled by attributes alone, as an element.

    Several drawings share a page, so its ids get a prefix. It is as wide as the page lets it be, and hidden from screen
    readers, which are told the picture's description.
    """
    root = ElementTree.fromstring(document)
    for child in [child for child in root if _local(child.tag) in LEFT_OUT]:
        root.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(name): value for name, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib |= {name: _prefixed(name, value, prefix) for name, value in attributes.items()}
        element.text, element.tail = _text(element.text), _text(element.tail)
    for name in OF_A_DOCUMENT:
        root.attrib.pop(name, None)
    root.set("aria-hidden", "true")
    return Html(ElementTree.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    """Without its namespace: HTML knows svg, and has no prefixes."""
    return name.rpartition("}")[2]


def _prefixed(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return prefix + value
    if name == "href" and value.startswith("#"):
        return f"#{prefix}{value[1:]}"
    return value.replace("url(#", f"url(#{prefix}")


def _text(text: str | None) -> str | None:
    """White space between elements says nothing."""
    return text if text and text.strip() else None
