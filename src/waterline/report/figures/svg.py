"""matplotlib's SVG made fit for a page: small, always the same, styled by attributes, with words to be read aloud."""

from __future__ import annotations

import re
from xml.etree import ElementTree

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
# Of the system that shows it: text is measured in a wide font, so that another one fits as well.
FONTS = 'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", Arial, sans-serif'
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_FONT = re.compile(r"(?:(\d+) )?([\d.]+)px")


def refine(text: str, name: str, title: str, description: str) -> str:
    """An SVG document as matplotlib writes it, as we do.

    * `style` attributes and the style sheet become attributes, which a page's content security policy does not forbid.
    * Coordinates have two digits after the point.
    * It begins with `title` and `desc`, which `aria-labelledby` names; its metadata go.
    """
    for prefix, space in (("", SVG), ("xlink", XLINK)):
        ElementTree.register_namespace(prefix, space)
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _plain(element)
    for key in ("width", "height"):
        root.attrib[key] = root.attrib[key].replace("pt", "")
    root.attrib |= {
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
        "font-family": FONTS,
    }
    for place, (tag, words) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(f"{{{SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = words
        element.tail = "\n"
        root.insert(place, element)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _plain(element: ElementTree.Element) -> None:
    for part in element.attrib.pop("style", "").split(";"):
        key, _, value = (each.strip() for each in part.partition(":"))
        if key == "font":
            found = _FONT.search(value)
            assert found, f"a font without a size: {value!r}"
            element.attrib["font-size"] = found[2]
            if found[1]:
                element.attrib["font-weight"] = found[1]
        elif key == "font-size":
            element.attrib[key] = value.removesuffix("px")
        elif value and key != "font-family":
            element.attrib[key] = value
    for key in ("d", "x", "y", "points", "width", "height"):
        if key in element.attrib:
            element.attrib[key] = _NUMBER.sub(_rounded, " ".join(element.attrib[key].split()))
    # A scale would need its digits; what matplotlib writes for text and markers has none.
    if "scale" not in element.get("transform", "scale"):
        element.attrib["transform"] = _NUMBER.sub(_rounded, element.attrib["transform"])
    if not (element.text or "").strip() and len(element):
        element.text = "\n"
    if element.tail is not None and not element.tail.strip():
        element.tail = "\n"


def _rounded(found: re.Match[str]) -> str:
    return f"{float(found[0]):.2f}".rstrip("0").rstrip(".")
