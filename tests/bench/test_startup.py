"""The start-up protocol: the order of processes and the arithmetic with made-up starts, then one real run."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from waterline import models
from waterline.bench import records, startup, startup_process
from waterline.bench.startup import OURS, Launcher, Start, Variant
from waterline.errors import Error
from waterline.spec import ConvSpec

EMPTY, WARM = OURS
PEER = Variant("onnxruntime")
SPEC = ConvSpec(1, 8, 6, 6, 16, 3, 3, pad=(1, 1, 1, 1))
Y = np.linspace(-1, 1, 8, dtype=np.float32)


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("startup") / "layer.onnx"
    path.write_bytes(models.build_layer(SPEC).SerializeToString())
    return path


def start(compile_s: float = 1.0, y: np.ndarray = Y) -> Start:
    return Start("1.0", {"import_s": 0.5, "compile_s": compile_s, "peak_memory_bytes": 2.0**20}, [y])


# ---- the order of processes -------------------------------------------------------------------------------------
def test_warm_follows_empty_in_the_same_folder_and_every_run_has_its_own() -> None:
    log: list[tuple[Variant, Path]] = []

    def launch(variant: Variant, folder: Path) -> Start:
        assert list(folder.iterdir()) == ([folder / "cache"] if variant == WARM else [])
        if variant == EMPTY:
            (folder / "cache").mkdir()
        elif variant == WARM:
            (folder / "cache").rmdir()
        log.append((variant, folder))
        return start()

    found = startup.measure(["onnxruntime"], 12, launch)
    assert {variant: len(starts) for variant, starts in found.items()} == {EMPTY: 12, WARM: 12, PEER: 12}
    runs = [log[i : i + 3] for i in range(0, len(log), 3)]
    orders = [[variant for variant, _ in run] for run in runs]
    assert {tuple(order) for order in orders} == {(EMPTY, WARM, PEER), (PEER, EMPTY, WARM)}
    assert all(len({folder for _, folder in run}) == 1 for run in runs)
    folders = {folder for _, folder in log}
    assert len(folders) == 12
    assert not any(folder.exists() for folder in folders)


# ---- what a record says -----------------------------------------------------------------------------------------
def test_a_record_has_medians_and_samples() -> None:
    found = {EMPTY: [start(5.0), start(9.0), start(6.0)], WARM: [start(0.5)] * 3, PEER: [start(0.25, Y + 1e-7)] * 3}
    empty, warm, peer = startup.summarise(found, {"model": "made up", "threads": 2})
    assert (empty["engine"], empty["cache"], empty["runs"], empty["model"]) == ("waterline", "empty", 3, "made up")
    assert empty["compile_s"] == 6.0
    assert empty["samples"]["compile_s"] == [5.0, 9.0, 6.0]
    assert (warm["cache"], warm["compile_s"], warm["disagreement"]) == ("warm", 0.5, 0.0)
    assert (peer["engine"], peer["cache"]) == ("onnxruntime", None)
    assert 0 < peer["disagreement"] < 1e-6
    assert "calibrate_s" not in peer


@pytest.mark.parametrize("wrong", [WARM, PEER], ids=str)
def test_a_wrong_result_is_no_measurement(wrong: Variant) -> None:
    found = {variant: [start(y=1.01 * Y if variant == wrong else Y)] for variant in (EMPTY, WARM, PEER)}
    with pytest.raises(Error, match="disagree"):
        startup.summarise(found, {})


def test_ours_is_bitwise_the_same_from_any_cache() -> None:
    found = {EMPTY: [start()], WARM: [start(y=Y * np.float32(1 + 1e-6))]}
    with pytest.raises(Error, match="disagree"):
        startup.summarise(found, {})


# ---- real processes ---------------------------------------------------------------------------------------------
def test_the_command(layer: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("onnxruntime")
    path = tmp_path / "startup.jsonl"
    arguments = [str(layer), "--vs", "onnxruntime", "--runs", "1", "--threads", "1", "--append", str(path)]
    assert startup.main(arguments) == 0
    out, err = capsys.readouterr()
    heading, *lines = out.splitlines()
    assert "peak MiB" in heading
    assert [line.split("  ")[0] for line in lines] == ["waterline, empty cache", "waterline, warm cache", "onnxruntime"]
    assert len(err.splitlines()) == 3
    empty, warm, peer = records.read(path)
    for record in (empty, warm, peer):
        assert (record["protocol"], record["model"], record["batch"], record["threads"]) == ("startup", "layer", 1, 1)
        assert 0 < record["import_s"] < 60
        assert 0 < record["first_run_s"] < 60
        assert 10 << 20 < record["peak_memory_bytes"] < 4 << 30
        assert set(record["versions"]) == {"waterline", "onnxruntime"}
    assert warm["compile_s"] < empty["compile_s"]  # kernels come from the cache
    assert warm["calibrate_s"] < empty["calibrate_s"]  # and so do the machine's rates
    assert peer["disagreement"] < 1e-5


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("not a model")
    with pytest.raises(Error, match=r"waterline, empty cache cannot be started: .*InvalidModel") as raised:
        Launcher(path, {"input": (1, 8, 6, 6)}, 1)(EMPTY, tmp_path)
    assert "text.onnx" in raised.value.hint


@pytest.mark.skipif(sys.platform != "linux", reason="what ru_maxrss says after exec is Linux's own")
def test_peak_memory_is_the_process_own() -> None:
    code = f"import runpy; print(runpy.run_path({startup_process.__file__!r})['peak_memory_bytes']())"
    ballast = np.ones(300 << 20, np.uint8)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert 1 << 20 < int(done.stdout) < 100 << 20 < ballast.nbytes


def test_the_process_of_a_peer_does_not_hold_ours(layer: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    job = {"model": str(layer), "shapes": {"input": (1, 8, 6, 6)}, "threads": 1}
    code = (
        "import runpy, sys; "
        f"runpy.run_path({startup_process.__file__!r})['ENGINES']['onnxruntime']({job}, {{}}); "
        "sys.exit(any(name.split('.')[0] in ('waterline', 'llvmlite', 'onnx') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False, timeout=60).returncode == 0


# ---- mistakes ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ("", "MODEL", "--help"),
        ("resnet81", "no network and no file", "resnet"),
        ("resnet18 --runs 0", "'0'", "--help"),
        ("resnet18 --threads 4096", "4096", "at most"),
        ("resnet18 --vs openvino", "'openvino'", "onnxruntime"),
        ("resnet18 --append no/such/folder/file.jsonl", "no/such/folder/file.jsonl", "path"),
    ],
)
def test_a_mistake(arguments: str, message: str, hint: str, capsys: pytest.CaptureFixture) -> None:
    check_mistake(arguments, message, hint, capsys)


def test_a_peer_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    find: Callable = importlib.util.find_spec
    monkeypatch.setattr(startup, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    check_mistake("resnet18 --vs onnxruntime", "needs onnxruntime", "pip install", capsys)


def check_mistake(arguments: str, message: str, hint: str, capsys: pytest.CaptureFixture) -> None:
    assert startup.main(arguments.split()) == 2
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert first.startswith("startup: ")
    assert message in first
    assert second.startswith("hint: ")
    assert hint in second
    assert not out
