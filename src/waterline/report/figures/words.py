"""Words and numbers in figures: names of models are data, and may be anything."""

from __future__ import annotations

import math
import re

# What XML does not allow, and what would break a line or turn its direction.
_UNWANTED = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]+")
_ELLIPSIS = "\u2026"


def clean(text: str) -> str:
    """One line of characters that XML may have."""
    return _UNWANTED.sub(" ", text).strip()


def short(name: str, most: int) -> str:
    """A name of at most so many characters: its beginning and its end, which tells layers apart."""
    name = clean(name)
    if len(name) <= most:
        return name
    head = (most - 1) // 2
    tail = name[len(name) - (most - 1 - head) :]
    return name[:head].rstrip("./_ ") + _ELLIPSIS + tail.lstrip("./_ ")


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def quantity(value: float) -> str:
    """About three digits, never with an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}" if digits else f"{round(value):,}".replace(",", " ")


def milliseconds(time_ns: float) -> str:
    return f"{quantity(time_ns / 1e6)} ms"


def threads_of(count: int) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def wrapped(text: str, most: int) -> list[str]:
    """Lines of at most so many characters, broken at spaces; longer words are cut."""
    lines = [""]
    for word in clean(text).split():
        word = short(word, most)
        if lines[-1] and len(lines[-1]) + 1 + len(word) > most:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
