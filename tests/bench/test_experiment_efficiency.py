"""`experiment efficiency`: a real run of small images, what its records say, and the published figures beside."""

from __future__ import annotations

import argparse
from dataclasses import replace

import pytest
from listeners import Strict

from waterline.analysis import Analysis
from waterline.api import environment
from waterline.bench import records
from waterline.bench.experiments import efficiency, efficiency_network, efficiency_paper, find
from waterline.bench.experiments.efficiency_network import median_report, parameters, with_peak
from waterline.bench.records import Record
from waterline.bench.workload import Workload
from waterline.errors import InvalidArgument
from waterline.machine import CATALOGUE
from waterline.report import experiment_figures
from waterline.report.experiments import tables
from waterline.report.experiments.efficiency import KINDS, analysis_of, kind_of

NETWORKS = (efficiency.CONVNEXT, efficiency.CONVFIRST, "mobilenet_v2")


def run(**changes: object) -> list[Record]:
    given = {
        "network": ",".join(NETWORKS),
        "batch": [1],
        "image_size": 32,
        "device": "cpu",
        "dtype": "float32",
        "threads": [1],
        "seconds": 0.05,
    }
    arguments = argparse.Namespace(**(given | changes))
    return [
        record for found in find("efficiency").measure(arguments, environment.machine(), Strict()) for record in found
    ]


@pytest.fixture(scope="module")
def found() -> list[Record]:
    return run()


# ---- the records ----------------------------------------------------------------------------------------------------
def test_one_record_a_network_that_describes_itself(found: list[Record], tmp_path) -> None:
    assert [record["model"] for record in found] == list(NETWORKS)
    for record in found:
        assert record["protocol"] == "experiment efficiency"
        assert record["rounds"] >= efficiency.LEAST_ROUNDS
        assert len(record["samples"]) >= record["rounds"]
        assert len(record["profiled_samples"]) >= record["rounds"]
        assert record["machine"]["features"]
        assert record["image_size"] == 32
        assert record["ratio"]["to"] == NETWORKS[0]
    assert found[0]["ratio"]["median"] == 1.0
    path = tmp_path / "records.jsonl"
    records.append(path, found)
    assert records.read(path) == found


def test_latency_is_operations_over_peak_and_efficiency(found: list[Record]) -> None:
    for record in found:
        ideal_s = record["flops"] / record["peak_flops_per_s"]
        assert record["ideal_ms"] == pytest.approx(1e3 * ideal_s)
        assert record["profiled_efficiency"] == pytest.approx(record["ideal_ms"] / record["profiled_ms"])
        assert record["effective_efficiency"] == pytest.approx(
            record["executed_flops"] / record["peak_flops_per_s"] / record["profiled_ms"] * 1e3
        )
        assert record["waterline"] == pytest.approx(record["ideal_ms"] / record["bound_ms"])
        assert record["fused_waterline"] == pytest.approx(record["ideal_ms"] / record["fused_bound_ms"])
        assert 0 < record["waterline"] <= record["fused_waterline"] <= 1


def test_totals_are_those_of_the_layers_and_blocks(found: list[Record]) -> None:
    for record in found:
        layers, blocks = record["layers"], record["blocks"]
        assert sum(layers["flops"]) == record["flops"]
        assert sum(layers["bound_ns"]) / 1e6 == pytest.approx(record["bound_ms"], rel=1e-3)
        assert sum(blocks["fused_bound_ns"]) / 1e6 == pytest.approx(record["fused_bound_ms"], rel=1e-3)
        assert sum(layers["time_ns"]) / 1e6 == pytest.approx(sum(record["causes_ms"].values()), rel=1e-3)
        assert sum(blocks["bytes"]) == sum(layers["bytes"]) > sum(blocks["fused_bytes"])
        assert set(layers["block"]) == set(range(len(blocks["name"])))


def test_the_analysis_comes_back(found: list[Record]) -> None:
    for record in found:
        again = analysis_of(record)
        assert isinstance(again, Analysis)
        assert again.flops == record["flops"]
        assert again.waterline == pytest.approx(record["waterline"], rel=1e-3)
        assert again.fused_waterline == pytest.approx(record["fused_waterline"], rel=1e-3)
        assert again.computational_efficiency == pytest.approx(record["profiled_efficiency"])
        assert again.causes.overhead_ns / 1e6 == pytest.approx(record["causes_ms"]["overhead"], rel=1e-2, abs=1e-4)
        assert [i for block in again.blocks for i in block.layers] == list(range(len(again.layers)))


