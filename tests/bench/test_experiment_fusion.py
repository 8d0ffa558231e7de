"""`experiment fusion`: whole blocks of the zoo, a real run of small images, its records, tables and figure."""

from __future__ import annotations

import argparse
from itertools import pairwise

import numpy as np
import pytest
from listeners import Strict

from waterline.api import environment
from waterline.bench import records
from waterline.bench.experiments import find, fusion, fusion_network
from waterline.bench.experiments.fusion_blocks import name_of, whole_blocks
from waterline.bench.experiments.fusion_network import NO, PARTLY, PLANNER, UNFUSED, VARIANTS, WHOLE, YES, Subject
from waterline.bench.records import Record
from waterline.bench.timing import Protocol, geometric_mean
from waterline.bench.workload import Workload
from waterline.errors import Error, InvalidArgument
from waterline.graph.block import BlockSpec
from waterline.graph.ops import LayerNorm
from waterline.graph.passes import simplify
from waterline.machine import CATALOGUE
from waterline.planner import Plan, PlanOptions, plan
from waterline.report import experiment_figures
from waterline.report.experiments import tables

MACHINE = CATALOGUE[3]
NETWORKS = ("convfirst_tiny",)
BATCHES = (2, 3)  # both are planned as many images, with the same kernels


def run(**changes: object) -> list[Record]:
    given = {"network": ",".join(NETWORKS), "batch": list(BATCHES), "image_size": 32, "threads": [1], "seconds": 0.05}
    arguments = argparse.Namespace(**(given | changes))
    return [each for found in find("fusion").measure(arguments, environment.machine(), Strict()) for each in found]


@pytest.fixture(scope="module")
def found() -> list[Record]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fusion, "LEAST_ROUNDS", 3)
        return run()


def unfused(name: str, image_size: int = 64) -> Plan:
    graph = simplify(Workload.named(name, image_size).graph(1))
    return plan(graph, MACHINE, PlanOptions(block_fusion=False))


# ---- whole blocks ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("network", "count", "first", "last"),
    [
        ("mobilenet_v2", 17, "features.1", "features.17"),
        ("convfirst_tiny", 12, "stages.0.0", "stages.3.2"),
        ("convnext_tiny", 18, "features.1.0", "features.7.2"),
        ("efficientnet_b0", 0, "", ""),  # each has a squeeze
        ("resnet18", 0, "", ""),
    ],
)
def test_whole_blocks_of_the_zoo(network: str, count: int, first: str, last: str) -> None:
    made = unfused(network)
    blocks = whole_blocks(made.steps)
    assert len(blocks) == count
    steps = {step.name: step for step in made.steps}
    places = {step.name: i for i, step in enumerate(made.steps)}
    for block in blocks:
        assert all(places[b] == places[a] + 1 for a, b in pairwise(block))
        specs = [steps[name].spec for name in block]
        assert sum(spec is not None and spec.groups > 1 for spec in specs) == 1
        assert specs[-1] is not None
        assert specs[-1].taps == specs[-1].groups == 1
        assert all(
            spec is not None or isinstance(steps[name].op, LayerNorm) for name, spec in zip(block, specs, strict=True)
        )
    names = [name_of(block) for block in blocks]
    assert len(set(names)) == count
    if count:
        assert (names[0], names[-1]) == (first, last)


def test_depths_of_convfirst_are_those_of_its_blocks() -> None:
    from waterline.models.convfirst_family import FAMILY

    blocks = whole_blocks(unfused("convfirst_tiny").steps)
    stages = [block[0].split(".")[1] for block in blocks]
    assert [stages.count(str(i)) for i in range(4)] == list(FAMILY["convfirst_tiny"].depths)


@pytest.mark.parametrize(
    ("layers", "name"),
    [
        (["features.1.conv.0.0", "features.1.conv.1"], "features.1"),
        (["features.10.conv.1.0", "features.11.conv.0.0"], "features.10 to features.11"),
        (["a", "b"], "a to b"),
    ],
)
def test_names(layers: list[str], name: str) -> None:
    assert name_of(layers) == name


