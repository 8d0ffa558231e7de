"""`Content`: everything that one page tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from waterline.analysis import Analysis
from waterline.bench.records import Record
from waterline.report.page.profiles import Profile


@dataclass(frozen=True)
class Picture:
    """A figure, drawn for both themes.

    Attributes:
        name: short, of letters and hyphens: it becomes part of the page's ids.
        title, caption: what it shows, and how to read it. description: what is to be seen, for those who cannot.
        light, dark: SVG documents, styled by attributes: the page's policy forbids style sheets within.
    """

    name: str
    title: str
    caption: str
    description: str
    light: str
    dark: str


@dataclass(frozen=True)
class Content:
    """What a page is made from.

    Attributes:
        environment: software, machine and date, as records have them (`waterline.bench.records.environment`).
        analysis: of a network; None for a page that only compares saved profiles.
        runs: how many inferences the analysis is the median of; 0 if it is predicted.
        pictures: in the order of the page.
        records: latency of whole inferences by engine, ours first; () if none was measured.
        profiles: that are compared layer by layer, two at least; () without a comparison.
    """

    environment: Mapping[str, Any]
    analysis: Analysis | None = None
    runs: int = 0
    pictures: Sequence[Picture] = ()
    records: Sequence[Record] = ()
    profiles: Sequence[Profile] = ()

    @property
    def title(self) -> str:
        if self.analysis is not None:
            return self.analysis.network
        names = dict.fromkeys(profile.network for profile in self.profiles)
        return " and ".join(names)
