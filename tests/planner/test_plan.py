"""Plans are data: they can be written down, and made for machines that are not here."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from enum import StrEnum

import numpy as np
import pytest

from planner.networks import RELU, Building, zoo
from waterline.algorithms import REGISTRY
from waterline.errors import InvalidArgument, Refused
from waterline.graph import Graph
from waterline.graph.ops import Pad, Unary
from waterline.machine import CATALOGUE
from waterline.planner import Plan, PlanOptions, codec, plan
from waterline.planner.choice import choose
from waterline.spec import Activation, ConvSpec

MACHINE = CATALOGUE[0]
SPECS = [
    ConvSpec(1, 32, 9, 9, 32, 3, 3, pad=(1, 1, 1, 1)),
    ConvSpec(1, 32, 9, 9, 32, 1, 1),
    ConvSpec(1, 32, 9, 9, 32, 3, 3, pad=(1, 1, 1, 1), groups=32),
    ConvSpec(1, 32, 9, 9, 32, 3, 3, pad=(1, 1, 1, 1), groups=4),
]
NETWORKS = ["resnet18", "mobilenet_v3_large", "convnext_tiny", "googlenet", "shufflenet_v2_x1_0", "regnet_y_400mf"]


def one_conv(size: int = 3) -> Graph:
    b = Building(x=(1, 8, 6, 6))
    b.conv("y", "x", 8, 8, size)
    return b.graph("y")


# ---- JSON -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NETWORKS)
def test_a_plan_reads_back_as_it_was_written(name: str):
    made = plan(zoo(name), MACHINE)
    text = made.to_json()
    again = Plan.from_json(text)
    for field in fields(Plan):
        assert getattr(again, field.name) == getattr(made, field.name), field.name
    assert again == made
    assert again.to_json() == text


def test_numbers_that_json_does_not_have():
    b = Building(x=(1, 2, 3, 3))
    b.add("padded", Pad((0, 0, 1, 1), (0, 0, 1, 1), "constant", float("-inf")), "x")
    b.add("y", Unary(Activation("clip", (0.0, float("inf")))), "padded")
    made = plan(b.graph("y"), MACHINE)
    assert Plan.from_json(made.to_json()) == made
    json.loads(made.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "1",
        '"plan"',
        "{}",
        '{"$": "Plan"}',
        '{"$": "Nothing"}',
        '{"$": "Epilogue", "bias": true}',
        '{"$": "float", "value": "x"}',
        '{"$": ["Plan"]}',
        "[" * 100_000,
    ],
)
def test_what_is_no_plan(text: str):
    with pytest.raises(InvalidArgument, match="not a plan"):
        Plan.from_json(text)


def test_plans_of_other_versions_are_refused():
    text = replace(plan(one_conv(), MACHINE), version=999).to_json()
    with pytest.raises(InvalidArgument, match="version"):
        Plan.from_json(text)


# ---- purity ---------------------------------------------------------------------------------------------------------
def test_planning_looks_at_nothing_around_it(monkeypatch: pytest.MonkeyPatch):
    """No file, no environment variable, no process: what decides is in the arguments."""
    graphs = [zoo("resnet18"), zoo("mobilenet_v2")]

    def forbidden(*arguments: object, **named: object) -> None:
        raise AssertionError(f"planning looked around: {arguments} {named}")

    monkeypatch.setattr(sys.modules["waterline.machine.detect"], "detect", forbidden)
    monkeypatch.setattr(builtins, "open", forbidden)
    monkeypatch.setattr(os, "getenv", forbidden)
    monkeypatch.setattr(os, "cpu_count", forbidden)
    monkeypatch.setattr(os, "sched_getaffinity", forbidden, raising=False)
    monkeypatch.setattr(subprocess, "Popen", forbidden)
    monkeypatch.setattr(type(os.environ), "__getitem__", forbidden)
    made = [plan(graph, machine) for graph in graphs for machine in CATALOGUE]
    monkeypatch.undo()
    assert [p.machine for p in made] == [m.name for m in CATALOGUE] * 2


@pytest.mark.parametrize("machine", CATALOGUE, ids=lambda m: m.name)
def test_the_same_arguments_give_the_same_plan(machine):
    assert plan(zoo("squeezenet1_1"), machine) == plan(zoo("squeezenet1_1"), machine)


@pytest.mark.parametrize(("few", "many", "fuses"), [(1, 8, False), (2, 8, True)])
def test_the_batch_changes_no_choice_and_no_kernel(few: int, many: int, fuses: bool):
    """Kernels, configs and packed weights of one image serve any number of them; blocks those of two any more."""
    graph = zoo("resnet18")
    options = PlanOptions(block_fusion=fuses)
    one, eight = (plan(graph.with_shapes({"input": (n, 3, 224, 224)}), MACHINE, options) for n in (few, many))
    assert [(s.name, s.algorithm, s.config) for s in one.steps] == [
        (s.name, s.algorithm, s.config) for s in eight.steps
    ]
    assert eight.flops * few == one.flops * many


def test_the_graph_is_left_as_it_was():
    graph = zoo("squeezenet1_1")
    before = (list(graph.nodes), dict(graph.shapes), list(graph.constants))
    plan(graph, MACHINE)
    assert before == (graph.nodes, graph.shapes, list(graph.constants))


# ---- options --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("algorithm", REGISTRY, ids=lambda a: a.name)
def test_only_allowed_algorithms_are_chosen(algorithm):
    spec = next(spec for spec in SPECS if algorithm.refuse(spec, MACHINE) is None)
    choice = choose(spec, MACHINE, (algorithm.name,))
    assert choice.algorithm is algorithm
    chosen = [c for c in choice.candidates if c.seconds is not None]
    assert all(c.algorithm.partition(":")[0] == algorithm.name for c in chosen)
    assert {c.algorithm.partition(":")[0] for c in choice.candidates} == {a.name for a in REGISTRY}


def test_a_layer_that_nobody_serves_is_refused_with_every_reason():
    with pytest.raises(
        Refused, match=r"y \(n1_c8_h6.*direct_gemm: it computes 1x1.*depthwise: it computes one channel"
    ):
        plan(one_conv(), MACHINE, PlanOptions(algorithms=("direct_gemm", "depthwise")))


def test_candidates_are_ranked_and_the_first_is_chosen():
    for step in plan(zoo("googlenet"), MACHINE, PlanOptions(block_fusion=False)).steps:
        if step.spec is None:
            assert (step.algorithm, step.candidates, step.config) == ("", (), None)
            continue
        seconds = [c.seconds for c in step.candidates if c.seconds is not None]
        assert seconds == sorted(seconds)
        assert step.candidates[0].algorithm.partition(":")[0] == step.algorithm.partition(":")[0]
        assert all(c.refusal for c in step.candidates if c.seconds is None)


def test_strict_accuracy_takes_nothing_less_accurate_than_direct_summation():
    strict = plan(zoo("resnet18"), MACHINE, PlanOptions(accuracy="strict"))
    assert not [s.kind for s in strict.steps if s.kind in ("winograd:f4x4", "winograd:f6x6")]


# ---- counts ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "gflop"), [("resnet50", 8.18), ("mobilenet_v2", 0.60), ("squeezenet1_1", 0.70)])
def test_operations_of_networks(name: str, gflop: float):
    assert plan(zoo(name), MACHINE).flops / 1e9 == pytest.approx(gflop, rel=0.01)


def test_kinds_name_algorithms_or_operations():
    b = Building(x=(1, 8, 6, 6))
    b.add("y", RELU, b.conv("a", "x", 8, 8))
    made = plan(b.graph("y"), MACHINE, PlanOptions(block_fusion=False))
    assert [s.kind for s in made.steps if s.name in ("a", "y")] == ["direct_gemm", "relu"]


def test_an_empty_batch_can_be_planned():
    made = plan(one_conv().with_shapes({"x": (0, 8, 6, 6)}), MACHINE)
    assert made.outputs == (("y", (0, 8, 6, 6)),)
    assert made.flops == 0


def test_plans_hold_no_arrays():
    text = plan(zoo("squeezenet1_1"), MACHINE).to_json()
    assert len(text) < 500_000
    assert "ndarray" not in text
    assert not any(isinstance(v, np.ndarray) for step in plan(one_conv(), MACHINE).steps for v in vars(step).values())


# ---- the codec ------------------------------------------------------------------------------------------------------
class Rank(StrEnum):
    FIRST = "first"


class Hidden(StrEnum):
    SECOND = "second"


@dataclass(frozen=True)
class Config:
    declared: Rank
    text: str


def test_enumerations_read_back() -> None:
    codec.register(Config)
    value = Config(Rank.FIRST, Hidden.SECOND)
    again = codec.decode(json.loads(json.dumps(codec.encode(value))))
    assert again == value
    assert again.declared is Rank.FIRST
    assert type(again.text) is str
    with pytest.raises(ValueError):
        codec.decode({"$": "Rank", "value": "third"})
