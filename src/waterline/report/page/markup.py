"""HTML from Python: `tag("td", text, class_="name")`. Text is escaped: no name in a model becomes markup."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any

VOID = frozenset({"br", "hr", "input", "link", "meta", "wbr"})


class Html(str):
    """Text that is HTML already, and stays as it is."""


def escape(value: object) -> Html:
    """Text -> HTML, for elements and quoted attributes alike. What is no character (half a pair) becomes `?`."""
    if isinstance(value, Html):
        return value
    return Html(html.escape(str(value).encode(errors="replace").decode(), quote=True))


def tag(name: str, *children: object, **attributes: object) -> Html:
    """An element.

    Args:
        children: text, which is escaped, elements, and iterables of both; None is left out.
        attributes: `class_` and `for_` are `class` and `for`, other underscores are hyphens. True is an attribute
            without a value; None and False leave it out.
    """
    opened = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    return Html(opened if name in VOID else f"{opened}{join(children)}</{name}>")


def join(children: Iterable[object]) -> Html:
    """Elements and text one after the other."""
    parts: list[str] = []
    for child in children:
        if isinstance(child, str):
            parts.append(escape(child))
        elif isinstance(child, Iterable):
            parts.append(join(child))
        elif child is not None:
            parts.append(escape(child))
    return Html("".join(parts))


def caption(text: str) -> Html:
    """A table's, in an element of its own that stays in view where the table is wider than its region."""
    return tag("caption", tag("span", text))


def data_block(value: Any) -> Html:
    """JSON for a `<script type="application/json">`.

    No `<`, `>` or `&` is left in it, so no string can end the element or open a comment; JSON's own escapes say the
    same to whoever reads it. What is not finite is an error: JSON has no word for it.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Html(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(value)}"'
