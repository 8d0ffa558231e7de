"""The head of the page: what was measured, how far it is from the limit, and where the time goes."""

from __future__ import annotations

from collections.abc import Sequence

from waterline.analysis import Analysis, Causes
from waterline.bench.records import Record
from waterline.report.page import numbers
from waterline.report.page.content import Content
from waterline.report.page.markup import Html, join, tag

CAUSES = {
    "arithmetic": ("Arithmetic", "what the operations that are executed take at peak"),
    "memory": ("Memory", "what moving the least bytes takes beyond that"),
    "overhead": ("Overhead", "the rest: kernels below peak, data moved more than once, waiting for each other"),
}
MOST_LOSING = 5
NOISE = 0.03  # by which the layers' medians may add up to something else than the network's


def header(content: Content) -> Html:
    """The page's title, and where the figures come from."""
    environment, analysis = content.environment, content.analysis
    facts: list[object] = []
    if analysis is not None:
        facts += [analysis.machine, numbers.count(analysis.threads, "thread"), f"batch {analysis.batch}"]
    commit = f", commit {environment['commit']}" if environment.get("commit") else ""
    facts += [f"waterline {environment['waterline']}{commit}", _date(str(environment["date"]))]
    toggle = tag("button", "Dark theme", type="button", id="theme", class_="scripted", aria_pressed="false")
    return tag(
        "header",
        tag("div", tag("p", "Waterline report", class_="kicker"), toggle, class_="top"),
        tag("h1", content.title),
        tag("ul", [tag("li", fact) for fact in facts], class_="facts"),
    )


def navigation(sections: Sequence[tuple[str, str]]) -> Html:
    """Links to the sections: id and heading of each."""
    links = [tag("li", tag("a", heading, href=f"#{name}")) for name, heading in sections]
    return tag("nav", tag("ul", links), aria_label="Sections")


def section(content: Content, analysis: Analysis) -> Html:
    return join(
        [
            tag("h2", "Summary", id="summary-title"),
            _kind(content, analysis),
            _figures(content, analysis),
            _equation(analysis),
            tag("h3", "Where the time goes"),
            _cause_bar(analysis.causes),
            _most_losing(analysis),
        ]
    )


def cause_shares(causes: Causes) -> dict[str, float]:
    """Cause -> share of the time; all 0 where there is none."""
    total = causes.time_ns
    values = {"arithmetic": causes.arithmetic_ns, "memory": causes.memory_ns, "overhead": causes.overhead_ns}
    return {name: value / total if total else 0.0 for name, value in values.items()}


def bar(causes: Causes) -> Html:
    """The shares as a drawing without words: it stands beside words that say the same."""
    rectangles, x = [], 0.0
    for name, share in cause_shares(causes).items():
        width = round(100 * share, 2)
        if width > 0:
            rectangles.append(tag("rect", class_=name, x=f"{x:g}", width=f"{width:g}", height="10"))
        x = round(x + width, 2)
    return tag("svg", rectangles, class_="bar", viewBox="0 0 100 10", preserveAspectRatio="none", aria_hidden="true")


def _kind(content: Content, analysis: Analysis) -> Html:
    if not analysis.is_measured:
        text = "Predicted from the plan: nothing was run, and no time on this page is a measurement."
        return tag("p", tag("strong", "Predicted"), text.removeprefix("Predicted"), class_="note")
    runs = f"Measured: the median of {numbers.count(content.runs, 'run')}" if content.runs else "Measured"
    peak = f"{numbers.giga(analysis.peak_flops_per_s)} GFLOP/s"
    rates = ", ".join(f"{level}: {numbers.giga(rate)} GB/s" for level, rate in analysis.bytes_per_s.items())
    return tag(
        "p",
        f"{runs}. The machine's peak of these threads is {peak}; bandwidth {rates}.{_disagreement(analysis)}",
        class_="muted",
    )


def _disagreement(analysis: Analysis) -> str:
    """Medians do not add up: said where it is seen, as on a machine that others use too."""
    layers_ns = analysis.causes.time_ns
    if abs(layers_ns - analysis.time_ns) < NOISE * analysis.time_ns:
        return ""
    return f" The medians of the layers add up to {numbers.milliseconds(layers_ns)}: the machine was disturbed."


