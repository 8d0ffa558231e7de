"""Drawings as text and as files: well formed, the same each time, safe with any name, and clear about mistakes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import figure_data
import pytest
from figure_data import COMMIT, LAYERS, Layer

from waterline.bench import records
from waterline.cli.main import entry
from waterline.errors import InvalidArgument
from waterline.report import figures

matplotlib = pytest.importorskip("matplotlib")

SVG = "{http://www.w3.org/2000/svg}"
NET = figure_data.analysis()
HOSTILE = [
    "<script>alert(1)</script>",
    "a & b &amp; c",
    "$x_1$ and $y^2$",
    "$\\frac{",
    "_hidden",
    "line\nbreak\ttab\x00nul\x1b[31m",
    "right\u202eleft",
    "]]>",
    "\ud800 surrogate",
    "x" * 5000,
    "\u5377\u7a4d",
    "",
    "%s %d {0} {name}",
    "\"quoted\" 'twice'",
]


def words(svg: str) -> list[str]:
    return ["".join(text.itertext()).strip() for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def hostile(name: str) -> list[figures.Drawing]:
    layers = tuple(
        Layer(name, *(each.mflops, each.kbytes, each.time_us), each.algorithm, each.executed, each.phases, shape=name)
        for each in LAYERS
    )
    net = figure_data.analysis(layers, network=name, machine=name)
    source = figures.Source(name, 2, COMMIT)
    return [
        *figures.of_analysis(net, commit=COMMIT),
        figures.efficiency_gap([figures.GapPoint(name, 4.0, 1e6, 2e6, 3e6)], source),
        figures.efficiency_bars([figures.EfficiencyRow(name, name, 0.5, name, 0.9)], source, name="bars", title=name),
        figures.ratio_rows([figures.RatioRow(name, 1.2, name)], source, name="rows", title=name, quantity=name),
        figures.by_batch([figures.BatchRow(name, 4, 1.1)], source, name="batches", title=name),
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_svg_is_small_has_words_and_no_style(theme: str) -> None:
    for drawing in figures.of_analysis(NET, theme, COMMIT):
        svg = drawing.svg()
        root = ElementTree.fromstring(svg)
        assert root.tag == f"{SVG}svg"
        assert [child.tag for child in root[:2]] == [f"{SVG}title", f"{SVG}desc"]
        assert (root[0].text, root[1].text) == (drawing.title, drawing.description)
        assert root.get("role") == "img"
        assert root.get("aria-labelledby") == f"{root[0].get('id')} {root[1].get('id')}"
        assert drawing.caption in words(svg)
        assert not re.search(r"style=|<style|<metadata|<script|<image|<!DOCTYPE|https?://(?!www\.w3\.org/)", svg)
        assert len(svg) < 40_000


def test_every_reference_in_an_svg_has_its_element() -> None:
    for drawing in figures.of_analysis(NET, commit=COMMIT):
        svg = drawing.svg()
        ids = re.findall(r'\bid="([^"]*)"', svg)
        assert len(ids) == len(set(ids))
        assert set(re.findall(r'href="#([^"]*)"', svg)) | set(re.findall(r"url\(#([^)]*)\)", svg)) <= set(ids)


def test_text_has_its_size_as_an_attribute_and_a_font_of_the_system() -> None:
    root = ElementTree.fromstring(figures.roofline(NET, commit=COMMIT).svg())
    sizes = {float(text.attrib["font-size"]) for text in root.iter(f"{SVG}text")}
    assert sizes <= {8.0, 8.5, 9.0, 11.0}
    assert "sans-serif" in root.attrib["font-family"]
    assert not any("font-family" in text.attrib for text in root.iter(f"{SVG}text"))


def test_the_same_analysis_is_the_same_bytes(tmp_path: Path) -> None:
    for suffix in ("svg", "png", "pdf"):
        first, second = (
            figures.roofline(NET, commit=COMMIT).save(tmp_path / f"{i}.{suffix}").read_bytes() for i in range(2)
        )
        assert first == second
        assert len(first) > 5000
    drawing = figures.waterline(NET, commit=COMMIT)
    assert drawing.svg() == drawing.svg()


def test_the_same_bytes_in_another_process() -> None:
    script = (
        "import figure_data, sys; from waterline.report import figures; "
        "sys.stdout.write(figures.roofline(figure_data.analysis(), commit=figure_data.COMMIT).svg())"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    assert found.stdout == figures.roofline(NET, commit=COMMIT).svg()


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_any_name_is_only_a_name(name: str) -> None:
    for drawing in hostile(name):
        root = ElementTree.fromstring(drawing.svg())
        assert not list(root.iter(f"{SVG}script"))
        assert (root[0].text or "") == drawing.title


def test_dollars_and_brackets_are_letters() -> None:
    for name in ("$x_1$", "<b>&", "_hidden"):
        for drawing in hostile(name):
            assert any(name in text for text in words(drawing.svg())), drawing.name


def test_long_names_are_cut_in_the_middle() -> None:
    layers = (Layer("first" + "x" * 100 + "last", 8, 200, 100), *LAYERS[1:])
    for drawing in figures.of_analysis(figure_data.analysis(layers, block=1), commit=COMMIT):
        names = [text for text in words(drawing.svg()) if text.startswith("first")]
        assert len(names) == 1, drawing.name
        assert re.fullmatch(r"firstx+\u2026x+last", names[0])
        assert len(names[0]) < 40


@pytest.mark.parametrize(("suffix", "begin"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".SVG", b"<svg")])
def test_the_suffix_is_the_format(tmp_path: Path, suffix: str, begin: bytes) -> None:
    path = figures.roofline(NET, commit=COMMIT).save(tmp_path / f"a{suffix}")
    assert path.read_bytes().startswith(begin)


def test_images_have_no_background(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    with image.open(figures.waterline(NET, commit=COMMIT).save(tmp_path / "a.png")) as picture:
        assert picture.convert("RGBA").getpixel((2, 2))[3] == 0


def test_the_commit_is_this_trees_where_none_is_given() -> None:
    assert f"commit {records.commit() or 'not known'}" in figures.roofline(NET).caption
    assert "commit not known" in figures.Source("m", 1, None).caption


def test_threads_are_counted_in_words() -> None:
    assert "m \u00b7 1 thread \u00b7" in figures.Source("m", 1, COMMIT).caption
    assert "m \u00b7 1, 2 and 4 threads \u00b7" in figures.Source("m", (1, 2, 4), COMMIT).caption


def test_matplotlibs_settings_are_neither_used_nor_changed() -> None:
    expected = figures.roofline(NET, commit=COMMIT).svg()
    with matplotlib.rc_context({"font.size": 30, "axes.grid": True, "svg.fonttype": "path", "lines.linewidth": 9}):
        before = dict(matplotlib.rcParams)
        assert figures.roofline(NET, commit=COMMIT).svg() == expected
        assert dict(matplotlib.rcParams) == before


def test_figures_leave_pyplot_alone() -> None:
    script = (
        "import sys, figure_data; from waterline.report import figures; import waterline.cli.main; "
        "assert 'matplotlib' not in sys.modules; figures.of_analysis(figure_data.analysis())[0].svg(); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent, check=True)


# ---- mistakes -------------------------------------------------------------------------------------------------------
def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    drawing = figures.roofline(NET, commit=COMMIT)
    with pytest.raises(InvalidArgument, match=r"a\.jpg' does not end.*\.svg, \.png, \.pdf"):
        drawing.save(tmp_path / "a.jpg")
    with pytest.raises(InvalidArgument, match="does not end"):
        drawing.save(tmp_path / "a")
    for path in (tmp_path / "none" / "a.svg", tmp_path / "folder.svg"):
        (tmp_path / "folder.svg").mkdir(exist_ok=True)
        with pytest.raises(InvalidArgument, match=r"cannot be written.*check the folder"):
            drawing.save(path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidArgument, match="cannot be made"):
        figures.save_all(NET, tmp_path / "file")


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InvalidArgument, match=r"need matplotlib.*pip install 'waterline\[plots\]'"):
        figures.roofline(NET)


# ---- all figures of an analysis -------------------------------------------------------------------------------------
def test_save_all_writes_each_figure(tmp_path: Path) -> None:
    paths = figures.save_all(NET, tmp_path / "new" / "folder", "dark")
    names = ["roofline", "waterline-operations", "waterline-time", "waterline-time-blocks", "time-by-cause"]
    assert [path.name for path in paths] == [f"{name}.svg" for name in [*names, "time-by-phase"]]
    assert all(path.read_text().startswith("<svg") for path in paths)


def test_analyse_draws_into_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["analyse", "squeezenet1_0", "--image-size", "64", "--predicted", "--json", "--figures", str(tmp_path)]
    assert entry(command) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["network"]
    assert [Path(line).name for line in err.splitlines()] == sorted(
        (path.name for path in tmp_path.iterdir()), key=err.index
    )
    assert len(err.splitlines()) == 5
    assert len(json.loads(out)["layers"]) > 20
    root = ElementTree.parse(tmp_path / "roofline.svg").getroot()
    assert "layers of" in (root[1].text or "")
