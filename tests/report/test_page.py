"""The page: its numbers are the profile's, nothing can break out of its place, and it needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections import Counter

import pages
import pytest
from pages import Element

import waterline
from waterline.analysis import Analysis, of_report
from waterline.api import environment
from waterline.bench.workload import Workload
from waterline.report import page
from waterline.report.page import Content, pictures
from waterline.runtime.profile import Report

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "\"><img src=x onerror='alert(1)'>",
    "</td></table><b>bold</b>",
    "&lt;kept&gt; &amp; $title ${policy}",
    "line\u2028separator\u2029and\x7f\u202eright to left",
    "javascript:alert(1)",
    "]]>",
]
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def measured() -> tuple[Report, Analysis]:
    """A network that ran here."""
    workload = Workload.named("resnet18", 32)
    inputs = workload.inputs(1)
    net = waterline.compile(workload.model, inputs, num_threads=1)
    report = net.profile(*inputs.values(), seconds=0.05)
    return report, of_report(net.plan, environment.machine(), report)


@pytest.fixture(scope="module")
def shown(measured: tuple[Report, Analysis]) -> Element:
    report, analysis = measured
    return pages.parse(page.html(Content(pages.ENVIRONMENT, analysis, report.runs)))


@pytest.fixture(scope="module")
def full() -> Element:
    """Every section, from made-up figures."""
    return pages.parse(page.html(pages.everything([f"stage.{i}.conv" for i in range(9)])))


# ---- numbers --------------------------------------------------------------------------------------------------------
def test_the_data_is_the_profile(measured: tuple[Report, Analysis], shown: Element) -> None:
    report, _ = measured
    layers = pages.data_of(shown)["analysis"]["layers"]
    assert len(layers) == len(report.rows) > 20
    for layer, row in zip(layers, report.rows, strict=True):
        for name in ("name", "shape", "algorithm", "time_ns", "flops", "bytes", "bound_ns"):
            assert layer[name] == getattr(row, name), row.name
        assert layer["computational_efficiency"] == pytest.approx(row.computational_efficiency, rel=1e-12)
        assert layer["flops_per_s"] == pytest.approx(row.effective_flops_per_s, rel=1e-12)
        assert [phase["time_ns"] for phase in layer["phases"]] == [phase.time_ns for phase in row.phases]
    totals = pages.data_of(shown)["analysis"]["totals"]
    for name in ("flops", "bytes", "bound_ns", "computational_efficiency", "waterline"):
        assert totals[name] == pytest.approx(report.totals[name], rel=1e-12), name


def test_the_cells_are_the_profile(measured: tuple[Report, Analysis], shown: Element) -> None:
    report, _ = measured
    total = sum(row.time_ns for row in report.rows)
    for i, row in enumerate(report.rows):
        cells = shown.one("tbody", id=f"layer-{i}").elements[0].cells
        time, share, flops, rate, efficiency, _, bound = cells[4:11]
        assert cells[:2] == [str(i + 1), row.name]
        assert cells[3] == row.algorithm
        assert time == f"{row.time_ns / 1e3:,.1f}"
        assert share == f"{100 * row.time_ns / total:.1f} %"
        assert bound == f"{row.bound_ns / 1e3:,.1f}"
        if row.flops:
            assert float(flops.replace(",", "")) == pytest.approx(row.flops / 1e9, rel=0.01)
            assert float(rate.replace(",", "")) == pytest.approx(row.effective_flops_per_s / 1e9, rel=0.01)
            assert efficiency == f"{100 * row.computational_efficiency:.1f} %"
        else:
            assert {flops, rate, efficiency} == {"\u2013"}


def test_the_summary_is_the_profile(measured: tuple[Report, Analysis], shown: Element) -> None:
    report, analysis = measured
    latency, operations, peak, efficiency = re.findall(r"[\d.,]+", shown.one(id="equation").text)
    assert float(latency) == pytest.approx(report.time_ns / 1e6, rel=0.01)
    assert float(operations) == pytest.approx(report.totals["flops"] / 1e9, rel=0.01)
    assert float(peak.replace(",", "")) == pytest.approx(report.peak_flops_per_s / 1e9, rel=0.01)
    assert efficiency == f"{100 * report.totals['computational_efficiency']:.1f}"
    assert shown.one(id="figure-waterline").text == f"{100 * report.totals['waterline']:.1f} %"
    assert shown.one(id="figure-fused-waterline").text == f"{100 * analysis.fused_waterline:.1f} %"
    assert shown.one(id="total-time").text == f"{report.time_ns / 1e3:,.1f}"
    assert f"{report.runs} run" in shown.one("section", id="summary").text
    causes = [re.findall(r"[\d.]+", shown.one(id=f"cause-{name}").text)[0] for name in ("arithmetic", "memory")]
    total = analysis.causes.time_ns
    assert causes == [
        f"{100 * part / total:.1f}" for part in (analysis.causes.arithmetic_ns, analysis.causes.memory_ns)
    ]


def test_a_row_tells_why(measured: tuple[Report, Analysis], shown: Element) -> None:
    _, analysis = measured
    for i, layer in enumerate(analysis.layers):
        text = shown.one("tr", id=f"detail-{i}").text
        assert layer.reason[1:] in text
        for other in layer.alternatives:
            assert other.algorithm in text
            if other.seconds is None:
                assert f"refused: {other.refusal}" in text
            else:
                assert f"{1e6 * other.seconds:,.1f}" in text


def test_a_prediction_says_so() -> None:
    network = pages.analysis(["a", "b"], is_measured=False)
    text = pages.parse(page.html(Content(pages.ENVIRONMENT, network))).one("section", id="summary").text
    assert "Predicted from the plan: nothing was run" in text
    assert "Measured" not in text


def test_engines_are_beside_each_other(full: Element) -> None:
    rows = full.one("section", id="engines").one("tbody").all("tr")
    cells = [row.cells for row in rows]
    assert cells[0][:7] == ["waterline 0.1.0", "4.00", "3.60", "4.80", "25.0 %", "1.00", "0.80 to 1.33"]
    assert cells[1][:7] == ["onnxruntime 1.23.0", "5.00", "4.50", "6.00", "20.0 %", "1.25", "1.00 to 1.67"]


def test_one_engine_is_no_comparison() -> None:
    content = Content(pages.ENVIRONMENT, pages.analysis(["a"]), 3, records=(pages.record("waterline", 4.0),))
    root = pages.parse(page.html(content))
    assert root.all("section", id="engines") == []
    assert "4.00 ms, 3.60 ms to 4.80 ms (10th to 90th percentile)" in root.one("section", id="summary").text


def test_profiles_are_beside_each_other(full: Element) -> None:
    section = full.one("section", id="profiles")
    rows = [row.cells for row in section.one("tbody").all("tr")]
    assert rows[0] == ["stage.0.conv", "1x64x56x56", "Pool", "1.0", "Pool", "2.0", "2.00"]
    assert rows[1] == ["new", "1x64x56x56", "not in this one", "Pool", "0.0", "\u2013"]
    assert rows[2] == ["stage.1.conv", "1x64x56x56", "Pool", "1.0", "not in this one"]
    assert "In all of them: 1 of 10 layers." in section.text
    sums = [row.cells for row in section.one("tfoot").all("tr")]
    assert sums == [["Layers in all", "", "", "1.0", "", "2.0", "2.00"], ["Network", "", "", "9.0", "", "2.0", "0.22"]]


# ---- nothing breaks out ---------------------------------------------------------------------------------------------
def test_names_stay_text() -> None:
    plain = pages.parse(page.html(pages.everything([f"name {i}" for i in range(len(HOSTILE))])))
    hostile = pages.parse(page.html(pages.everything(HOSTILE)))
    counted = [Counter(element.name for element in root.all()) for root in (plain, hostile)]
    assert counted[0] == counted[1]
    assert hostile.one("h1").text == HOSTILE[0]
    assert {text.text for text in hostile.all("text")} == {HOSTILE[0]}
    for i, name in enumerate(HOSTILE):
        assert name in hostile.one("tbody", id=f"layer-{i}").one("th", **{"class": "name"}).text
    assert [layer["name"] for layer in pages.data_of(hostile)["analysis"]["layers"]] == HOSTILE


def test_names_stay_text_in_drawings() -> None:
    """The real ones: they have names of layers on them."""
    network = pages.analysis([*HOSTILE, "half \ud83d a pair", "bell \x07"])
    root = pages.parse(page.html(Content(pages.ENVIRONMENT, network, pictures=pictures.of(network))))
    figures = root.all("figure")
    assert len(figures) == 5
    for figure in figures:
        assert {element.name for element in figure.all()} & {"b", "img", "script", "style"} == set()
        assert len(figure.all("svg")) == 2
        (role,) = figure.all("div", role="img")
        assert len(role.attributes["aria-label"]) > 40
    assert any("bold" in text.text for text in root.one("section", id="figures").all("text"))


def test_what_is_no_character_can_be_written() -> None:
    names = ["half \ud83d a pair", "bell \x07"]
    root = pages.parse(page.html(Content(pages.ENVIRONMENT, pages.analysis(names))).encode().decode())
    assert root.one("h1").text == "half ? a pair"
    assert [layer["name"] for layer in pages.data_of(root)["analysis"]["layers"]] == names


def test_the_data_block_has_no_markup() -> None:
    html = page.html(pages.everything(HOSTILE))
    block = html[html.index('id="data">') + len('id="data">') :]
    assert not set("<>&\u2028\u2029") & set(block[: block.index("</script>")])


def test_what_is_not_finite_is_no_data() -> None:
    with pytest.raises(ValueError, match="JSON"):
        page.html(Content(pages.ENVIRONMENT | {"peak": float("nan")}, pages.analysis(["a"])))


# ---- the page alone -------------------------------------------------------------------------------------------------
def test_nothing_is_fetched(full: Element) -> None:
    for element in full.all():
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster", "background", "cite"):
            value = element.attributes.get(name, "#")
            assert value.startswith(("#", "data:image/svg+xml,")), (element.name, name, value)
        assert not any(name.startswith("on") or name == "style" for name in element.attributes), element
    style = full.one("style").text
    assert "@import" not in style
    assert "url(" not in style
    assert not re.search(r"\b(fetch|XMLHttpRequest|import|WebSocket|sendBeacon)\b", full.all("script")[1].text)


def test_the_policy_allows_this_script_and_nothing_else(full: Element) -> None:
    policy = full.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    for kind, text in (("style-src", full.one("style").text), ("script-src", full.all("script")[1].text)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules.pop(kind) == f"'sha256-{digest}'"
    none = {"default-src", "base-uri", "form-action"}
    assert rules == dict.fromkeys(none, "'none'") | {"img-src": "data:"}


def test_drawings_share_a_page(full: Element) -> None:
    drawing = full.one("div", role="img", **{"aria-label": "description stage.8.conv"})
    for theme in ("light", "dark"):
        svg = drawing.one("div", **{"class": f"on-{theme}"}).one("svg")
        assert svg.one("text").text == "stage.0.conv"
        assert svg.attributes == {"viewbox": "0 0 100 50", "aria-hidden": "true"}
        assert svg.one("clippath").attributes["id"] == f"roofline-{theme}-clip"
        assert svg.all("g")[0].attributes["clip-path"] == f"url(#roofline-{theme}-clip)"
        assert svg.one("use").attributes == {"href": f"#roofline-{theme}-mark", "fill": "#123456"}


def test_resnet50_is_under_two_megabytes() -> None:
    workload = Workload.named("resnet50")
    analysis = waterline.analyse(workload.graph(1), machine="server with AVX-512 and AMX")
    html = page.html(Content(pages.ENVIRONMENT, analysis, pictures=pictures.of(analysis)))
    assert 0.1 * MEGABYTE < len(html.encode()) < 2 * MEGABYTE
    assert len(pages.parse(html).one("table", id="layer-table").all("tr", **{"class": "details"})) > 50


# ---- structure ------------------------------------------------------------------------------------------------------
def test_references_lead_somewhere(full: Element) -> None:
    ids = [element.attributes["id"] for element in full.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids))
    for element in full.all():
        for name in ("aria-labelledby", "aria-controls", "for"):
            assert element.attributes.get(name, ids[0]) in ids, element
        target = element.attributes.get("href", "")
        assert not target.startswith("#") or target[1:] in ids, element


def test_headings_are_in_order(full: Element) -> None:
    levels = [int(element.name[1]) for element in full.all() if re.fullmatch("h[1-6]", element.name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_tables_are_described(full: Element) -> None:
    for table in full.all("table"):
        assert table.elements[0].name == "caption"
        assert all(cell.attributes.get("scope") for cell in table.all("th"))


def test_a_network_without_blocks() -> None:
    text = pages.parse(page.html(Content(pages.ENVIRONMENT, pages.analysis(["alone"])))).one(id="blocks").text
    assert "No layers of this network form a block" in text


def test_the_same_content_is_the_same_page() -> None:
    assert page.html(pages.everything(["a", "b"])) == page.html(pages.everything(["a", "b"]))
