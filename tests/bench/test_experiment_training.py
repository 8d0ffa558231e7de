"""ConvFirst and ConvNeXt on equal terms, on tiny sizes: records of runs and latencies, their tables and figure."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

pytest.importorskip("torch")

from listeners import Listener

from waterline.api import environment
from waterline.bench import peers, records
from waterline.bench.engine import CannotServe, Engine, Task
from waterline.bench.experiments import find, training_networks, training_runs, training_speed
from waterline.bench.experiments.training_networks import MOST_DIFFERENCE, SMALL, parameter_count, workload_of
from waterline.bench.records import Record
from waterline.bench.workload import flops
from waterline.errors import Error, InvalidArgument
from waterline.report import experiment_figures, results
from waterline.report.experiments import tables
from waterline.report.experiments.training import accuracies, verdict


def arguments(runs: Path, **changes: object) -> argparse.Namespace:
    given = {
        "seeds": 2, "epochs": 1, "learning_rate": [4e-3], "limit": 64, "runs": str(runs), "pairs": "digits",
        "batch": [1], "image_size": None, "vs": "torch", "accuracy_only": False, "speed_only": False, "threads": [1],
        "seconds": 0.01,
    }  # fmt: skip
    return argparse.Namespace(**(given | changes))


def run(runs: Path, listener: Listener | None = None, **changes: object) -> list[Record]:
    measured = find("training").measure(arguments(runs, **changes), environment.machine(), listener or Listener())
    return [record for found in measured for record in found]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def found(folder: Path) -> list[Record]:
    return run(folder)


def of(records: list[Record], protocol: str) -> list[Record]:
    return [record for record in records if record["protocol"] == protocol]


# ---- the networks ---------------------------------------------------------------------------------------------------
def test_the_pair_is_of_equal_depth_and_parameters() -> None:
    first, second = (each.build(seed=0) for each in SMALL)
    assert SMALL[0].sizes["depths"] == SMALL[1].sizes["depths"]
    assert parameter_count(first) == pytest.approx(parameter_count(second), rel=MOST_DIFFERENCE)


def test_exported_networks_have_no_zeros_where_a_block_would_be_left_out(tmp_path: Path) -> None:
    for network in SMALL:
        workload = network.export(tmp_path)
        graph = workload.graph(1)
        assert workload.name == network.name
        assert flops(graph) > 0
        for name, value in graph.constants.items():
            assert value.size < 8 or value.dtype.kind != "f" or abs(value).max() > 1e-3, name


def test_an_unknown_pair_or_network() -> None:
    with pytest.raises(InvalidArgument, match="no pair of networks 'tny'"):
        training_networks.check_pairs(["tny"])
    with pytest.raises(InvalidArgument, match="'resnet18' is not trained here"):
        training_networks.contestants(["resnet18"])
    assert [each.name for each in training_networks.contestants(["convnext_digits"])] == ["convnext_digits"]


# ---- the runs -------------------------------------------------------------------------------------------------------
def test_one_record_a_network_and_seed(found: list[Record], tmp_path: Path) -> None:
    runs = of(found, training_runs.PROTOCOL)
    assert [(each["model"], each["seed"]) for each in runs] == [(each.name, seed) for seed in (0, 1) for each in SMALL]
    for record in runs:
        assert record["images"] == [64, 16]
        assert record["data"] == "digits:64"
        assert record["recipe"]["epochs"] == 1
        assert record["recipe"]["randaugment_ops"] == record["recipe"]["flip"] == 0
        assert "seed" not in record["recipe"]
        assert 0 <= record["accuracy"] <= 1
        assert record["accuracy"] == record["history"][-1]["val_accuracy"]
        assert record["compiled"]["accuracy"] == record["ema_accuracy"]
        assert record["compiled"]["differing"] == 0
        assert record["versions"]["torch"]
    assert runs[0]["recipe"] == runs[1]["recipe"] == runs[2]["recipe"]
    path = tmp_path / "records.jsonl"
    records.append(path, found)
    assert records.read(path) == found


def test_what_was_trained_is_not_trained_again(found: list[Record], folder: Path, monkeypatch) -> None:
    from waterline.train import training

    def train(*_: object) -> None:
        raise AssertionError("a step was trained")

    monkeypatch.setattr(training._Run, "_train_step", train)
    again = run(folder, seeds=1, accuracy_only=True)
    before = of(found, training_runs.PROTOCOL)[:2]
    for key in ("accuracy", "ema_accuracy", "history", "train_seconds", "compiled"):
        assert [record[key] for record in again] == [record[key] for record in before]


def test_every_learning_rate_and_what_is_none(folder: Path) -> None:
    again = run(folder, seeds=1, learning_rate=[4e-3, 1e-3], accuracy_only=True)
    assert [(each["learning_rate"], each["recipe"]["learning_rate"]) for each in again] == [
        (rate, rate) for rate in (4e-3, 4e-3, 1e-3, 1e-3)
    ]
    assert [each["history"][0]["learning_rate"] for each in again] == [4e-3, 4e-3, 1e-3, 1e-3]  # of the only step
    with pytest.raises(InvalidArgument, match="learning_rate is -1"):
        run(folder, seeds=1, learning_rate=[-1.0], accuracy_only=True)


# ---- the latencies --------------------------------------------------------------------------------------------------
def test_both_networks_in_every_engine(found: list[Record]) -> None:
    timed = of(found, training_speed.PROTOCOL)
    assert [(each["model"], each["engine"]) for each in timed] == [
        (network.name, engine) for network in SMALL for engine in ("waterline", "torch")
    ]
    for record in timed:
        assert record["pair"] == "digits"
        assert record["rounds"] >= training_speed.LEAST_ROUNDS
        assert record["flops"] == 2 * record["macs"]
        assert record["disagreement"] < 1e-3
    assert timed[0]["ratio"]["median"] == timed[0]["ratio_of_engines"]["median"] == 1.0
    assert timed[2]["ratio_of_engines"]["median"] == 1.0
    assert {record["ratio"]["to"] for record in timed} == {"convfirst_digits in waterline"}
    for runs, times in zip(of(found, training_runs.PROTOCOL), (timed[0], timed[2]), strict=False):
        assert runs["parameters"] == times["parameters"]


def test_an_engine_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = peers.prepare

    def absent(name: str, task: Task) -> Engine:
        if name == "inductor":
            raise InvalidArgument("the peer 'inductor' cannot compile", "it needs a C++ compiler")
        if name == "openvino":
            raise CannotServe("no such batch")
        return prepare("torch", task)

    monkeypatch.setattr(peers, "prepare", absent)
    listener = Listener()
    left = run(tmp_path, listener, speed_only=True, vs=None)
    assert {record["engine"] for record in left} == {"waterline", "onnxruntime"}
    assert listener.said == [
        "convfirst_digits: openvino is left out: no such batch",
        "inductor is left out: the peer 'inductor' cannot compile; it needs a C++ compiler",
        "convnext_digits: openvino is left out: no such batch",
    ]
    with pytest.raises(InvalidArgument, match="cannot compile"):
        run(tmp_path, speed_only=True, vs="inductor")


def test_an_engine_that_computes_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(name: str, task: Task) -> Engine:
        engine = prepare("torch", task)
        return Engine(name, "1", lambda: [1.01 * value for value in engine.run()])

    prepare = peers.prepare
    monkeypatch.setattr(peers, "prepare", wrong)
    with pytest.raises(Error, match="convfirst_digits: openvino and waterline disagree"):
        run(tmp_path, speed_only=True, vs="openvino")


def test_networks_of_the_zoo(tmp_path: Path) -> None:
    workload = workload_of("convfirst_tiny", tmp_path, 32)
    assert workload.shapes_for(2) == {"input": (2, 3, 32, 32)}
    parameters, macs = training_networks.size_of("convfirst_tiny", workload)
    assert parameters == pytest.approx(9.8e6, rel=0.01)
    assert 2 * macs == flops(workload.graph(1))


# ---- tables and figure ----------------------------------------------------------------------------------------------
def test_tables(found: list[Record]) -> None:
    runs, times, ratios = tables(found)
    assert runs.title == "Accuracy on 16 digits:64, 1 epoch of 64 others, learning rate 0.004"
    assert [row[0] for row in runs.rows] == [each.name for each in SMALL]
    assert times.title == "Latency of convfirst_digits and convnext_digits"
    assert ratios.title == "Time of convnext_digits in each engine / time of convfirst_digits in Waterline"
    assert "0 of 64 images another class" in runs.notes[-1]
    for table in (runs, times, ratios):
        assert all(len(row) == len(table.columns) for row in table.rows)


def runs_with(first: list[float], second: list[float], record: Record) -> list[Record]:
    return [
        {**record, "model": network.name, "seed": seed, "ema_accuracy": accuracy}
        for network, values in zip(SMALL, (first, second), strict=True)
        for seed, accuracy in enumerate(values)
    ]


def test_the_verdict_follows_from_the_spread(found: list[Record]) -> None:
    record = of(found, training_runs.PROTOCOL)[0]
    same = runs_with([0.98, 0.97, 0.99], [0.97, 0.99, 0.98], record)
    assert accuracies(same[:3]) == [0.98, 0.97, 0.99]
    assert "+0.00 points, 95 % interval -2.27 to +2.27" in verdict(same)
    assert ": no difference that these seeds can tell" in verdict(same)
    other = runs_with([0.98, 0.97, 0.99], [0.87, 0.89, 0.88], record)
    assert "convfirst_digits less convnext_digits: +10.00 points" in verdict(other)
    assert ": a difference that these seeds can tell" in verdict(other)
    assert verdict(same[:3]) == verdict(runs_with([0.9], [0.9], record)) == ""
    (table,) = tables(same)
    assert table.rows[0][2:5] == ("98.00", "1.00", "98.0, 97.0, 99.0")


def test_runs_of_other_recipes_are_not_mixed(found: list[Record]) -> None:
    record = of(found, training_runs.PROTOCOL)[0]
    longer = {**record, "recipe": {**record["recipe"], "epochs": 9}}
    slower = {**record, "recipe": {**record["recipe"], "learning_rate": 1e-3}, "learning_rate": 1e-3}
    assert [table.title for table in tables([record, longer, slower])] == [
        "Accuracy on 16 digits:64, 1 epoch of 64 others, learning rate 0.004",
        "Accuracy on 16 digits:64, 9 epochs of 64 others, learning rate 0.004",
        "Accuracy on 16 digits:64, 1 epoch of 64 others, learning rate 0.001",
    ]


def test_the_figure_has_every_engine(found: list[Record]) -> None:
    drawing = experiment_figures.figure([record for record in found if "median_ms" in record])
    assert drawing is not None
    svg = drawing.svg()
    for words in ("PyTorch", "Waterline", "convfirst_digits, batch 1", "convnext_digits, batch 1"):
        assert words in svg


def test_the_block_of_a_page(found: list[Record], tmp_path: Path) -> None:
    records.append(tmp_path / "training.jsonl", found)
    block = results.training_block(results.read(tmp_path))
    assert "`training.jsonl`" in block
    assert block.count("| convnext_digits |") == 2
    with pytest.raises(InvalidArgument, match="no records of training"):
        results.training_block([])