def _figures(content: Content, analysis: Analysis) -> Html:
    ours = _record(content.records)
    spread = ""
    if ours is not None:
        low, high = (numbers.milliseconds(1e6 * ours[key]) for key in ("p10_ms", "p90_ms"))
        middle = numbers.milliseconds(1e6 * ours["median_ms"])
        spread = f"with nothing timed inside: {middle}, {low} to {high} (10th to 90th percentile)"
    figures = [
        ("Latency", numbers.milliseconds(analysis.time_ns), spread or "of one inference", "latency"),
        (
            "Of peak",
            numbers.percent(analysis.computational_efficiency),
            f"computational efficiency; {numbers.percent(analysis.effective_efficiency)} of the operations executed",
            "efficiency",
        ),
        (
            "Waterline",
            numbers.percent(analysis.waterline),
            f"what the layers' bounds allow: {numbers.milliseconds(analysis.bound_ns)}",
            "waterline",
        ),
        (
            "With blocks fused",
            numbers.percent(analysis.fused_waterline),
            f"the waterline if every block were one kernel: {numbers.milliseconds(analysis.fused_bound_ns)}",
            "fused-waterline",
        ),
    ]
    cards = [
        tag("div", tag("dt", name), tag("dd", tag("b", value, id=f"figure-{key}"), tag("span", note)))
        for name, value, note, key in figures
    ]
    return tag("dl", cards, class_="figures")


def _equation(analysis: Analysis) -> Html:
    operations = f"{numbers.giga(analysis.flops)}{numbers.SPACE}GFLOP"
    peak = f"{numbers.giga(analysis.peak_flops_per_s)}{numbers.SPACE}GFLOP/s"
    efficiency = numbers.percent(analysis.computational_efficiency)
    filled = f"{numbers.milliseconds(analysis.time_ns)} = {operations} / ({peak} \u00d7 {efficiency})"
    return tag(
        "p",
        tag("span", "latency = operations / (peak \u00d7 computational efficiency)"),
        tag("span", filled, id="equation"),
        class_="equation",
    )


def _cause_bar(causes: Causes) -> Html:
    values = {"arithmetic": causes.arithmetic_ns, "memory": causes.memory_ns, "overhead": causes.overhead_ns}
    shares = cause_shares(causes)
    items = [
        tag(
            "li",
            tag("span", class_=f"key {name}", aria_hidden="true"),
            tag("b", f"{CAUSES[name][0]} {numbers.percent(shares[name])}"),
            f" {numbers.milliseconds(value)}: {CAUSES[name][1]}",
            id=f"cause-{name}",
        )
        for name, value in values.items()
    ]
    said = ", ".join(f"{CAUSES[name][0].lower()} {numbers.percent(share)}" for name, share in shares.items())
    drawn = tag("div", bar(causes), class_="wide-bar", role="img", aria_label=f"Share of the time: {said}")
    return tag("div", drawn, tag("ul", items, class_="legend"), class_="causes")


def _most_losing(analysis: Analysis) -> Html | None:
    lost = sum(layer.lost_ns for layer in analysis.layers)
    order = sorted(range(len(analysis.layers)), key=lambda i: analysis.layers[i].lost_ns, reverse=True)
    chosen = [i for i in order[:MOST_LOSING] if analysis.layers[i].lost_ns > 0]
    if not chosen:
        return None
    items = []
    for i in chosen:
        layer = analysis.layers[i]
        above = (
            f" {numbers.milliseconds(layer.lost_ns)} above its bound, {numbers.percent(layer.lost_ns / lost)} of all"
        )
        items.append(tag("li", tag("a", layer.name, href=f"#layer-{i}"), above))
    said = f"Layers lose {numbers.milliseconds(lost)} to their bounds. Most of it is lost by:"
    return join([tag("p", said), tag("ol", items, class_="losing")])


def _record(records: Sequence[Record]) -> Record | None:
    return next((record for record in records if record["engine"] == "waterline"), None)


def _date(text: str) -> Html:
    shown = text[:16].replace("T", " ") + " UTC" if text.endswith("+00:00") else text
    return tag("time", shown, datetime=text)
