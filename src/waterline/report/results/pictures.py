"""The figures of a machine's experiments, as SVG files beside the page, for light and for dark readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from waterline.bench.experiments import efficiency
from waterline.bench.experiments.efficiency_paper import THROUGHPUTS
from waterline.bench.records import Record
from waterline.errors import InvalidArgument
from waterline.report import experiment_figures, figures
from waterline.report.experiments.efficiency import analysis_of
from waterline.report.figures import Drawing
from waterline.report.results.runs import Machine, anchor

THEMES = ("light", "dark")
FOLDER = "figures"  # beside the page
# Of the networks of the efficiency experiment, those whose waterline is drawn: the papers' own.
WATERLINES = (efficiency.CONVFIRST, *THROUGHPUTS)

Draw = Callable[[str], Drawing]  # of a theme


def pictures(machine: Machine) -> dict[str, dict[str, tuple[str, Draw]]]:
    """Experiment -> name of the file, without theme and suffix -> what it shows, and how it is drawn."""
    found: dict[str, dict[str, tuple[str, Draw]]] = {}
    for name, (_, records) in machine.experiments.items():
        timed = [record for record in records if "median_ms" in record]
        if timed:
            stem = f"{name}-{anchor(machine.title)}"
            found[name] = {stem: (f"experiment {name} on {machine.title}", partial(_figure, timed))}
            found[name] |= {
                f"{stem}-{record['model'].replace('_', '-')}": (f"waterline of {record['model']}", draw)
                for record, draw in _waterlines(timed)
            }
    return found


def draw_all(machines: Sequence[Machine], folder: Path) -> list[Path]:
    """Write the pictures into a folder, and remove those of before that nothing is known of any more."""
    folder.mkdir(exist_ok=True)
    written = []
    for machine in machines:
        for each in pictures(machine).values():
            for stem, (_, draw) in each.items():
                written += [draw(theme).save(folder / f"{stem}-{theme}.svg") for theme in THEMES]
    for stale in set(folder.glob("*.svg")) - set(written):
        stale.unlink()
    return written


def markup(stem: str, what: str) -> str:
    """A picture in a Markdown page: the dark one for readers of dark pages."""
    light, dark = (f"{FOLDER}/{stem}-{theme}.svg" for theme in THEMES)
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{what[:1].upper()}{what[1:]}"></picture>'
    )


def _figure(records: Sequence[Record], theme: str) -> Drawing:
    drawing = experiment_figures.figure(records, theme)
    if drawing is None:
        raise InvalidArgument(f"the experiment of {records[0]['protocol']!r} has no figure", "give it one")
    return drawing


def _waterlines(records: Sequence[Record]) -> list[tuple[Record, Draw]]:
    """Of the first batch and number of threads that the efficiency experiment has."""
    chosen = [record for record in records if record["protocol"] == efficiency.PROTOCOL]
    first = [(record["batch"], record["threads"]) for record in chosen][:1]
    return [
        (record, partial(_waterline, record))
        for record in chosen
        if record["model"] in WATERLINES and [(record["batch"], record["threads"])] == first
    ]


def _waterline(record: Record, theme: str) -> Drawing:
    return figures.waterline(analysis_of(record), "time", per="block", theme=theme, commit=record["commit"])