def test_the_planner_fuses_blocks_that_are_named_and_no_others() -> None:
    graph = simplify(Workload.named("mobilenet_v2", 64).graph(1))
    blocks = tuple(whole_blocks(plan(graph, MACHINE, PlanOptions(block_fusion=False)).steps))
    for wanted in (blocks, blocks[3:5], ()):
        made = plan(graph, MACHINE, PlanOptions(blocks=wanted))
        assert tuple(tuple(part.name for part in step.parts) for step in made.steps if step.parts) == wanted


# ---- the records ----------------------------------------------------------------------------------------------------
def test_a_record_a_variant_that_describes_itself(found: list[Record], tmp_path) -> None:
    keys = [(record["model"], record["batch"], record["variant"]) for record in found]
    assert keys == [(model, batch, variant) for model in NETWORKS for batch in BATCHES for variant in VARIANTS]
    for record in found:
        assert record["protocol"] == "experiment fusion"
        assert record["threads"] == 1
        assert record["rounds"] >= 3
        assert len(record["samples"]) >= record["rounds"]
        assert record["machine"]["features"]
        assert record["layers_ms"] <= record["p90_ms"]
        assert record["disagreement"] <= 1e-5
        assert record["arena_bytes"] > 0
    path = tmp_path / "records.jsonl"
    records.append(path, found)
    assert records.read(path) == found


def test_variants_are_compared_with_the_unfused_one(found: list[Record]) -> None:
    for record in found:
        fused = [len(values) for values in record["blocks"].values()]
        assert len(set(fused)) == 1
        if record["variant"] == UNFUSED:
            assert fused[0] == 0
            assert record["speedup"] == {"median": 1.0, "p10": 1.0, "p90": 1.0}
            assert record["disagreement"] == 0
        if record["variant"] == WHOLE:
            assert fused[0] > 0
            assert set(record["blocks"]["planner"]) <= {YES, PARTLY, NO}
            assert record["scratch_bytes"] > 0
        if record["variant"] == PLANNER:
            assert set(record["blocks"]["planner"]) <= {YES}


def test_blocks_are_their_layers(found: list[Record]) -> None:
    for record in found:
        columns = record["blocks"]
        alone, together, ratios = (columns[name] for name in ("unfused_ns", "fused_ns", "ratio"))
        for layers, ratio, low, high in zip(columns["layers"], ratios, columns["p10"], columns["p90"], strict=True):
            assert len(layers) >= 2
            assert low <= ratio <= high
        assert all(value > 0 for value in (*alone, *together, *columns["predicted_ratio"]))
        assert sum(together) / 1e6 < 1.5 * record["layers_ms"]


# ---- the measurement ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.prepare(NETWORKS[0], BATCHES[0], environment.machine(), 32)


def test_steps_are_parts_of_calls(subject: Subject) -> None:
    told: list[int] = []
    threads = (1, 2)[: environment.machine().cores]
    protocol = Protocol(seconds=0.01, least_rounds=2, least_calls=1, burst_s=0.002)
    measured = fusion_network.in_turns(subject, threads, protocol, float, lambda rounds, share: told.append(rounds))
    assert list(measured) == list(threads)
    assert told[:2] == [1, 2]
    for count, one in measured.items():
        assert one.peaks == [float(count)] * len(told)
        for variant, runs in one.runs.items():
            calls, layers = one.calls[variant], runs.timing()
            assert [len(samples) for samples in layers.rounds] == [len(samples) for samples in calls.rounds]
            pairs = zip(layers.samples_ns, calls.samples_ns, strict=True)
            assert all(0 < inside <= whole for inside, whole in pairs)
            steps = [step.name for step in subject.programs[variant].plan.steps]
            parts = [runs.timing([step]).samples_ns for step in steps]
            np.testing.assert_allclose(np.sum(parts, axis=0), layers.samples_ns)


def test_workspace_is_that_of_the_plan_and_of_all_threads(subject: Subject) -> None:
    for variant, program in subject.programs.items():
        arena, one = subject.workspace_bytes(variant, 1)
        assert arena == program.plan.arena_bytes
        assert subject.workspace_bytes(variant, 3) == (arena, 3 * one)
        assert one >= program.scratch_bytes
    fused = [step.spec for step in subject.programs[WHOLE].plan.steps if isinstance(step.spec, BlockSpec)]
    assert fused
    assert subject.workspace_bytes(WHOLE, 1)[1] > 0


