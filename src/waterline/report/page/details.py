"""What stands behind a row of the table of layers: the reason of the choice, the alternatives, the phases."""

from __future__ import annotations

from collections.abc import Sequence

from waterline.analysis import Alternative, LayerAnalysis, PhaseTime
from waterline.report.page import numbers
from waterline.report.page.markup import Html, caption, join, tag
from waterline.report.page.summary import CAUSES, cause_shares


def detail(layer: LayerAnalysis) -> Html:
    return join([_reason(layer), _facts(layer), _alternatives(layer), _phases(layer)])


def _reason(layer: LayerAnalysis) -> Html | None:
    text = layer.reason.removesuffix(".")
    return tag("p", f"{text[:1].upper()}{text[1:]}.") if text else None


def _facts(layer: LayerAnalysis) -> Html:
    causes = cause_shares(layer.causes)
    values = {"arithmetic": layer.causes.arithmetic_ns, "memory": layer.causes.memory_ns}
    values["overhead"] = layer.causes.overhead_ns
    facts = [("Id", layer.shape)]
    if layer.flops:
        facts += [
            ("Operational intensity", f"{layer.operational_intensity:,.1f} FLOP/byte"),
            ("Attainable", f"{numbers.percent(layer.attainable_efficiency)} of peak"),
        ]
    facts += [
        ("Least bytes", numbers.mega_bytes(layer.bytes)),
        ("Predicted", f"{numbers.microseconds(layer.predicted_ns)}{numbers.SPACE}µs"),
        ("Above its bound", f"{numbers.microseconds(layer.lost_ns)}{numbers.SPACE}µs"),
    ]
    facts += [
        (CAUSES[name][0], f"{numbers.microseconds(value)}{numbers.SPACE}µs, {numbers.percent(causes[name])}")
        for name, value in values.items()
    ]
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts], class_="terms")


def _alternatives(layer: LayerAnalysis) -> Html | None:
    if not layer.alternatives:
        return None
    is_measured = any(other.measured_seconds is not None for other in layer.alternatives)
    rows = []
    for other in layer.alternatives:
        times = [_nanoseconds(other.seconds), *([_nanoseconds(other.measured_seconds)] if is_measured else [])]
        why = tag("td", _why_not(other, is_measured), class_="why")
        rows.append((other.algorithm, [numbers.microseconds(time) for time in times], why))
    headings = ["Predicted µs", *(["Measured µs"] if is_measured else [])]
    title = "What else was considered, with times of one image on all cores"
    return _table(title, "Alternative", headings, rows, tag("th", "Why not", scope="col"))


def _why_not(other: Alternative, is_measured: bool) -> str:
    if other.refusal:
        return f"refused: {other.refusal}"
    if not is_measured:
        return "predicted to be slower"
    return "not measured" if other.measured_seconds is None else "slower"


def _phases(layer: LayerAnalysis) -> Html | None:
    if not layer.phases:
        return None
    total = sum(phase.time_ns for phase in layer.phases)
    rows = [(phase.name, _phase(phase, total), None) for phase in layer.phases]
    return _table("Its phases", "Phase", ["Time µs", "Of the layer", "GFLOP/s executed", "Bound µs"], rows)


def _phase(phase: PhaseTime, total_ns: float) -> list[str]:
    return [
        numbers.microseconds(phase.time_ns),
        numbers.percent(phase.time_ns / total_ns if total_ns else 0.0),
        numbers.giga(phase.flops * 1e9 / phase.time_ns if phase.time_ns else 0.0),
        numbers.microseconds(phase.bound_ns),
    ]


def _table(
    title: str,
    name: str,
    headings: Sequence[str],
    rows: Sequence[tuple[str, Sequence[str], Html | None]],
    last_heading: Html | None = None,
) -> Html:
    """A name, numbers and, where it has a heading, one more cell a row."""
    top = tag(
        "tr",
        tag("th", name, scope="col"),
        [tag("th", text, scope="col", class_="number") for text in headings],
        last_heading,
    )
    body = [
        tag("tr", tag("th", label, scope="row"), [tag("td", value, class_="number") for value in values], last)
        for label, values, last in rows
    ]
    return tag("table", caption(title), tag("thead", top), tag("tbody", body), class_="small")


def _nanoseconds(value_s: float | None) -> float | None:
    return None if value_s is None else 1e9 * value_s
