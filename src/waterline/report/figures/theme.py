"""Colours of the two themes, and which colour belongs to which algorithm, cause or phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from waterline.errors import InvalidArgument


@dataclass(frozen=True)
class Theme:
    """Colours as matplotlib and SVG know them.

    Attributes:
        surface: what a page behind the drawing is assumed to have; the drawing itself has no background.
        text, muted, line, faint: of words, of words beside the point, of rules, of areas behind the data.
        accent: of the waterline. hues: told apart with any colour vision, as far as colours can be; markers differ too.
    """

    name: str
    surface: str
    text: str
    muted: str
    line: str
    faint: str
    accent: str
    hues: tuple[str, ...]


LIGHT = Theme(
    "light",
    surface="#ffffff",
    text="#1b1f24",
    muted="#57606a",
    line="#c3c9cf",
    faint="#eef0f2",
    accent="#c02f4d",
    hues=("#2f6fb3", "#d98200", "#23906c", "#9a5aa8", "#5cb0de", "#a8702a", "#7d858d", "#b0455a"),
)
DARK = Theme(
    "dark",
    surface="#1b1f23",
    text="#e7e9ec",
    muted="#a5adb6",
    line="#4a525b",
    faint="#272c32",
    accent="#ff7f97",
    hues=("#6aa9e6", "#f0ad4e", "#57c79d", "#c995d8", "#a5dcf7", "#d2a46a", "#939ba4", "#e68a9a"),
)
_THEMES = {theme.name: theme for theme in (LIGHT, DARK)}

# Family (what stands before the colon of an algorithm's name) -> place in `hues`, marker of a point.
_FAMILIES = {
    "direct_gemm": (0, "o"),
    "winograd": (1, "D"),
    "indirect": (2, "s"),
    "depthwise": (3, "^"),
    "grouped": (4, "v"),
    "fft": (5, "P"),
    "im2col": (7, "X"),
    "naive": (6, "*"),
}
_OTHER = (6, "h")

# The same three as on the page: arithmetic, memory, overhead.
_CAUSES = {"arithmetic": 0, "memory": 1, "overhead": 7}


def named(theme: str) -> Theme:
    """Raises InvalidArgument: there is no such theme."""
    if theme not in _THEMES:
        raise InvalidArgument(f"{theme!r} is no theme of figures", f"one of {', '.join(_THEMES)}")
    return _THEMES[theme]


def family(algorithm: str) -> str:
    """`winograd` of `winograd:f4x4`; "other" for what is no algorithm of convolutions."""
    name = algorithm.split(":")[0]
    return name if name in _FAMILIES else "other"


def families(algorithms: Sequence[str]) -> list[str]:
    """Those that occur, in the order of legends."""
    found = {family(algorithm) for algorithm in algorithms}
    return [name for name in (*_FAMILIES, "other") if name in found]


def colour(algorithm: str, theme: Theme) -> str:
    return theme.hues[_FAMILIES.get(family(algorithm), _OTHER)[0]]


def marker(algorithm: str) -> str:
    return _FAMILIES.get(family(algorithm), _OTHER)[1]


def cause_colour(cause: str, theme: Theme) -> str:
    return theme.hues[_CAUSES[cause]]


def series_colour(position: int, theme: Theme) -> str:
    """Of the n-th of several series without colours of their own."""
    return theme.hues[position % len(theme.hues)]


def shade(position: int, count: int, theme: Theme) -> str:
    """Of the n-th of `count` ordered series (batch 1, 2, 4, ...): one hue, stronger from first to last."""
    share = 0.3 + 0.7 * (position + 1) / count
    low, high = (_channels(value) for value in (theme.surface, theme.hues[0]))
    mixed = (round(a + share * (b - a)) for a, b in zip(low, high, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mixed)


def _channels(value: str) -> tuple[int, ...]:
    return tuple(int(value[i : i + 2], 16) for i in (1, 3, 5))
