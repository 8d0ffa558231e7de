"""`workspace_bytes`: other algorithms are taken before anything is refused, and the reasons have the numbers."""

from __future__ import annotations

import re

import pytest

from planner.networks import Building, zoo
from waterline.errors import InvalidArgument, Refused
from waterline.graph import Graph
from waterline.machine import CATALOGUE
from waterline.planner import Measurements, Plan, PlanOptions, Timing, plan
from waterline.planner.choice import Choice, choose
from waterline.planner.limit import Rooms, alive_bytes, culprit
from waterline.planner.measurements import layer_key
from waterline.planner.memory import Lifetime
from waterline.spec import ConvSpec

MACHINE = CATALOGUE[3]
IM2COL = PlanOptions(algorithms=("im2col", "naive"))


def two_layers() -> Graph:
    """Two 3x3 layers at stride 2, which im2col computes through a workspace."""
    b = Building(x=(1, 32, 24, 24))
    b.conv("a", "x", 32, 32, 3, stride=(2, 2))
    b.conv("y", "a", 32, 32, 3, stride=(2, 2))
    return b.graph("y")


def limited(graph: Graph, limit: int, *algorithms: str) -> Plan:
    return plan(graph, MACHINE, PlanOptions(algorithms=algorithms, workspace_bytes=limit, block_fusion=False))


def kinds(made: Plan) -> list[str]:
    return [step.kind for step in made.steps if step.spec is not None]


def test_a_limit_that_is_large_enough_changes_nothing() -> None:
    graph = zoo("resnet18")
    free = plan(graph, MACHINE)
    made = plan(graph, MACHINE, PlanOptions(workspace_bytes=free.arena_bytes))
    assert [(s.kind, s.config, s.workspaces) for s in made.steps] == [
        (s.kind, s.config, s.workspaces) for s in free.steps
    ]
    assert made.arena_bytes == free.arena_bytes


def test_another_algorithm_is_taken_where_workspaces_do_not_fit() -> None:
    graph = two_layers()
    free = plan(graph, MACHINE, IM2COL)
    assert kinds(free) == ["im2col", "im2col"]
    made = limited(graph, free.arena_bytes - 1, "im2col", "naive")
    assert made.arena_bytes < free.arena_bytes
    assert kinds(made) == ["naive", "im2col"]  # the larger of the two, and no more than needed
    refusals = {c.algorithm: c.refusal for s in made.steps for c in s.candidates if s.name == "a" and c.refusal}
    assert re.search(rf"workspaces.*\d+.*{free.arena_bytes - 1}", refusals["im2col"])


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "mobilenet_v2"])
def test_every_limit_is_kept_down_to_the_tensors_alone(name: str) -> None:
    graph = zoo(name)
    least = plan(graph, MACHINE, PlanOptions(("naive",))).arena_bytes  # which needs no workspaces
    most = plan(graph, MACHINE, PlanOptions(block_fusion=False)).arena_bytes
    assert least <= most
    for limit in {least, least + 64, (least + most) // 2, most}:
        assert limited(graph, limit).arena_bytes <= limit
    with pytest.raises(InvalidArgument, match=rf"needs {least} bytes.*allows {least - 1}") as caught:
        limited(graph, least - 1)
    assert "batch" in caught.value.hint


def test_an_algorithm_that_needs_more_than_there_is_names_the_numbers() -> None:
    graph = two_layers()
    needed = plan(graph, MACHINE, PlanOptions(algorithms=("im2col",))).arena_bytes
    with pytest.raises(Refused, match=rf"a \(n1_c32.*im2col: .*workspaces.*{needed - 1}") as caught:
        limited(graph, needed - 1, "im2col")
    assert "workspace_bytes" in caught.value.hint


def test_of_a_variant_the_first_config_that_fits_is_taken() -> None:
    """One blocking may need workspaces where the next does without."""
    spec = ConvSpec(1, 256, 14, 14, 256, 3, 3, pad=(1, 1, 1, 1))
    free = choose(spec, MACHINE, ("winograd:f4x4",))
    bound = choose(
        spec, MACHINE, ("winograd:f4x4",), memory=lambda _, config: "too large" if config == free.config else ""
    )
    assert bound.algorithm is free.algorithm
    assert bound.candidates[0].algorithm == free.candidates[0].algorithm == "winograd:f4x4"
    assert _place(bound.config, spec, free) > _place(free.config, spec, free)
    assert [c.refusal for c in bound.candidates if c.config == free.config] == ["too large"]


def _place(config: object, spec: ConvSpec, choice: Choice) -> int:
    return choice.algorithm.configs(spec, MACHINE).index(config)


def test_a_measured_candidate_that_does_not_fit_is_passed_over() -> None:
    graph = two_layers()
    free = plan(graph, MACHINE, IM2COL)
    first = next(step for step in free.steps if step.spec is not None)
    assert first.spec is not None
    naive = next(c for c in first.candidates if c.algorithm == "naive")
    key = layer_key(first.spec, IM2COL.algorithms)
    table = Measurements({key: (Timing("im2col", first.config, 1e-6), Timing("naive", naive.config, 2e-6))})
    tight = PlanOptions(IM2COL.algorithms, workspace_bytes=free.arena_bytes - 1)
    assert kinds(plan(graph, MACHINE, IM2COL, table)) == ["im2col", "im2col"]
    made = plan(graph, MACHINE, tight, table)
    assert kinds(made) == ["naive", "im2col"]
    chosen = next(step for step in made.steps if step.spec is not None).candidates[0]
    assert chosen.measured_seconds == 2e-6


# ---- the parts ------------------------------------------------------------------------------------------------------
def test_what_is_alive() -> None:
    tensors = [Lifetime("a", 100, 0, 1), Lifetime("b", 64, 1, 2), Lifetime("c", 1, 2, 3)]
    assert alive_bytes(tensors, 4) == [128, 192, 128, 64]


def test_rooms() -> None:
    rooms = Rooms(1000, [900, 100])
    assert "128" in rooms.refusal(0, {"v": 65})
    assert "900" in rooms.refusal(0, {"v": 65})
    assert rooms.refusal(1, {"v": 65}) == ""
    assert Rooms(10, [900]).refusal(0, {}) == ""  # no other algorithm would need less
    rooms.give_up(1, {"v": 65})
    assert "128" in rooms.refusal(1, {"v": 65})
    assert rooms.refusal(1, {"v": 64}) == ""


def test_workspaces_are_given_up_where_memory_lies_too_high() -> None:
    items = [Lifetime("t", 64, 0, 0), Lifetime("workspace:0:v", 640, 0, 0), Lifetime("workspace:1:v", 64, 1, 1)]
    offsets = {"t": 0, "workspace:0:v": 0, "workspace:1:v": 960}
    sizes = [{"v": 640}, {"v": 64}, {}]
    assert culprit(items, offsets, 1000, sizes) == 1
    assert culprit(items, offsets, 10_000, sizes) == 0
    assert culprit(items[:1], offsets, 0, [{}, {}]) is None
