"""Comparisons side by side: engines measured in one run, and saved profiles layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from waterline.bench.records import Record
from waterline.report import tables
from waterline.report.page import layers, numbers
from waterline.report.page.markup import Html, caption, join, tag
from waterline.report.page.profiles import Match, Profile, match


def engines(records: Sequence[Record], versions: Mapping[str, Any]) -> Html:
    slowest = max(record["median_ms"] for record in records)
    rows = [_engine(record, versions, slowest) for record in records]
    headings = ("Median ms", "10th", "90th percentile", "Of peak", "Ratio", "Its spread")
    table = tag(
        "table",
        caption("Latency of the whole network, by engine"),
        tag(
            "thead",
            tag(
                "tr",
                tag("th", "Engine", scope="col", class_="name"),
                [tag("th", text, scope="col", class_="number") for text in headings],
                tag("th", tag("span", "Latency drawn", class_="unseen"), scope="col"),
            ),
        ),
        tag("tbody", rows),
        class_="engines",
    )
    said = (
        "All engines were measured in turns in one run, with the same input and the same number of threads, and their "
        "results agreed. The ratio is an engine's time divided by Waterline's in the same round: above 1 it is slower."
    )
    region = tag("div", table, class_="region", role="region", aria_label="Table of engines", tabindex="0")
    return join([tag("h2", "Other engines", id="engines-title"), tag("p", said), region])


def _engine(record: Record, versions: Mapping[str, Any], slowest_ms: float) -> Html:
    ratio = record["ratio"]
    values = (
        tables.milliseconds(record["median_ms"]),
        tables.milliseconds(record["p10_ms"]),
        tables.milliseconds(record["p90_ms"]),
        numbers.percent(record["computational_efficiency"]),
        f"{ratio['median']:.2f}",
        f"{ratio['p10']:.2f} to {ratio['p90']:.2f}",
    )
    version = versions.get(record["engine"], "")
    name = tag("th", record["engine"], tag("small", f" {version}"), scope="row", class_="name")
    width = f"{100 * record['median_ms'] / slowest_ms:.1f}"
    drawn = tag(
        "svg",
        tag("rect", class_="ours" if record["engine"] == "waterline" else "theirs", width=width, height="10"),
        class_="bar",
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        aria_hidden="true",
    )
    return tag("tr", name, [tag("td", value, class_="number") for value in values], tag("td", drawn, class_="drawn"))


def profiles(compared: Sequence[Profile]) -> Html:
    matches = match(compared)
    everywhere = sum(each.is_everywhere for each in matches)
    said = f"In all of them: {everywhere} of {numbers.count(len(matches), 'layer')}."
    table = tag(
        "table",
        caption("Layers by name and shape. The ratio is the time divided by that of the first profile."),
        tag("thead", _profile_headings(compared)),
        tag("tbody", [_matched(each) for each in matches]),
        tag("tfoot", _sums(compared, matches)),
        class_="profiles",
    )
    region = tag("div", table, class_="region wide", role="region", aria_label="Table of profiles", tabindex="0")
    return join([tag("h2", "Profiles side by side", id="profiles-title"), _list(compared), tag("p", said), region])


def _list(compared: Sequence[Profile]) -> Html:
    items = [
        tag(
            "li",
            tag("b", profile.label),
            f": {profile.network} on {profile.machine}, {numbers.count(profile.threads, 'thread')}, "
            f"{numbers.count(len(profile.rows), 'layer')}, {numbers.milliseconds(profile.time_ns)} an inference",
        )
        for profile in compared
    ]
    return tag("ul", items)


def _profile_headings(compared: Sequence[Profile]) -> list[Html]:
    first, *others = compared
    top = [tag("th", "Layer", scope="col", rowspan=2, class_="name"), tag("th", "Shape", scope="col", rowspan=2)]
    top.append(tag("th", first.label, scope="colgroup", colspan=2, class_="group"))
    top += [tag("th", other.label, scope="colgroup", colspan=3, class_="group") for other in others]
    bottom = [_heading("Algorithm", "group"), _heading("Time µs")]
    for _ in others:
        bottom += [_heading("Algorithm", "group"), _heading("Time µs"), _heading("Ratio")]
    return [tag("tr", top), tag("tr", bottom)]


def _heading(text: str, class_: str = "number") -> Html:
    return tag("th", text, scope="col", class_=class_)


def _matched(each: Match) -> Html:
    cells = [
        tag("th", each.name, scope="row", class_="name"),
        tag("td", layers.shape(each.shape), class_="shape"),
    ]
    for position, row in enumerate(each.rows):
        if row is None:
            cells.append(tag("td", "not in this one", colspan=2 if position == 0 else 3, class_="group missing"))
            continue
        cells += [
            tag("td", row.algorithm, class_="group"),
            tag("td", numbers.microseconds(row.time_ns), class_="number"),
        ]
        if position:
            cells.append(tag("td", _ratio(each.ratio(position)), class_="number"))
    return tag("tr", cells, class_=None if each.is_everywhere else "unmatched")


def _sums(compared: Sequence[Profile], matches: Sequence[Match]) -> list[Html]:
    """Of the layers that all have, and of whole inferences."""
    common = [each for each in matches if each.is_everywhere]
    sums = [sum(row.time_ns for each in common if (row := each.rows[i])) for i in range(len(compared))]
    return [
        _sum("Layers in all", sums),
        _sum("Network", [profile.time_ns for profile in compared]),
    ]


def _sum(name: str, times: Sequence[float]) -> Html:
    cells = [tag("th", name, scope="row", class_="name"), tag("td")]
    for position, time_ns in enumerate(times):
        cells += [tag("td"), tag("td", numbers.microseconds(time_ns), class_="number")]
        if position:
            cells.append(tag("td", _ratio(time_ns / times[0] if times[0] else None), class_="number"))
    return tag("tr", cells)


def _ratio(value: float | None) -> str:
    return numbers.NONE if value is None else f"{value:.2f}"
