"""`explain`, `profile`, `plan`: what a compiled network tells about itself."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
import torch

import waterline
from waterline import CompiledNetwork, InvalidArgument, Plan, Report

from .networks import graph, image, module

ROW = {
    "name",
    "shape",
    "algorithm",
    "time_ns",
    "flops",
    "bytes",
    "operational_intensity",
    "effective_flops_per_s",
    "computational_efficiency",
    "bound_ns",
    "phases",
}


@pytest.fixture(scope="module")
def net() -> CompiledNetwork:
    return waterline.compile(module(), torch.from_numpy(image()), num_threads=1)


@pytest.fixture(scope="module")
def report(net: CompiledNetwork) -> Report:
    return net.profile(torch.from_numpy(image()), seconds=0.05)


# ---- the report -------------------------------------------------------------------------------------------------
def test_one_row_a_step(net: CompiledNetwork, report: Report) -> None:
    rows = report.to_dict()["rows"]
    assert [row["name"] for row in rows] == [step.name for step in net.plan.steps]
    for row in rows:
        assert set(row) == ROW


def test_the_figures_follow_from_each_other(report: Report) -> None:
    facts = report.to_dict()
    peak = facts["peak_flops_per_s"]
    layers = [row for row in facts["rows"] if row["flops"]]
    assert layers
    for row in layers:
        assert row["operational_intensity"] == pytest.approx(row["flops"] / row["bytes"])
        assert row["effective_flops_per_s"] == pytest.approx(row["flops"] / row["time_ns"] * 1e9)
        assert row["computational_efficiency"] == pytest.approx(row["effective_flops_per_s"] / peak)
        assert row["bound_ns"] >= row["flops"] / peak * 1e9 * (1 - 1e-9)
    totals = facts["totals"]
    assert totals["flops"] == sum(row["flops"] for row in facts["rows"])
    assert totals["bound_ns"] == pytest.approx(sum(row["bound_ns"] for row in facts["rows"]))
    assert totals["waterline"] == pytest.approx(totals["flops"] / (peak * totals["bound_ns"] / 1e9))
    assert 0 < totals["waterline"] <= 1


def test_operations_are_the_direct_algorithms(net: CompiledNetwork, report: Report) -> None:
    stem = next(layer for step in net.plan.steps for layer in step.layers if layer.spec is not None)
    assert stem.spec.flops == 2 * 16 * 6 * 5 * 3 * 9  # outputs of the first convolution times its filters' elements
    for row, step in zip(report.to_dict()["rows"], net.plan.steps, strict=True):
        assert row["flops"] == sum(layer.spec.flops for layer in step.layers if layer.spec is not None)
    assert report.totals["flops"] == net.plan.flops


def test_written_forms_agree(report: Report) -> None:
    facts = report.to_dict()
    assert json.loads(report.to_json()) == facts
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert [row["name"] for row in rows] == [row["name"] for row in facts["rows"]]
    assert [float(row["time_ns"]) for row in rows] == [row["time_ns"] for row in facts["rows"]]
    for text in (report.to_markdown(), str(report)):
        for row in facts["rows"]:
            assert row["name"] in text
    assert report.to_markdown(phases=False).count("\n") == len(facts["rows"]) + 2


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), "1", None, True])
def test_seconds_must_be_positive(net: CompiledNetwork, seconds: Any) -> None:
    with pytest.raises(InvalidArgument, match="seconds"):
        net.profile(torch.from_numpy(image()), seconds=seconds)


def test_profile_takes_what_a_call_takes(net: CompiledNetwork) -> None:
    two = torch.from_numpy(image(2, 3, 12, 10))
    assert net.profile(two, seconds=0.01).totals["flops"] == 2 * net.plan.flops
    with pytest.raises(InvalidArgument, match="float64"):
        waterline.compile(graph()).profile(image().astype("float64"), seconds=0.01)


# ---- the plan ---------------------------------------------------------------------------------------------------
def test_plan_survives_json(net: CompiledNetwork) -> None:
    text = net.plan.to_json()
    assert Plan.from_json(text) == net.plan
    assert Plan.from_json(text).to_json() == text


@pytest.mark.parametrize("text", ["", "{}", "[]", "3", '{"$": "Plan"}', '{"$": "Nothing"}', "no json"])
def test_text_that_is_no_plan(text: str) -> None:
    with pytest.raises(InvalidArgument, match="not a plan"):
        Plan.from_json(text)


def test_the_plan_is_that_of_the_shapes_compiled_for(net: CompiledNetwork) -> None:
    before = net.plan
    net(torch.from_numpy(image(3, 3, 12, 10)))
    assert net.plan is before
    assert dict(before.inputs).popitem()[1] == (1, 3, 12, 10)


# ---- explain ----------------------------------------------------------------------------------------------------
def test_every_layer_and_every_algorithm_is_explained(net: CompiledNetwork) -> None:
    text = net.explain()
    for step in net.plan.steps:
        assert step.name in text
        if step.spec is None:
            continue
        told = text[text.index(f"{step.name}: {step.algorithm}") :]
        for name in waterline.algorithms():
            assert name in told
    assert "chosen" in text
    assert "predicted" in text
    assert "refused: it computes one channel a group" in text


def test_repr_tells_name_shape_and_threads(net: CompiledNetwork) -> None:
    assert "(1, 3, 12, 10)" in repr(net)
    assert "1 thread" in repr(net)
