"""All figures of one analysis."""

from __future__ import annotations

from pathlib import Path

from waterline.analysis import Analysis
from waterline.errors import InvalidArgument
from waterline.report.figures.drawing import Drawing, drawing_settings
from waterline.report.figures.layer_times import time_by_layer
from waterline.report.figures.roofline import roofline
from waterline.report.figures.waterline import waterline


def of_analysis(analysis: Analysis, theme: str = "light", commit: str | None = None) -> list[Drawing]:
    """Roofline, waterline by operations, by time and of blocks, time by cause, and by phase where there are phases.

    Raises:
        InvalidArgument: no such theme, or matplotlib is not installed.
    """
    found = [
        roofline(analysis, theme=theme, commit=commit),
        waterline(analysis, "flops", theme=theme, commit=commit),
        waterline(analysis, "time", theme=theme, commit=commit),
    ]
    if any(len(block.layers) > 1 for block in analysis.blocks):
        found.append(waterline(analysis, "time", per="block", theme=theme, commit=commit))
    found.append(time_by_layer(analysis, "cause", theme=theme, commit=commit))
    if any(layer.phases for layer in analysis.layers):
        found.append(time_by_layer(analysis, "phase", theme=theme, commit=commit))
    return found


def prepare(folder: str | Path) -> Path:
    """Make sure, before anything is measured, that figures can be drawn and written into a folder, which is made.

    Raises:
        InvalidArgument: matplotlib is not installed, or the folder cannot be made.
    """
    with drawing_settings():
        pass
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgument(
            f"{str(folder)!r} cannot be made: {error.strerror}", "name a folder that can be written"
        ) from error
    return folder


def save_all(analysis: Analysis, folder: str | Path, theme: str = "light") -> list[Path]:
    """Write `of_analysis` as SVG files, named after the figures, into a folder, which is made if it is not there.

    Raises:
        InvalidArgument: they cannot be written, no such theme, or matplotlib is not installed.
    """
    drawings = of_analysis(analysis, theme)
    folder = prepare(folder)
    return [drawing.save(folder / f"{drawing.name}.svg") for drawing in drawings]
