"""`waterline report`: the file that it writes, and what it says where it writes none."""

from __future__ import annotations

import fnmatch
import json
import os
import sys
import tomllib
from pathlib import Path

import pages
import pytest

from waterline.cli import report as command
from waterline.cli.main import entry
from waterline.cli.report import whole_file
from waterline.errors import InvalidArgument
from waterline.report import page
from waterline.report.page import profiles
from waterline.report.tables import milliseconds

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("resnet18", "--image-size", "32", "--threads", "1", "--seconds", "0.05")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile of SMALL, with a layer less and one that was renamed."""
    import waterline
    from waterline.bench.workload import Workload

    workload = Workload.named("resnet18", 32)
    inputs = workload.inputs(1)
    report = waterline.compile(workload.model, inputs, num_threads=1).profile(*inputs.values(), seconds=0.05).to_dict()
    report["rows"][2]["name"] = "renamed"
    del report["rows"][-1]
    path = tmp_path_factory.mktemp("profiles") / "before.json"
    path.write_text(json.dumps(report))
    return path


def layers_of(path: Path) -> list[dict]:
    return pages.data_of(pages.parse(path.read_text(encoding="utf-8")))["analysis"]["layers"]


# ---- pages ----------------------------------------------------------------------------------------------------------
def test_a_measured_page_beside_a_peer_and_a_profile(tmp_path: Path, saved: Path, capfd: pytest.CaptureFixture) -> None:
    path = tmp_path / "page.html"
    assert entry(["report", *SMALL, "-o", str(path), "--vs", "onnxruntime", "--with", str(saved)]) == 0
    told = capfd.readouterr()
    assert told.out == ""
    assert f"{path}: {path.stat().st_size / 1e3:.0f} kB" in told.err
    root = pages.parse(path.read_text(encoding="utf-8"))
    data = pages.data_of(root)
    assert (data["analysis"]["network"], data["analysis"]["threads"]) == ("resnet18", 1)
    assert data["analysis"]["is_measured"]
    assert [record["engine"] for record in data["records"]] == ["waterline", "onnxruntime"]
    assert data["environment"]["versions"]["onnxruntime"]
    assert [profile["label"] for profile in data["profiles"]] == ["this run", "before"]
    this = {row["name"]: row["time_ns"] for row in data["profiles"][0]["rows"]}
    assert this == {layer["name"]: layer["time_ns"] for layer in data["analysis"]["layers"]}
    assert root.one("section", id="profiles").text.count("not in this one") == 3
    sections = [section.attributes["id"] for section in root.all("section")]
    assert sections[:2] == ["summary", "engines"]
    assert {"figures", "layers", "blocks", "profiles"} < set(sections)


def test_a_measured_page_alone(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    assert entry(["report", *SMALL, "-o", str(path)]) == 0
    root = pages.parse(path.read_text(encoding="utf-8"))
    (record,) = pages.data_of(root)["records"]
    assert record["p10_ms"] <= record["median_ms"] <= record["p90_ms"]
    shown = milliseconds(record["p90_ms"])
    assert f"{shown} ms (10th to 90th percentile)" in root.one("section", id="summary").text


def test_a_predicted_page_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_measured", None)
    path = tmp_path / "page.htm"
    assert entry(["report", "resnet18", "--machine", "phone", "--batch", "2", "--threads", "3", "-o", str(path)]) == 0
    analysis = pages.data_of(pages.parse(path.read_text(encoding="utf-8")))["analysis"]
    assert not analysis["is_measured"]
    assert analysis["machine"].startswith("phone")
    assert (analysis["batch"], analysis["threads"]) == (2, 3)


def test_without_matplotlib_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(command, "_measured", None)
    assert entry(["report", *SMALL, "-o", str(tmp_path / "page.html")]) == 2
    assert capfd.readouterr().err.splitlines()[-1] == "hint: pip install 'waterline[plots]'"
    assert os.listdir(tmp_path) == []


def test_profiles_alone(tmp_path: Path, saved: Path) -> None:
    path = tmp_path / "page.html"
    assert entry(["report", "--with", str(saved), "--with", str(saved), "-o", str(path)]) == 0
    root = pages.parse(path.read_text(encoding="utf-8"))
    assert [section.attributes["id"] for section in root.all("section")] == ["profiles", "terms"]
    labels = [profile["label"] for profile in pages.data_of(root)["profiles"]]
    assert labels == [str(saved), str(saved)], "files of the same name are told apart by their paths"


# ---- files ----------------------------------------------------------------------------------------------------------
def test_a_page_is_replaced_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    with whole_file(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["page.html"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    old, new = tmp_path / "old.html", tmp_path / "new.html"
    old.write_text("old")
    for path in (old, new):
        assert entry(["report", "no_such_network", "-o", str(path)]) == 2
        with pytest.raises(KeyboardInterrupt):
            interrupted(path)
    assert os.listdir(tmp_path) == ["old.html"]
    assert old.read_text() == "old"


def interrupted(path: Path) -> None:
    with whole_file(path) as file:
        file.write("half a page")
        raise KeyboardInterrupt


def test_what_cannot_be_written_is_said_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "no" / "page.html", tmp_path / "file" / "page.html", tmp_path):
        with pytest.raises(InvalidArgument, match=r"written|directory"), whole_file(path):
            raise AssertionError("nothing is measured")


def test_the_package_has_the_pages_parts() -> None:
    globs = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["waterline"]
    package = ROOT / "src" / "waterline"
    parts = [path for path in (package / "report" / "page").iterdir() if path.suffix in (".html", ".css", ".js")]
    assert len(parts) == 3
    for path in parts:
        assert any(fnmatch.fnmatch(str(path.relative_to(package)), glob) for glob in globs), path


# ---- mistakes -------------------------------------------------------------------------------------------------------
MISTAKES = {
    "": ("-o", "waterline report resnet50 -o resnet50.html"),
    "resnet18": ("-o", "waterline report resnet50 -o resnet50.html"),
    "-o page.html": ("MODEL, or two saved profiles", "--with a.json --with b.json"),
    "--with nothing.json -o page.html": ("MODEL, or two saved profiles", "--with a.json"),
    "resnet18 -o page.pdf": ("'page.pdf'", ".html"),
    "resnet18 -o page": ("'page'", ".html"),
    "resnet18 -o no/such/folder/page.html": ("no/such/folder/page.html", "permissions"),
    "resnet18 -o page.html --with nothing.json": ("'nothing.json' cannot be read", "waterline profile MODEL --json"),
    "resnet18 -o page.html --vs onxruntime": ("'onxruntime'", "onnxruntime"),
    "resnet18 -o page.html --machine toaster": ("'toaster'", "phone"),
    "resnet18 -o page.html --machine phone --vs ncnn": ("--vs measures", "leave one"),
    "resnet18 -o page.html --machine phone --seconds 3": ("--seconds measures", "leave one"),
    "resnet18 -o page.html --predicted --seconds 3": ("--predicted only predicts", "leave one"),
    "resnet18 -o page.html --batch 0": ("'0'", "--help"),
    "resnet18 -o page.html --seconds soon": ("'soon'", "--help"),
    "resnte18 -o page.html": ("'resnte18'", "resnet18"),
    "--with a.json --with a.json --vs ncnn -o page.html": ("--vs needs a MODEL", "saved profiles"),
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    assert entry(["report", *words.split()]) == 2
    told = capfd.readouterr()
    message, hint = told.err.splitlines()
    assert MISTAKES[words][0] in message
    assert hint.startswith("hint: ")
    assert MISTAKES[words][1] in hint
    assert told.out == ""
    assert os.listdir(tmp_path) == []


ROW = {"name": "a", "shape": "1x1", "algorithm": "Pool", "time_ns": 1.0}
PROFILE = {"network": "n", "machine": "m", "threads": 1, "rows": [ROW], "totals": {"time_ns": 1.0}}
BAD_PROFILES = {
    "": "not JSON",
    "{": "not JSON",
    "[" * 100_000: "not JSON",
    "[]": "list",
    "3": "int",
    "{}": "'rows' is missing",
    json.dumps(PROFILE | {"rows": []}): "no layers",
    json.dumps(PROFILE | {"rows": 3}): "int",
    json.dumps(PROFILE | {"rows": [3]}): "int",
    json.dumps(PROFILE | {"rows": [ROW | {"time_ns": "soon"}]}): "'soon' is no time",
    json.dumps(PROFILE | {"rows": [ROW | {"time_ns": -1}]}): "-1 is no time",
    json.dumps(PROFILE | {"rows": [{"name": "a"}]}): "'shape' is missing",
    json.dumps(PROFILE | {"totals": None}): "NoneType",
    json.dumps(PROFILE | {"totals": {"time_ns": float("inf")}}): "inf is no time",
}


@pytest.mark.parametrize("text", BAD_PROFILES, ids=[f"{text[:20]}: {why}" for text, why in BAD_PROFILES.items()])
def test_bad_profiles(text: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match=r"profile\.json' is no profile") as caught:
        page.read(path)
    assert BAD_PROFILES[text] in caught.value.message
    assert "waterline profile MODEL --json" in caught.value.hint


def test_a_profile_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidArgument, match="cannot be read: it is not text"):
        page.read(path)


def test_layers_of_the_same_name_are_matched_in_order() -> None:
    def of(label: str, *times: float) -> page.Profile:
        rows = tuple(profiles.ProfileRow("same", "1x1", "Pool", time_ns) for time_ns in times)
        return page.Profile(label, "n", "m", 1, sum(times), rows)

    matches = profiles.match([of("a", 1.0, 2.0), of("b", 3.0, 8.0, 5.0)])
    times = [[row and row.time_ns for row in match.rows] for match in matches]
    assert times == [[1.0, 3.0], [2.0, 8.0], [None, 5.0]]
    assert [match.ratio(1) for match in matches] == [3.0, 4.0, None]
