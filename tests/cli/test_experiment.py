"""`waterline experiment`: tables on stdout, records in a file, mistakes in two lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from waterline.bench import records
from waterline.bench.experiments import winograd_paper
from waterline.bench.experiments.winograd_paper import Accuracy
from waterline.spec import ConvSpec

TINY = Accuracy(ConvSpec(1, 8, 10, 10, 8, 3, 3, pad=(1, 1, 1, 1)), 1e-5, 5e-6, 4e-5)


def test_accuracy(call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("waterline.bench.experiments.winograd.ACCURACY", {"tiny": TINY})
    path = tmp_path / "records.jsonl"
    result = call("experiment", "winograd", "--accuracy-only", "--seeds", "1", "--json", path, "--markdown")
    assert result.returncode == 0, result.stderr
    for word in ("F(4x4,3x3)", "winograd:f4x4", "(emulated)", "| tiny |"):
        assert word in result.stdout
    found = records.read(path)
    assert {record["protocol"] for record in found} == {
        "experiment winograd: operations",
        "experiment winograd: accuracy",
    }
    assert all(record["machine"] and record["date"] for record in found)
    assert winograd_paper.ACCURACY["1.2"].direct == 4.01e-5


def test_speed(call, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    figure = tmp_path / "figure.svg"
    words = [
        "--speed-only",
        "--figure",
        figure,
        "--network",
        "squeezenet1_0",
        "--image-size",
        "32",
        "--batch",
        "1,2",
        "--threads",
        "1",
    ]
    result = call("experiment", "winograd", *words, "--seconds", "0.05", "--json", path)
    assert result.returncode == 0, result.stderr
    assert "its 26 convolutions" in result.stdout
    assert {record["batch"] for record in records.read(path)} == {1, 2}
    assert "The convolutions of squeezenet1_0 by batch" in figure.read_text(encoding="utf-8")


def test_indirect(call, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    words = ["--network", "squeezenet1_0,resnet18", "--image-size", "32", "--copies", "2", "--seconds", "0.01"]
    figure = tmp_path / "figure.svg"
    result = call("experiment", "indirect", *words, "--json", path, "--figure", figure)
    assert result.returncode == 0, result.stderr
    for word in (
        "1x1 stride 1",
        "1x1 stride 2",
        "larger filters",
        "geometric mean",
        "indirect, forced",
        "up to 62.0 %",
    ):
        assert word in result.stdout
    found = records.read(path)
    assert {record["protocol"] for record in found} == {"experiment indirect: memory", "experiment indirect: time"}
    assert {record["threads"] for record in found if "threads" in record} == {1}
    assert all(record["machine"] and record["date"] for record in found)
    assert "larger filters" in figure.read_text(encoding="utf-8")


def test_memory_alone(call, tmp_path: Path) -> None:
    figure = tmp_path / "figure.svg"
    result = call("experiment", "indirect", "--memory-only", "--markdown", "--figure", figure)
    assert "figure.svg is not drawn: nothing was timed" in result.stderr
    assert not figure.exists()
    assert result.returncode == 0, result.stderr
    assert (
        "| resnet18 layer1.0.conv1 | 64x56x56 3x3 -> 64 | larger filters | 9 | 110.2 | 7056.0 | 64.0 |" in result.stdout
    )
    assert "indirect us" not in result.stdout


def test_maxdnn(call, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    words = ["--network", "resnet18", "--image-size", "32", "--batch", "1,16", "--seconds", "0.01", "--no-peer"]
    result = call("experiment", "maxdnn", *words, "--json", path)
    assert result.returncode == 0, result.stderr
    for word in ("resnet18 conv1", "batch 16", "batch 16 or more", "maxDNN"):
        assert word in result.stdout
    found = records.read(path)
    assert [record["batch"] for record in found] == [1] * 11 + [16] * 11
    assert all(record["versions"]["waterline"] for record in found)


def test_fusion(call, tmp_path: Path) -> None:
    path, figure = tmp_path / "records.jsonl", tmp_path / "figure.svg"
    words = ["--network", "convfirst_tiny", "--image-size", "32", "--batch", "2", "--threads", "1", "--seconds", "0.01"]
    result = call("experiment", "fusion", *words, "--json", path, "--figure", figure, "--markdown")
    assert result.returncode == 0, result.stderr
    for word in ("Whole blocks of convfirst_tiny, fused", "Workspace in MB", "| stages.0.0 | 64x8x8: grouped 3x3"):
        assert word in result.stdout
    assert [record["variant"] for record in records.read(path)] == ["unfused", "whole blocks", "planner"]
    assert "convfirst_tiny, batch 2" in figure.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["winogard"], "there is no experiment 'winogard'", "did you mean winograd?"),
        (["fast"], "there is no experiment 'fast'", "experiments are winograd"),
        (["winograd", "--network", "vgg"], "there is no network named 'vgg'", "did you mean vgg19?"),
        (["winograd", "--threads", "99"], "99 threads on", "use at most"),
        (["winograd", "--speed-only", "--accuracy-only"], "not allowed with argument", "--help"),
        (["winograd", "--bach", "1"], "unrecognized arguments: --bach", "did you mean --batch?"),
        (["indirect", "--network", "resnet"], "there is no network named 'resnet'", "did you mean resnet"),
        (["indirect", "--batch", "4"], "the experiment indirect has no option --batch", "it has --network"),
        (["maxdnn", "--seeds", "2"], "the experiment maxdnn has no option --seeds", "it has --batch"),
        (["maxdnn", "--network", "mobilenet_v2"], "has 32 groups", "the paper's networks are alexnet"),
        (["maxdnn", "--figure", "x.gif"], "does not end with the suffix of a figure", "use .svg, .png, .pdf"),
        (["maxdnn", "--figure", "/nowhere/x.svg"], "/nowhere/x.svg: No such file", "check the path"),
        (["maxdnn", "--threads", "99"], "99 threads on", "use at most"),
        (["fusion", "--seeds", "2"], "the experiment fusion has no option --seeds", "it has --batch"),
        (["fusion", "--network", "convfirst"], "there is no network named 'convfirst'", "did you mean convfirst"),
        (["maxdnn", "--image-size", "8"], "takes images of at least", "its own size is"),
        (["training", "--pairs", "tny"], "there is no pair of networks 'tny'", "pairs are digits, tiny"),
        (["training", "--vs", "onxruntime"], "there is no peer 'onxruntime'", "did you mean onnxruntime?"),
        (["training", "--learning-rate", "fast"], "'fast' is no number", "--help"),
        (["training", "--epochs", "0"], "'0' is not a whole number of at least 1", "--help"),
        (["training", "--network", "resnet18"], "the experiment training has no option --network", "it has --"),
    ],
)
def test_mistakes(call, words: list[str], message: str, hint: str) -> None:
    result = call("experiment", *words)
    assert result.returncode == 2
    assert result.stdout == ""
    first, second = result.stderr.splitlines()
    assert message in first
    assert second.startswith("hint: ")
    assert hint in second
