"""Pages to test: what they are made from, and HTML taken apart again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html import escape
from html.parser import HTMLParser
from typing import Any

from waterline.analysis import Alternative, Analysis, BlockAnalysis, Causes, LayerAnalysis, PhaseTime
from waterline.report.page import Content, Picture, Profile
from waterline.report.page.markup import VOID
from waterline.report.page.profiles import ProfileRow

PEAK = 4e11
ENVIRONMENT = {
    "schema": 1,
    "date": "2026-01-02T03:04:05+00:00",
    "waterline": "0.1.0",
    "commit": "0123456789ab",
    "versions": {"waterline": "0.1.0", "onnxruntime": "1.23.0"},
}
SVG = """<svg role="img" aria-labelledby="t d" viewBox="0 0 100 50" width="100" xmlns="http://www.w3.org/2000/svg"
xmlns:xlink="http://www.w3.org/1999/xlink"><title id="t">NAME</title><desc id="d">NAME</desc>
<defs><clipPath id="clip"><rect width="90" height="40"/></clipPath><path id="mark" d="M0 0h3"/></defs>
<!-- a comment <b> --><text x="1.5">NAME</text>
<g clip-path="url(#clip)"><use xlink:href="#mark" fill="#123456"/></g></svg>"""


def layer(i: int, name: str, algorithm: str) -> LayerAnalysis:
    """A layer whose time grows with `i`."""
    flops, time_ns = 231_211_008, 600_000.0 + 12_345.6 * i
    phases = (PhaseTime("input", 0.2 * time_ns, 1e6, 2e6, 9e4), PhaseTime("gemm", 0.8 * time_ns, 1e8, 2e6, 2e5))
    return LayerAnalysis(
        name=name,
        shape="n1_c64_h56_w56_k64_r3_s3_st1_pd1_dl1_g1_f32",
        algorithm=algorithm,
        block=i // 2,
        flops=flops,
        executed_flops=flops / 2,
        bytes=1_753_088,
        bound_ns=578_000.0,
        time_ns=time_ns,
        predicted_ns=0.9 * time_ns,
        peak_flops_per_s=PEAK,
        causes=Causes.of(time_ns, 289_000.0, 300_000.0),
        phases=phases if algorithm.startswith("winograd") else (),
        reason=f"the least predicted time, says {name}",
        alternatives=(
            Alternative("im2col", 8e-4, None, ""),
            Alternative("grouped", None, None, f"{name} has one group"),
        ),
    )


def analysis(names: list[str], *, is_measured: bool = True) -> Analysis:
    """A network of layers of these names, two to a block."""
    algorithms = ("direct_gemm", "winograd:f4x4", "indirect")
    layers = tuple(layer(i, name, algorithms[i % 3]) for i, name in enumerate(names))
    blocks = tuple(
        BlockAnalysis(
            name=names[i],
            layers=tuple(range(i, min(i + 2, len(names)))),
            flops=2 * layers[i].flops,
            bytes=2 * layers[i].bytes,
            time_ns=2 * layers[i].time_ns,
            bound_ns=2 * layers[i].bound_ns,
            fused_bytes=layers[i].bytes,
            fused_bound_ns=1.5 * layers[i].bound_ns,
            peak_flops_per_s=PEAK,
            executed_flops=2 * layers[i].executed_flops,
            causes=layers[i].causes + layers[i].causes,
        )
        for i in range(0, len(names), 2)
    )
    return Analysis(
        network=names[0],
        machine="a machine",
        batch=1,
        threads=2,
        is_measured=is_measured,
        peak_flops_per_s=PEAK,
        bytes_per_s={"l2": 3e11, "l3": 6e10, "dram": 3e10},
        time_ns=sum(each.time_ns for each in layers),
        layers=layers,
        blocks=blocks,
    )


def record(engine: str, median_ms: float) -> dict[str, Any]:
    return {
        "engine": engine,
        "median_ms": median_ms,
        "p10_ms": 0.9 * median_ms,
        "p90_ms": 1.2 * median_ms,
        "computational_efficiency": 1 / median_ms,
        "ratio": {"median": median_ms / 4, "p10": median_ms / 5, "p90": median_ms / 3},
    }


def profile(label: str, rows: dict[str, float]) -> Profile:
    """Of layers by name -> nanoseconds."""
    made = tuple(ProfileRow(name, "1x64x56x56", "Pool", time_ns) for name, time_ns in rows.items())
    return Profile(label, "network", "a machine", 2, sum(rows.values()), made)


def everything(names: list[str]) -> Content:
    """A page with every section, whose names are all over it."""
    svg = SVG.replace("NAME", escape(names[0]))
    picture = Picture("roofline", names[0], f"caption {names[0]}", f"description {names[-1]}", svg, svg)
    return Content(
        ENVIRONMENT,
        analysis(names),
        runs=7,
        pictures=(picture,),
        records=(record("waterline", 4.0), record("onnxruntime", 5.0)),
        profiles=(profile(names[0], {name: 1000.0 for name in names}), profile("b", {names[0]: 2000.0, "new": 1.0})),
    )


# ---- reading a page -------------------------------------------------------------------------------------------------
@dataclass
class Element:
    name: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What is read, with spaces for those that do not break."""
        parts = [child if isinstance(child, str) else child.text for child in self.children]
        return "".join(parts).replace("\u00a0", " ")

    @property
    def elements(self) -> list[Element]:
        return [child for child in self.children if isinstance(child, Element)]

    @property
    def cells(self) -> list[str]:
        """The text of each element directly in it."""
        return [element.text for element in self.elements]

    def all(self, name: str | None = None, **attributes: str) -> list[Element]:
        """Itself and what is in it, in the order of the page: of this name and with these attributes."""
        found = []
        if name in (None, self.name) and all(self.attributes.get(key) == value for key, value in attributes.items()):
            found.append(self)
        for child in self.elements:
            found += child.all(name, **attributes)
        return found

    def one(self, name: str | None = None, **attributes: str) -> Element:
        (found,) = self.all(name, **attributes)
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {key: value or "" for key, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().name == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(html: str) -> Element:
    """A page as a tree. Fails where an element is not closed, or another one is."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == [reader.root]
    return reader.root


def data_of(root: Element) -> dict[str, Any]:
    return json.loads(root.one("script", id="data").text)