def test_results_that_differ_are_an_error(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    assert subject.disagreement(1)[WHOLE] <= 1e-5
    program = subject.programs[WHOLE]
    monkeypatch.setattr(program, "run", lambda inputs, threads: [np.ones((1, 1000), np.float32)])
    with pytest.raises(Error, match="whole blocks and unfused disagree by"):
        subject.disagreement(1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"threads": [999]}, "999 threads on"), ({"network": "convnet"}, "no network"), ({"image_size": 8}, "at least")],
)
def test_mistakes(changes: dict, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        run(**changes)


# ---- tables and figure ----------------------------------------------------------------------------------------------
def test_tables_have_every_block_and_network(found: list[Record]) -> None:
    made = {table.title: table for table in tables(found)}
    for name in NETWORKS:
        table = made[f"Whole blocks of {name}, fused"]
        assert table.headings == ["block", "layers", *(f"batch {batch}, 1 thread" for batch in BATCHES)]
        whole = [record for record in found if (record["model"], record["variant"]) == (name, WHOLE)]
        assert len(table.rows) == len({each for record in whole for each in record["blocks"]["name"]})
        means = [f"{geometric_mean(record['blocks']['ratio']):.2f}" for record in whole]
        assert table.totals[0] == ["geometric mean", "", *means]
    for table in made.values():
        assert all(len(row) == len(table.columns) for row in (*table.rows, *table.totals))
    assert len(made["Workspace in MB"].rows) == len(made["Whole networks"].rows) == 2
    everything = made["All blocks: time of their layers one after the other / time of the block"]
    ratios = [ratio for record in found if record["variant"] == WHOLE for ratio in record["blocks"]["ratio"]]
    assert everything.totals[0][2:5] == ["whole blocks", str(len(ratios)), f"{geometric_mean(ratios):.2f}"]
    assert everything.totals[0][5] == f"{min(ratios):.2f}"
    text = "\n".join(table.to_text() for table in made.values())
    assert "approximately 4 times as fast" in text
    assert text.count("whatever they cost") == 1


def test_workspace_counts_the_memory_of_threads(found: list[Record]) -> None:
    (table,) = (table for table in tables(found) if table.title == "Workspace in MB")
    record = {each["variant"]: each for each in found if (each["model"], each["batch"]) == (NETWORKS[0], BATCHES[0])}
    sizes = {name: each["arena_bytes"] + each["scratch_bytes"] for name, each in record.items()}
    ratios = [f"{sizes[UNFUSED] / sizes[name]:.2f}" for name in (PLANNER, WHOLE)]
    assert table.rows[0][-2:] == ratios


def test_kinds_are_blocks_that_are_alike(found: list[Record]) -> None:
    (record,) = [r for r in found if (r["model"], r["batch"], r["variant"]) == (NETWORKS[0], BATCHES[0], WHOLE)]
    columns = {name: [*values[:1]] * 3 for name, values in record["blocks"].items()} | {"ratio": [0.5, 2.0, 1.0]}
    made = [{**record, "blocks": columns}]
    made += [
        r
        for r in found
        if (r["model"], r["batch"], r["variant"])
        in {(NETWORKS[0], BATCHES[0], UNFUSED), (NETWORKS[0], BATCHES[0], PLANNER)}
    ]
    (table,) = (table for table in tables(made) if table.title.startswith("All blocks"))
    assert table.rows[0][2:-1] == ["whole blocks", "3", "1.00", "0.50", "1", "1.00"]
    at_peak = columns["flops"][0] / record["peak_flops_per_s"] * 1e9
    assert table.rows[0][-1] == f"{columns['unfused_ns'][0] / at_peak:.2f}"
    # A record of before does not have the blocks' operations.
    without = {name: values for name, values in columns.items() if name != "flops"}
    (table,) = (table for table in tables([{**made[0], "blocks": without}, *made[1:]]) if table.title.startswith("All"))
    assert table.rows[0][2:] == ["whole blocks", "3", "1.00", "0.50", "1", "1.00", ""]


def test_the_figure_has_every_network_and_batch(found: list[Record]) -> None:
    drawing = experiment_figures.figure(found)
    assert drawing is not None
    svg = drawing.svg()
    for name in NETWORKS:
        for batch in BATCHES:
            assert f"{name}, batch {batch}" in svg
