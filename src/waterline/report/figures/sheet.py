"""`Sheet`: a figure in the making: its size in inches, title, caption, axes, labels that do not cover each other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from waterline.bench import records
from waterline.report.figures.drawing import Drawing
from waterline.report.figures.theme import Theme
from waterline.report.figures.words import clean, short, threads_of, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

WIDTH = 8.4  # inches
TITLE_INCHES = 0.36
LINE_INCHES = 0.16  # of the caption
SMALL = 8  # points: labels and captions
_CAPTION_CHARACTERS = 118


@dataclass(frozen=True)
class Source:
    """Where the numbers of a figure are from.

    Attributes:
        machine: its name. threads: several, where a figure has more than one. commit: None where it is not known.
        note: what else belongs into the caption.
    """

    machine: str
    threads: int | tuple[int, ...]
    commit: str | None
    note: str = ""

    @classmethod
    def here(cls, machine: str, threads: int | tuple[int, ...], commit: str | None = None, note: str = "") -> Source:
        """`commit`: None for that of this working tree."""
        return cls(machine, threads, commit or records.commit(), note)

    @property
    def caption(self) -> str:
        counts = (self.threads,) if isinstance(self.threads, int) else self.threads
        several = f"{', '.join(map(str, counts[:-1]))} and {threads_of(counts[-1])}" if len(counts) > 1 else ""
        parts = [self.machine, several or threads_of(counts[0]), self.note, f"commit {self.commit or 'not known'}"]
        return clean(" \u00b7 ".join(part for part in parts if part))


class Sheet:
    """Used inside `drawing_settings()`.

    Args:
        height: in inches, without title and caption.
    """

    def __init__(self, name: str, title: str, source: Source, theme: Theme, height: float) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.name, self.title, self.theme, self.source = name, clean(title), theme, source
        lines = wrapped(source.caption, _CAPTION_CHARACTERS)
        self._foot = LINE_INCHES * len(lines) + 0.1
        self.height = height + TITLE_INCHES + self._foot
        self.figure = Figure(figsize=(WIDTH, self.height), dpi=72)
        self._canvas = FigureCanvasAgg(self.figure)
        self.figure.patch.set_visible(False)
        self._words(0.1, self.height - 0.22, self.title, size=11, color=theme.text, fontweight="bold")
        for number, line in enumerate(lines):
            self._words(
                0.1, self._foot - 0.06 - LINE_INCHES * (number + 0.5), line, size=SMALL, color=theme.muted, va="center"
            )

    def _words(self, x: float, y: float, text: str, **style: Any) -> None:
        self.figure.text(x / WIDTH, y / self.height, text, **style)

    def axes(self, left: float, bottom: float, right: float, top: float) -> Axes:
        """Axes with these margins in inches, below the title and above the caption."""
        low = self._foot + bottom
        high = self.height - TITLE_INCHES - top
        return self.axes_at(left, low, WIDTH - left - right, high - low)

    def axes_at(self, left: float, bottom: float, width: float, height: float) -> Axes:
        """The same by position and size, in inches from the lower left corner."""
        axes = self.figure.add_axes((left / WIDTH, bottom / self.height, width / WIDTH, height / self.height))
        self.plain(axes)
        return axes

    @property
    def foot(self) -> float:
        """Height of the caption in inches."""
        return self._foot

    def plain(self, axes: Axes) -> None:
        """Thin lines, no background, small ticks."""
        axes.patch.set_visible(False)
        for side, spine in axes.spines.items():
            spine.set(color=self.theme.line, linewidth=0.8, visible=side in ("left", "bottom"))
        axes.tick_params(which="both", color=self.theme.line, labelcolor=self.theme.muted, labelsize=SMALL + 0.5)
        for axis in (axes.xaxis, axes.yaxis):
            axis.label.set(color=self.theme.text, fontsize=9)

    def legend(self, axes: Axes, handles: Mapping[str, Any], above: float = 0.0) -> None:
        """Label -> artist in a row so many inches above the axes; in more rows where one is too wide."""
        place = axes.get_position()
        # A leading underscore would hide the entry.
        names = [" " + short(label, 40) for label in handles]
        from_axes, from_edge = 0.0, -place.x0 / place.width
        rows = [(from_edge, columns) for columns in range(len(handles), 0, -1)]
        for left, columns in [(from_axes, max(1, len(handles))), *rows]:
            legend = axes.legend(
                list(handles.values()), names, loc="lower left", ncols=columns, frameon=False, fontsize=SMALL + 0.5,
                bbox_to_anchor=(left, 1 + above / (place.height * self.height)), labelcolor=self.theme.text,
                borderaxespad=0.3, borderpad=0, columnspacing=1.3, handletextpad=0.45, handlelength=1.3,
            )  # fmt: skip
            if self.boxes([legend])[0].x1 <= 72 * WIDTH:
                break

    def boxes(self, artists: Iterable[Any]) -> list[Bbox]:
        """What artists cover, in pixels of the figure."""
        renderer = self._canvas.get_renderer()
        return [artist.get_window_extent(renderer) for artist in artists]

    def drawing(self, description: str) -> Drawing:
        return Drawing(self.name, self.title, clean(description), self.source.caption, self.figure)

    def label_points(
        self, axes: Axes, labels: Sequence[tuple[float, float, str]], taken: list[Bbox], most: int
    ) -> list[Any]:
        """Write labels beside points, the first ones first, where there is room; at most `most` of them.

        Args:
            labels: x, y, text. taken: what must not be covered, in pixels; labels that are written are added.
        """
        renderer = self._canvas.get_renderer()
        frame = axes.get_window_extent(renderer)
        written: list[Any] = []
        for x, y, text in labels:
            if len(written) >= most:
                break
            for dx, dy in _OFFSETS:
                label = axes.annotate(
                    clean(text),
                    (x, y),
                    (dx, dy),
                    textcoords="offset points",
                    ha="left" if dx > 0 else "right" if dx < 0 else "center",
                    va="bottom" if dy > 0 else "top" if dy < 0 else "center",
                    fontsize=SMALL,
                    color=self.theme.text,
                    annotation_clip=False,
                    arrowprops={"arrowstyle": "-", "color": self.theme.muted, "linewidth": 0.5, "shrinkA": 1}
                    if math.hypot(dx, dy) > 15
                    else None,
                )
                box = label.get_window_extent(renderer)
                words = _words_of(label, renderer)
                inside = frame.x0 <= words.x0 and words.x1 <= frame.x1 and frame.y0 <= words.y0 and words.y1 <= frame.y1
                if inside and not any(words.overlaps(other) for other in taken):
                    written.append(label)
                    taken.append(box)
                    break
                label.remove()
        return written


# From a point to its label, in points, the nearest first.
_OFFSETS = [
    (distance * x, distance * y)
    for distance in (7, 12, 20, 32)
    for x, y in ((1, 0.4), (-1, 0.4), (1, -0.6), (-1, -0.6), (0, 1), (0, -1))
]


def _words_of(label: Any, renderer: Any) -> Bbox:
    """What an annotation covers without its line."""
    from matplotlib.text import Text

    label.update_positions(renderer)
    return Text.get_window_extent(label, renderer)


def apart(places: Sequence[float], gap: float, least: float) -> list[float]:
    """Places from high to low, moved until neighbours are a gap apart: down first, then up from the least place."""
    found: list[float] = []
    for place in places:
        found.append(min(place, found[-1] - gap) if found else place)
    below = least - gap
    for number in reversed(range(len(found))):
        found[number] = below = max(found[number], below + gap)
    return found


def log_ticks(low: float, high: float, most: int = 9) -> list[float]:
    """1, 2 and 5 of each power of ten from low to high; fewer of them where these would be more than `most`."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        found = [step * 10.0**decade for decade in decades for step in steps]
        found = [value for value in found if low <= value * 1.0001 and value <= high * 1.0001]
        if len(found) <= most:
            break
    return found
