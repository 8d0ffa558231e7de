"""The table of blocks: layers that could be one kernel, and what that would change."""

from __future__ import annotations

from waterline.analysis import Analysis, BlockAnalysis
from waterline.report.page import numbers
from waterline.report.page.markup import Html, caption, join, tag

HEADINGS = (
    "Layers",
    "Time µs",
    "Bound µs",
    "Bound fused µs",
    "Least bytes",
    "Least bytes fused",
    "Of peak",
    "Attainable",
    "Attainable fused",
)


def section(analysis: Analysis) -> Html:
    several = [block for block in analysis.blocks if len(block.layers) > 1]
    alone = len(analysis.blocks) - len(several)
    heading = tag("h2", "Blocks", id="blocks-title")
    said = (
        "A block that is one kernel moves its weights, what enters it and what leaves it; what passes between its "
        "layers stays in the caches. That raises what memory allows, and changes no arithmetic."
    )
    if not several:
        return join([heading, tag("p", "No layers of this network form a block that could be one kernel.")])
    note = f" {numbers.count(alone, 'layer')} outside of blocks {'is' if alone == 1 else 'are'} not listed."
    table = tag(
        "table",
        caption("Blocks of two layers or more, in the order they run"),
        tag("thead", tag("tr", tag("th", "Block", scope="col"), [_heading(text) for text in HEADINGS])),
        tag("tbody", [_row(block, analysis) for block in several]),
        class_="blocks",
    )
    region = tag("div", table, class_="region", role="region", aria_label="Table of blocks", tabindex="0")
    return join([heading, tag("p", said + (note if alone else "")), region])


def _heading(text: str) -> Html:
    return tag("th", text, scope="col", class_="number")


def _row(block: BlockAnalysis, analysis: Analysis) -> Html:
    first, last = analysis.layers[block.layers[0]].name, analysis.layers[block.layers[-1]].name
    values = (
        f"{block.layers[0] + 1}\u2013{block.layers[-1] + 1}",
        numbers.microseconds(block.time_ns),
        numbers.microseconds(block.bound_ns),
        numbers.microseconds(block.fused_bound_ns),
        numbers.mega_bytes(block.bytes),
        numbers.mega_bytes(block.fused_bytes),
        numbers.percent(block.computational_efficiency),
        numbers.percent(block.attainable_efficiency),
        numbers.percent(block.fused_attainable_efficiency),
    )
    name = tag("th", block.name, scope="row", class_="name", title=f"{first} to {last}")
    return tag("tr", name, [tag("td", value, class_="number") for value in values])
