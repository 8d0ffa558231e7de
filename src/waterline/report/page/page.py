"""One self-contained HTML page: text, tables, figures and their data in one file that asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from importlib import resources
from string import Template
from typing import Any

from waterline.report.page import blocks, comparison, drawings, layers, summary
from waterline.report.page.content import Content, Picture
from waterline.report.page.markup import Html, data_block, escape, join, tag

TERMS = {
    "Operations": "two a multiply-add, of the direct algorithm, whichever algorithm ran.",
    "Peak": "the operations a second of threads that do nothing else: measured, where the machine is here.",
    "Computational efficiency": "operations / (time \u00d7 peak). Fast algorithms execute fewer and may exceed 100 %.",
    "Effective efficiency": "the same of the operations that are executed: how busy the arithmetic units are.",
    "Operational intensity": "operations / least bytes, each input, weight and output moved once.",
    "Bound": "the roofline's least time of a layer: the longer of operations / peak and least bytes / bandwidth.",
    "Waterline": "operations / (peak \u00d7 sum of bounds): what a network reaches whose layers run at their bounds.",
}


def html(content: Content) -> str:
    """The page. A pure function: the same content is the same text."""
    style, script = _file("style.css"), _file("script.js")
    sections = _sections(content)
    main = [tag("section", body, id=name, aria_labelledby=f"{name}-title") for name, (_, body) in sections.items()]
    return Template(_file("page.html")).substitute(
        policy=_policy(style, script),
        title=escape(content.title),
        style=style,
        header=join(
            [
                summary.header(content),
                summary.navigation([(name, heading) for name, (heading, _) in sections.items()]),
            ]
        ),
        main="\n".join(main),
        footer=tag(
            "footer", tag("p", "Made by ", tag("b", "waterline report"), ". This page asks the network for nothing.")
        ),
        data=data_block(data(content)),
        script=script,
    )


def data(content: Content) -> dict[str, Any]:
    """What the page shows, as plain values: the script sorts by them, and who saves the page has them."""
    analysis = None
    if content.analysis is not None:
        analysis = content.analysis.to_dict()
        for plain, layer in zip(analysis["layers"], content.analysis.layers, strict=True):
            plain |= layers.sorting_values(layer, content.analysis)
    return {
        "environment": dict(content.environment),
        "runs": content.runs,
        "analysis": analysis,
        "records": list(content.records),
        "profiles": [asdict(profile) for profile in content.profiles],
    }


def _sections(content: Content) -> Mapping[str, tuple[str, Html]]:
    """Id -> heading in the navigation, content."""
    analysis = content.analysis
    found: dict[str, tuple[str, Html]] = {}
    if analysis is not None:
        found["summary"] = ("Summary", summary.section(content, analysis))
    if len(content.records) > 1:
        versions = content.environment.get("versions", {})
        found["engines"] = ("Other engines", comparison.engines(content.records, versions))
    if content.pictures:
        found["figures"] = ("Figures", _pictures(content))
    if analysis is not None:
        found["layers"] = ("Layers", layers.section(analysis))
        found["blocks"] = ("Blocks", blocks.section(analysis))
    if content.profiles:
        found["profiles"] = ("Profiles", comparison.profiles(content.profiles))
    found["terms"] = ("Terms", _terms())
    return found


def _pictures(content: Content) -> Html:
    return join([tag("h2", "Figures", id="figures-title"), [_figure(picture) for picture in content.pictures]])


def _figure(picture: Picture) -> Html:
    themes = [
        tag("div", drawings.inline(getattr(picture, theme), f"{picture.name}-{theme}-"), class_=f"on-{theme}")
        for theme in ("light", "dark")
    ]
    return tag(
        "figure",
        tag("h3", picture.title, class_="unseen"),
        tag(
            "div",
            tag("div", themes, class_="drawing", role="img", aria_label=picture.description),
            class_="region",
            role="region",
            aria_label=picture.title,
            tabindex="0",
        ),
        tag("figcaption", picture.caption),
    )


def _terms() -> Html:
    items = [tag("div", tag("dt", name), tag("dd", meaning)) for name, meaning in TERMS.items()]
    return join([tag("h2", "Terms", id="terms-title"), tag("dl", items, class_="glossary")])


def _policy(style: str, script: str) -> Html:
    """What a browser may do for this page: apply its own style, run its own script, and nothing else."""
    return escape(
        f"default-src 'none'; style-src {_source(style)}; script-src {_source(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
