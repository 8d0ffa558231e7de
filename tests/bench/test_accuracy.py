"""The accuracy protocol: its arithmetic on made-up differences, and one small network through all of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from waterline import models
from waterline.bench import accuracy, ours, records
from waterline.bench.engine import Engine
from waterline.reference import Comparison, compare
from waterline.spec import ConvSpec

SPEC = ConvSpec(1, 64, 8, 8, 32, 1, 1)
WITHIN = Comparison(1e-6, 0.25, (0,), 1.0, 1.0, 0)
BEYOND = Comparison(1e-6, 1.5, (0,), 1.0, 1.0, 0)


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("accuracy") / "layer.onnx"
    path.write_bytes(models.build_layer(SPEC).SerializeToString())
    return path


# ---- arithmetic -------------------------------------------------------------------------------------------------
def test_errors_of_all_seeds_count() -> None:
    assert accuracy.errors([np.array([[3.0, 0.0]]), np.array([[-4.0, 0.0]])]) == (4.0, 2.5)
    assert accuracy.errors([np.array([np.nan, np.inf, -2.0])]) == (2.0, 2.0)
    assert accuracy.errors([np.array([])]) == (0.0, 0.0)
    assert accuracy.errors([np.array([np.nan])]) == (0.0, 0.0)


def test_a_summary() -> None:
    ours_, torch = [np.array([2e-6, 0.0])] * 2, [np.array([1e-6, 0.0])] * 2
    found = accuracy.summarise({"waterline": ours_, "torch": torch}, [WITHIN, WITHIN])
    assert found["error_ratio"] == pytest.approx({"max": 2.0, "rms": 2.0})
    assert found["bound_share"] == 0.25
    assert found["is_within_bound"]
    assert found["passes"]


def test_one_seed_beyond_the_bound_is_a_failure() -> None:
    same = [np.array([1e-6])] * 2
    found = accuracy.summarise({"waterline": same, "torch": same}, [WITHIN, BEYOND])
    assert found["bound_share"] == 1.5
    assert not found["is_within_bound"]
    assert not found["passes"]


def test_much_worse_than_pytorch_is_a_failure_within_the_bound() -> None:
    found = accuracy.summarise({"waterline": [np.array([5e-6])], "torch": [np.array([1e-6])]}, [WITHIN])
    assert found["is_within_bound"]
    assert not found["passes"]


def test_nothing_is_a_multiple_of_no_error() -> None:
    found = accuracy.summarise({"waterline": [np.array([1e-7])], "torch": [np.array([0.0])]}, [WITHIN])
    assert found["error_ratio"] == {"max": None, "rms": None}
    assert found["passes"]


def test_an_error_where_none_is_allowed_can_be_recorded(tmp_path: Path) -> None:
    check = compare(np.array([1.5], np.float32), np.array([1.0]), 0.0)
    found = accuracy.summarise({"waterline": [np.array([0.5])], "torch": [np.array([0.5])]}, [check])
    assert found["bound_share"] is None
    assert not found["passes"]
    records.append(tmp_path / "records.jsonl", [found])


# ---- the command ------------------------------------------------------------------------------------------------
def test_the_command(layer: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("torch")
    path = tmp_path / "accuracy.jsonl"
    assert accuracy.main([str(layer), str(layer), "--threads", "1", "--append", str(path)]) == 0
    heading, line = capsys.readouterr().out.splitlines()
    assert "of bound" in heading
    assert line.split()[0] == "layer"
    assert line.split()[-1] == "ok"
    (record,) = records.read(path)
    assert (record["protocol"], record["model"], record["output"]) == ("accuracy", "layer", "output")
    assert (record["seeds"], record["inputs"]) == (3, {"input": [1, 64, 8, 8]})
    assert 0 < record["rms_error"] < record["max_error"] < 1e-5 < record["largest"]
    assert 0 < record["torch_rms_error"] < record["torch_max_error"] < 1e-5
    assert 0 < record["bound_share"] <= 1
    assert set(record["versions"]) == {"waterline", "torch"}
    assert record["algorithms"]


def test_a_wrong_result_fails(layer: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("torch")
    right = ours.engine_of

    def wrong(net: object, inputs: dict) -> Engine:
        engine = right(net, inputs)
        return Engine(engine.name, engine.version, lambda: [value + np.float32(1e-3) for value in engine.run()])

    monkeypatch.setattr(ours, "engine_of", wrong)
    assert accuracy.main([str(layer), "--threads", "1", "--seeds", "1"]) == 1
    assert "FAILED" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ("", "MODEL", "--help"),
        ("resnet81", "no network and no file", "resnet"),
        ("resnet18 --seeds 0", "'0'", "--help"),
        ("resnet18 --image-size 8", "at least 32x32", "224"),
        ("resnet18 --append no/such/folder/file.jsonl", "no/such/folder/file.jsonl", "path"),
    ],
)
def test_a_mistake(arguments: str, message: str, hint: str, capsys: pytest.CaptureFixture) -> None:
    assert accuracy.main(arguments.split()) == 2
    *_, first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("accuracy: ")
    assert message in first
    assert second.startswith("hint: ")
    assert hint in second