def test_batches_are_compared_by_themselves() -> None:
    two = run(network="mobilenet_v2,resnet18", batch=[1, 2])
    assert [(record["model"], record["batch"]) for record in two] == [
        ("mobilenet_v2", 1),
        ("resnet18", 1),
        ("mobilenet_v2", 2),
        ("resnet18", 2),
    ]
    assert two[2]["flops"] == 2 * two[0]["flops"]
    assert two[2]["parameters"] == two[0]["parameters"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"threads": [999]}, "999 threads on"), ({"network": "convnet"}, "no network"), ({"image_size": 8}, "at least")],
)
def test_mistakes(changes: dict, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        run(**changes)


# ---- parts ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("network", "expected"), [("resnet18", 11_689_512), ("mobilenet_v2", 3_504_872), ("efficientnet_b0", 5_288_548)]
)
def test_parameters_are_those_of_torchvision(network: str, expected: int) -> None:
    assert parameters(Workload.named(network, 32).graph(1)) == expected


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_machine_with_the_peak_of_the_day(threads: int) -> None:
    machine = replace(CATALOGUE[0], cores=4, peak_flops_per_s=1e9, peak_all_flops_per_s=3e9)
    assert with_peak(machine, threads, 7e9).peak(threads) == pytest.approx(7e9)


def test_layers_have_their_own_medians() -> None:
    subject = efficiency_network.Subject.prepare("mobilenet_v2", 1, 1, image_size=32)
    for _ in range(3):
        subject.profile()
    merged = median_report(subject.reports)
    assert merged.runs == 3
    for i, row in enumerate(merged.rows):
        assert row.time_ns == sorted(report.rows[i].time_ns for report in subject.reports)[1]
    assert merged.time_ns == sorted(report.time_ns for report in subject.reports)[1]


def test_published_efficiencies_follow_from_throughputs() -> None:
    shares = {name: [round(100 * share) for share in efficiency_paper.published(name).values()] for name in NETWORKS}
    assert shares == {"convnext_tiny": [39, 26], "convfirst_tiny": [], "mobilenet_v2": []}
    rounded = {name: round(100 * share) for name, share in efficiency_paper.published("efficientnet_b0").items()}
    assert rounded == {"RTX 3090": 9, "RTX 4090": 5}
    assert [round(100 * share) for share in efficiency_paper.published("resnet50").values()] == [43, 25]


# ---- tables and figure ----------------------------------------------------------------------------------------------
def test_tables_say_what_is_the_papers_and_what_is_not(found: list[Record]) -> None:
    made = {table.title.partition(",")[0]: table for table in tables(found)}
    assert list(made) == [
        "Complexity",
        "Waterline",
        "By kind of layer",
        "Computational efficiency beside GPUs",
    ]
    text = "\n".join(table.to_text() for table in made.values())
    for words in ("approximately 4 times as fast", "are our own", "random weights", "an analysis and not a run"):
        assert words in text
    for table in made.values():
        assert all(len(row) == len(table.columns) for row in table.rows)
    assert [row[0] for row in made["Complexity"].rows] == list(NETWORKS)


def test_kinds_of_layers(found: list[Record]) -> None:
    kinds = {record["model"]: {kind_of(layer) for layer in analysis_of(record).layers} for record in found}
    assert kinds["mobilenet_v2"] >= {"pointwise", "depthwise", "fully connected"}
    assert "grouped" not in kinds["mobilenet_v2"]
    assert kinds["convfirst_tiny"] & {"grouped", "fused block"}
    assert set.union(*kinds.values()) <= set(KINDS)


def published_records(changes: dict[str, float]) -> list[Record]:
    """Three networks with the efficiencies given, in their order."""
    (record,) = run(network="mobilenet_v2")
    return [
        {**record, "model": name, "profiled_efficiency": share, "published": efficiency_paper.published(name)}
        for name, share in changes.items()
    ]


def test_the_order_is_compared_with_that_of_gpus() -> None:
    same = published_records({"resnet50": 0.9, "convnext_tiny": 0.7, "efficientnet_b0": 0.4})
    other = published_records({"efficientnet_b0": 0.9, "resnet50": 0.5, "convnext_tiny": 0.4})
    (text,) = (table.to_text() for table in tables(same) if "GPUs" in table.title)
    assert "it is the same as on RTX 3090" in text
    assert "the lowest here too" in text
    (text,) = (table.to_text() for table in tables(other) if "GPUs" in table.title)
    assert "it is not theirs" in text
    assert "though not here" in text


def test_the_figure_has_every_network(found: list[Record]) -> None:
    drawing = experiment_figures.figure(found)
    assert drawing is not None
    svg = drawing.svg()
    for name in NETWORKS:
        assert name in svg
