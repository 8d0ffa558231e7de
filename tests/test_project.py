"""What the project promises about itself: rules of the tree, pages of docs/ that follow the code, examples that run."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import waterline
from waterline.api import environment, options
from waterline.cli.main import COMMANDS
from waterline.runtime.profile import FIELDS

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LONGEST_FILE = 500
# Rooms that are told about their surroundings and do not look themselves.
BELOW_API = [p for p in SOURCES if p.parts[p.parts.index("waterline") + 1] not in ("api", "bench", "report", "cli")]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ---- rules of the tree ------------------------------------------------------------------------------------------
def test_nothing_below_the_api_reads_the_environment() -> None:
    found = []
    for path in BELOW_API:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Attribute):
                names = [node.attr]
            if {"environ", "environb", "getenv", "getenvb"} & set(names):
                found.append(f"{name_of(path)}:{node.lineno}")
    assert found == []


def test_only_the_api_detects_the_machine() -> None:
    rooms = ("machine", "api")
    for path in SOURCES:
        if path.parts[path.parts.index("waterline") + 1] in rooms:
            continue
        called = [
            node.func
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        ]
        assert "detect" not in [name.id for name in called], name_of(path)


def test_triton_and_gpu_tensors_stay_in_gpu_files() -> None:
    """Where algorithms, operators and emission are concerned: all else must work without them."""
    for path in SOURCES:
        parts = path.parts[path.parts.index("waterline") + 1 :]
        if parts[0] not in ("algorithms", "operators", "codegen") or "gpu" in parts or parts[-1].startswith("gpu"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not {name.split(".")[0] for name in names} & {"triton", "torch"}, name_of(path)


def test_no_file_is_longer_than_its_readers_patience() -> None:
    files = [*SOURCES, *(ROOT / "tests").rglob("*.py")]
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_every_module_says_what_it_is() -> None:
    silent = [
        name_of(path)
        for path in SOURCES
        if path.read_text(encoding="utf-8").strip()
        and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == waterline.__version__
    assert f"## [{waterline.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_torch_is_pinned_wherever_it_is_installed() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = [requirement for extra in extras.values() for requirement in extra if re.match(r"torch\b", requirement)]
    assert asked == ["torch==2.13.0"]
    makefile = (ROOT / "Makefile").read_text()
    assert "torchvision==0.28.0" in makefile
    assert re.search(r"--no-deps .*TORCHVISION", makefile)


def test_every_name_of_the_interface_is_there() -> None:
    for name in waterline.__all__:
        assert getattr(waterline, name) is not None
    assert set(waterline.__all__) >= {
        *("compile", "conv2d", "algorithms", "Session", "Graph", "Plan", "Report"),
        *("Error", "InvalidArgument", "InvalidModel", "Refused", "UnsupportedOperator"),
    }


def test_importing_waterline_does_not_import_pytorch() -> None:
    code = (
        "import sys, waterline; sys.exit(any(name in sys.modules for name in ('torch', 'onnxruntime', 'rich', 'PIL')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


# ---- pages ------------------------------------------------------------------------------------------------------
def test_generated_pages_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for page, write in generate.PAGES.items():
        assert (ROOT / "docs" / page).read_text(encoding="utf-8") == write(), "run `make docs`"


def test_the_reference_names_everything() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    variables = re.findall(r"`(WATERLINE_\w+)`", environment.__doc__ or "")
    assert len(variables) >= 3
    commands = [f"waterline {command}" for command in COMMANDS]
    for name in [*waterline.__all__, *options.NAMES, *variables, *commands, *FIELDS]:
        assert name in text, name


def test_pages_name_algorithms_that_there_are() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in waterline.algorithms():
        assert f"`{name}`" in readme, name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, heading = target.partition("#")
        if "://" in target:
            continue
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", found).strip().lower().replace(" ", "-") for found in headings}
            assert heading in anchors, target


@pytest.mark.parametrize("page", ["README.md", "docs/getting-started.md"])
def test_examples_in_pages_run(page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    run([sys.executable, "-c", "\n".join(blocks)])


def test_tables_of_winograd_are_those_that_its_program_prints() -> None:
    page = (ROOT / "docs" / "winograd.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    rows = run([sys.executable, "-c", program]).splitlines()
    assert len(rows) > 20
    assert set(rows) - set(page.splitlines()) == set()


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_examples_run(path: Path) -> None:
    assert run([sys.executable, str(path)])


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout
