"""`Drawing`: a finished figure, as SVG or in a file."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from waterline.errors import InvalidArgument
from waterline.report.figures.svg import refine

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 192  # of PNG: two pixels for each of a usual screen
SUFFIXES = (".svg", ".png", ".pdf")
_SETTINGS = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "waterline",  # ids depend on the drawing alone
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a name with two dollar signs is a name
    "axes.unicode_minus": True,
    "font.size": 9,
    "hatch.linewidth": 0.6,
}


@contextmanager
def drawing_settings() -> Iterator[None]:
    """matplotlib's defaults and ours, whatever its user has set; everything is as before afterwards.

    Raises:
        InvalidArgument: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        hint = "pip install 'waterline[plots]'"
        raise InvalidArgument("figures need matplotlib, which is not installed", hint) from error
    defaults: dict[str, Any] = {
        key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")
    }
    with warnings.catch_warnings(), matplotlib.rc_context(defaults | _SETTINGS):
        # A letter that matplotlib's font has not is drawn as a box in a PNG, and is itself in an SVG.
        warnings.filterwarnings("ignore", message=".*[Gg]lyph .* missing")
        yield


class Drawing:
    """A figure in one theme, without a background.

    Attributes:
        name: of letters and hyphens: of its file, and part of ids in its SVG.
        title: as it stands above the figure. description: what is to be seen, with its numbers, for screen readers.
        caption: what stands below it: machine, threads, commit.
        figure: matplotlib's.
    """

    def __init__(self, name: str, title: str, description: str, caption: str, figure: Figure) -> None:
        self.name = name
        self.title = title
        self.description = description
        self.caption = caption
        self.figure = figure

    def svg(self) -> str:
        """An SVG document; the same drawing is the same text."""
        buffer = io.StringIO()
        with drawing_settings():
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
        return refine(buffer.getvalue(), self.name, self.title, self.description)

    def save(self, path: str | Path) -> Path:
        """Write the drawing to a file, in the format that its suffix names: .svg, .png or .pdf.

        Raises:
            InvalidArgument: another suffix, or the file cannot be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise InvalidArgument(
                f"{str(path)!r} does not end with the suffix of a figure", f"end it with one of {', '.join(SUFFIXES)}"
            )
        content = self.svg().encode() if suffix == ".svg" else self._image(suffix[1:])
        try:
            path.write_bytes(content)
        except OSError as error:
            raise InvalidArgument(
                f"{str(path)!r} cannot be written: {error.strerror}", "check the folder and its permissions"
            ) from error
        return path

    def _image(self, form: str) -> bytes:
        buffer = io.BytesIO()
        metadata = {"Software": None} if form == "png" else {"CreationDate": None}
        with drawing_settings():
            self.figure.savefig(buffer, format=form, dpi=DPI, metadata=metadata, transparent=True)
        return buffer.getvalue()
