"""The table of layers: a row each, and behind it the reason of the choice, the alternatives and the phases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from waterline.analysis import Analysis, LayerAnalysis
from waterline.report import tables
from waterline.report.page import numbers
from waterline.report.page.details import detail
from waterline.report.page.markup import Html, caption, join, tag
from waterline.report.page.summary import bar, cause_shares


@dataclass(frozen=True)
class Column:
    """`key` is what the script sorts by: a value of the layer in the page's data."""

    key: str
    heading: str
    meaning: str
    cell: Callable[[LayerAnalysis, Analysis], object]
    is_text: bool = False


def _gflop_per_s(layer: LayerAnalysis) -> float:
    return layer.flops * 1e9 / layer.time_ns if layer.time_ns else 0.0


def _where_it_has_flops(share: float, layer: LayerAnalysis) -> str:
    return numbers.percent(share) if layer.flops else numbers.NONE


def _cause_cell(layer: LayerAnalysis) -> Html:
    said = ", ".join(f"{name} {numbers.percent(share)}" for name, share in cause_shares(layer.causes).items())
    return join([bar(layer.causes), tag("span", said, class_="unseen")])


COLUMNS = (
    Column("algorithm", "Algorithm", "that computes it", lambda layer, _: layer.algorithm, True),
    Column("time_ns", "Time µs", "of one inference", lambda layer, _: numbers.microseconds(layer.time_ns)),
    Column(
        "share",
        "Share",
        "of the layers' time",
        lambda layer, of: numbers.percent(share(layer, of)),
    ),
    Column("flops", "GFLOP", "operations of the direct algorithm", lambda layer, _: numbers.giga(layer.flops)),
    Column(
        "flops_per_s",
        "GFLOP/s",
        "operations of the direct algorithm in a second",
        lambda layer, _: numbers.giga(_gflop_per_s(layer)),
    ),
    Column(
        "computational_efficiency",
        "Of peak",
        "computational efficiency: operations of the direct algorithm / (time \u00d7 peak)",
        lambda layer, _: _where_it_has_flops(layer.computational_efficiency, layer),
    ),
    Column(
        "effective_efficiency",
        "Effective",
        "the same of the operations that are executed",
        lambda layer, _: _where_it_has_flops(layer.effective_efficiency, layer),
    ),
    Column(
        "bound_ns",
        "Bound µs",
        "the roofline's least time of the direct algorithm",
        lambda layer, _: numbers.microseconds(layer.bound_ns),
    ),
    Column("overhead_share", "Causes", "sorts by overhead", lambda layer, _: _cause_cell(layer)),
)


def share(layer: LayerAnalysis, analysis: Analysis) -> float:
    total = sum(each.time_ns for each in analysis.layers)
    return layer.time_ns / total if total else 0.0


def sorting_values(layer: LayerAnalysis, analysis: Analysis) -> dict[str, float | str]:
    """What the columns show beyond the layer's own values, for the page's data."""
    return {
        "share": share(layer, analysis),
        "flops_per_s": _gflop_per_s(layer),
        "overhead_share": cause_shares(layer.causes)["overhead"],
        "shown_shape": shape(layer.shape),
    }


def shape(text: str) -> str:
    """A layer's id as people write it."""
    return tables.short_shape(text).replace("->", "\u2192")


def section(analysis: Analysis) -> Html:
    return join([tag("h2", "Layers", id="layers-title"), _filters(analysis), _table(analysis)])


def _filters(analysis: Analysis) -> Html:
    algorithms = sorted({layer.algorithm for layer in analysis.layers})
    options = [tag("option", "all", value=""), *(tag("option", name, value=name) for name in algorithms)]
    controls = [
        tag("div", tag("label", "Filter", for_="filter"), _search_field()),
        tag(
            "div",
            tag("label", "Algorithm", for_="algorithm"),
            tag("select", options, id="algorithm", autocomplete="off"),
        ),
        tag("button", "Open all", type="button", id="open-all", aria_pressed="false"),
    ]
    said = tag("p", numbers.count(len(analysis.layers), "layer"), id="shown", role="status", class_="muted")
    form = tag("form", controls, class_="filters scripted", role="search", aria_label="Layers")
    return join([form, said])


def _search_field() -> Html:
    return tag("input", type="search", id="filter", autocomplete="off", spellcheck="false", placeholder="name, shape …")


def _table(analysis: Analysis) -> Html:
    headings = [
        _heading("index", "#", "in the order they run", "ascending", class_="number"),
        _heading("name", "Layer", "", class_="name"),
        _heading("shown_shape", "Shape", "input, filter / stride, output channels, groups"),
    ]
    headings += [
        _heading(column.key, column.heading, column.meaning, class_=None if column.is_text else "number")
        for column in COLUMNS
    ]
    bodies = [_body(i, layer, analysis) for i, layer in enumerate(analysis.layers)]
    table = tag(
        "table",
        caption("Every layer, in the order they run. Times are of one inference."),
        tag("thead", tag("tr", headings)),
        bodies,
        _totals(analysis),
        id="layer-table",
        class_="layers",
    )
    return tag("div", table, class_="region wide", role="region", aria_label="Table of layers", tabindex="0")


def _heading(key: str, text: str, meaning: str, sort: str | None = None, class_: str | None = None) -> Html:
    """A button where scripts run (others see its text, as a button without a script does nothing)."""
    button = tag("button", text, type="button", title=meaning or None, data_key=key)
    return tag("th", button, scope="col", class_=class_, aria_sort=sort)


def _body(i: int, layer: LayerAnalysis, analysis: Analysis) -> Html:
    expand = tag(
        "button",
        type="button",
        class_="expand scripted",
        aria_expanded="true",
        aria_controls=f"detail-{i}",
        aria_label=f"Details of {layer.name}",
    )
    cells = [
        tag("td", i + 1, class_="number"),
        tag("th", tag("div", expand, tag("span", layer.name)), scope="row", class_="name"),
        tag("td", shape(layer.shape), class_="shape"),
    ]
    cells += [
        tag("td", column.cell(layer, analysis), class_=None if column.is_text else "number") for column in COLUMNS
    ]
    more = tag("td", tag("div", detail(layer), class_="detail"), colspan=len(cells))
    rows = [tag("tr", cells), tag("tr", more, id=f"detail-{i}", class_="details")]
    return tag("tbody", rows, id=f"layer-{i}", data_index=i)


def _totals(analysis: Analysis) -> Html:
    rate = analysis.flops * 1e9 / analysis.time_ns if analysis.time_ns else 0.0
    cells = [
        tag("td"),
        tag("th", "Network", scope="row", class_="name"),
        tag("td"),
        tag("td"),
        tag("td", numbers.microseconds(analysis.time_ns), class_="number", id="total-time"),
        tag("td"),
        tag("td", numbers.giga(analysis.flops), class_="number"),
        tag("td", numbers.giga(rate), class_="number"),
        tag("td", numbers.percent(analysis.computational_efficiency), class_="number"),
        tag("td", numbers.percent(analysis.effective_efficiency), class_="number"),
        tag("td", numbers.microseconds(analysis.bound_ns), class_="number"),
        tag("td", _causes_of(analysis), class_="number"),
    ]
    return tag("tfoot", tag("tr", cells))


def _causes_of(analysis: Analysis) -> Html:
    said = ", ".join(f"{name} {numbers.percent(share)}" for name, share in cause_shares(analysis.causes).items())
    return join([bar(analysis.causes), tag("span", said, class_="unseen")])
