"""An `Analysis` of a plan, for any machine, and of a report: what is in it, and what adds up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from planner.networks import zoo

import waterline
from analysis.networks import ALONE, bottleneck, of_zoo
from waterline.algorithms.operator_cost import PASSES
from waterline.analysis import of_plan, of_report
from waterline.analysis.prediction import Predictor, with_threads
from waterline.errors import InvalidArgument
from waterline.graph.ops import Pool
from waterline.machine import CATALOGUE, Bandwidth, Machine
from waterline.planner import plan
from waterline.runtime.profile import Report

MACHINE = CATALOGUE[0]
MEASURED = replace(
    MACHINE,
    cores=8,
    peak_flops_per_s=200e9,
    peak_all_flops_per_s=1.2e12,
    bandwidth=Bandwidth(l2=100e9, l3=25e9, dram=12e9, dram_all=60e9),
)


# ---- from a plan ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "convnext_tiny"])
@pytest.mark.parametrize("machine", CATALOGUE, ids=lambda machine: machine.name)
def test_any_machine_from_a_plan_alone(machine: Machine, name: str):
    made = plan(zoo(name, 64), machine, ALONE)
    analysis = of_plan(made, machine)
    assert not analysis.is_measured
    assert analysis.threads == machine.cores
    assert len(analysis.layers) == len(made.steps)
    assert analysis.flops == made.flops
    assert analysis.time_ns == pytest.approx(sum(layer.time_ns for layer in analysis.layers))
    assert analysis.causes.time_ns == pytest.approx(analysis.time_ns)
    assert 0 < analysis.waterline <= analysis.fused_waterline <= 1 + 1e-9
    assert analysis.computational_efficiency > 0
    for layer, step in zip(analysis.layers, made.steps, strict=True):
        assert layer.time_ns == layer.predicted_ns > 0
        assert layer.causes.time_ns == pytest.approx(layer.time_ns)
        assert layer.effective_efficiency <= 1 + 1e-9
        assert (layer.flops > 0) == (layer.executed_flops > 0) == (step.spec is not None)
        assert len(layer.alternatives) == max(0, len(step.candidates) - 1)
        assert layer.reason
    for number, block in enumerate(analysis.blocks):
        layers = [analysis.layers[i] for i in block.layers]
        assert {layer.block for layer in layers} == {number}
        assert block.flops == sum(layer.flops for layer in layers)
        assert block.bytes == sum(layer.bytes for layer in layers)
        assert block.bound_ns == pytest.approx(sum(layer.bound_ns for layer in layers))
        assert block.time_ns == pytest.approx(sum(layer.time_ns for layer in layers))
    assert len({block.name for block in analysis.blocks}) == len(analysis.blocks)


def test_convolutions_are_predicted_as_the_planner_does():
    made = plan(zoo("resnet18", 64), MACHINE, ALONE)
    predict = Predictor(made, MACHINE, MACHINE.cores)
    fixed = predict(made.steps[-1]).time_ns - 1e9 * (made.steps[-1].candidates[0].seconds or 0)
    assert 0 < fixed < 1e4
    for step in made.steps:
        if step.spec is not None:
            assert predict(step).time_ns == pytest.approx(fixed + 1e9 * (step.candidates[0].seconds or 0))


def test_fast_algorithms_execute_fewer_operations():
    analysis = of_zoo("resnet18", MACHINE, 224)
    fast = [layer for layer in analysis.layers if layer.algorithm.startswith("winograd")]
    assert fast
    for layer in fast:
        assert layer.executed_flops < layer.flops
    for layer in analysis.layers:
        if layer.algorithm in ("indirect", "direct_gemm"):
            assert layer.flops <= layer.executed_flops * (1 + 1e-9) < 2 * layer.flops


def test_batch():
    one, many = of_zoo("resnet18", MACHINE, 64, 1), of_zoo("resnet18", MACHINE, 64, 8)
    assert (one.batch, many.batch) == (1, 8)
    assert many.flops == 8 * one.flops
    assert many.executed_flops == pytest.approx(8 * one.executed_flops)
    assert one.time_ns < many.time_ns < 8 * one.time_ns  # weights are read once


def test_fewer_threads_take_longer_and_at_most_as_many_times():
    made = plan(zoo("resnet18", 64), MEASURED, ALONE)
    times = [of_plan(made, MEASURED, threads).time_ns for threads in (1, 2, 4, 8)]
    assert times == sorted(times, reverse=True)
    assert times[0] < 9 * times[-1]
    assert of_plan(made, MEASURED, 2).peak_flops_per_s == MEASURED.peak(2)


def test_a_machine_of_fewer_threads_has_their_rates():
    for threads in range(1, 9):
        few = with_threads(MEASURED, threads)
        assert few.cores == threads
        assert few.peak(threads) == pytest.approx(MEASURED.peak(threads))
        for level in ("l2", "l3", "dram"):
            assert few.bytes_per_s(level, threads) == pytest.approx(MEASURED.bytes_per_s(level, threads))
    assert with_threads(MEASURED, 99) is MEASURED


def test_an_operator_takes_its_bytes_at_the_bandwidth_of_the_level():
    small, large = (plan(zoo("resnet18", size), MEASURED, ALONE) for size in (64, 512))
    for made, level in ((small, "l2"), (large, "l3")):
        step = next(each for each in made.steps if isinstance(each.op, Pool))
        moved = 4 * (step.inputs[0].view.elems + step.outputs[0].view.elems)
        expected = PASSES.get(Pool, 1.0) * 1e9 * moved / MEASURED.bytes_per_s(level, 8)
        assert expected < Predictor(made, MEASURED, 8)(step).time_ns < expected + 1e4


def test_reasons():
    analysis = of_zoo("resnet18", MACHINE)
    by_name = {layer.name: layer for layer in analysis.layers}
    assert "operator" in by_name["bn1.relu.pool"].reason
    conv = by_name["layer1.0.conv1"]
    best = min((other for other in conv.alternatives if other.seconds is not None), key=lambda other: other.seconds)
    assert conv.reason.startswith("the least predicted time")
    assert conv.reason.endswith(f"of {best.algorithm}")
    refused = [other for other in conv.alternatives if other.seconds is None]
    assert refused
    assert all(other.refusal for other in refused)


def test_reasons_of_measured_choices():
    made = plan(bottleneck(16, 8, 8), MACHINE, ALONE)
    i, step = next((i, step) for i, step in enumerate(made.steps) if len(step.candidates) > 1)
    chosen, *others = step.candidates
    candidates = (replace(chosen, measured_seconds=5e-6), replace(others[0], measured_seconds=7e-6), *others[1:])
    steps = [*made.steps]
    steps[i] = replace(step, candidates=candidates)
    layer = of_plan(replace(made, steps=tuple(steps)), MACHINE).layers[i]
    assert layer.reason == "the fastest of 2 that were measured: 5.0 us"
    assert layer.alternatives[0].measured_seconds == 7e-6


def test_mistakes():
    made = plan(bottleneck(16, 8, 8), MACHINE, ALONE)
    with pytest.raises(InvalidArgument, match="the plan is for"):
        of_plan(made, CATALOGUE[1])
    for threads in (0, MACHINE.cores + 1):
        with pytest.raises(InvalidArgument, match=f"{threads} threads"):
            of_plan(made, MACHINE, threads)


# ---- from a report --------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def net() -> waterline.CompiledNetwork:
    return waterline.compile(zoo("resnet18", 32), num_threads=1, options={"algorithms": ["winograd", "indirect"]})


@pytest.fixture(scope="module")
def report(net: waterline.CompiledNetwork) -> Report:
    return net.profile(np.zeros((1, 3, 32, 32), np.float32), seconds=0.02)


def test_a_measured_analysis_has_the_rows_of_the_report(net: waterline.CompiledNetwork, report: Report):
    analysis = of_report(net.plan, net._engine.rates, report)
    assert analysis.is_measured
    assert (analysis.network, analysis.machine, analysis.threads) == (report.network, report.machine, report.threads)
    assert analysis.peak_flops_per_s == report.peak_flops_per_s
    assert analysis.bytes_per_s["dram"] == report.bytes_per_s
    for layer, row in zip(analysis.layers, report.rows, strict=True):
        for name in ("name", "shape", "algorithm", "flops", "bytes", "bound_ns", "time_ns"):
            assert getattr(layer, name) == getattr(row, name), name
        assert layer.computational_efficiency == pytest.approx(row.computational_efficiency)
        assert layer.operational_intensity == pytest.approx(row.operational_intensity)
        assert [(p.name, p.time_ns, p.bound_ns) for p in layer.phases] == [
            (p.name, p.time_ns, p.bound_ns) for p in row.phases
        ]
        assert layer.causes.time_ns == pytest.approx(row.time_ns)
    totals = report.totals
    assert analysis.time_ns == totals["time_ns"]
    assert analysis.waterline == pytest.approx(totals["waterline"])
    assert analysis.computational_efficiency == pytest.approx(totals["computational_efficiency"])
    assert any(layer.phases for layer in analysis.layers)


def test_a_measured_analysis_has_the_same_bounds_as_a_predicted_one(net: waterline.CompiledNetwork, report: Report):
    measured, planned = of_report(net.plan, net._engine.rates, report), net.analyse()
    assert not planned.is_measured
    assert [layer.bound_ns for layer in measured.layers] == [layer.bound_ns for layer in planned.layers]
    assert [layer.predicted_ns for layer in measured.layers] == [layer.time_ns for layer in planned.layers]
    assert [block.fused_bound_ns for block in measured.blocks] == [block.fused_bound_ns for block in planned.blocks]


def test_reports_of_something_else(net: waterline.CompiledNetwork, report: Report):
    other = plan(bottleneck(16, 8, 8), net._engine.rates, ALONE)
    with pytest.raises(InvalidArgument, match="is not one of this plan"):
        of_report(other, net._engine.rates, report)
    with pytest.raises(InvalidArgument, match="is not one of this plan"):
        of_report(net.plan, net._engine.rates, replace(report, machine="another"))
