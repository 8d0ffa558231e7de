"""Measured times in the planner: which candidates are worth measuring, and what a table of times decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.networks import Building, zoo
from waterline.graph import Graph
from waterline.machine import CATALOGUE, Machine
from waterline.planner import Measurements, Plan, PlanOptions, Timing, plan, tuning_tasks
from waterline.planner.choice import Offer, choose, offers
from waterline.planner.measurements import layer_key
from waterline.planner.tuning import MOST_CANDIDATES, WORTH_MEASURING, worth_measuring
from waterline.spec import Activation, ConvSpec, Epilogue

MACHINE = CATALOGUE[3]
SPEC = ConvSpec(1, 64, 28, 28, 64, 3, 3, pad=(1, 1, 1, 1))

ALONE = PlanOptions(block_fusion=False)


def equal_layers() -> Graph:
    """Three layers alike and one of another size."""
    b = Building(x=(1, 16, 10, 10))
    for name, x in (("a", "x"), ("b", "a"), ("c", "b")):
        b.conv(name, x, 16, 16, 3)
    b.conv("y", "c", 16, 24)
    return b.graph("y")


def slowest_first(spec: ConvSpec, options: PlanOptions | None = None) -> Measurements:
    """A table in which the candidate that costs most is the fastest."""
    options = options or PlanOptions()
    found = worth_measuring(offers(spec, MACHINE, options.algorithms, options.accuracy))
    timings = tuple(Timing(o.label, o.config, 1e-6 * (len(found) - i)) for i, o in enumerate(found))
    return Measurements({layer_key(spec, options.algorithms, options.accuracy): timings})


def alike(graph: Graph) -> ConvSpec:
    """The layer that three nodes of `equal_layers` have."""
    spec = next(step.spec for step in plan(graph, MACHINE, ALONE).steps if step.name == "a")
    assert spec is not None
    return spec


def layers(made: Plan) -> list[tuple[str, object]]:
    return [(step.kind, step.config) for step in made.steps if step.spec is not None]


# ---- keys -----------------------------------------------------------------------------------------------------------
def test_a_key_depends_on_the_layer_and_the_options_but_not_on_the_batch() -> None:
    relu = SPEC.with_epilogue(Epilogue(bias=True, after=Activation("relu")))
    keys = [
        layer_key(SPEC),
        layer_key(relu),
        layer_key(SPEC.with_epilogue(Epilogue(bias=True, after=Activation("clip", (0.0, 6.0))))),
        layer_key(replace(SPEC, h=27)),
        layer_key(SPEC, ("indirect",)),
        layer_key(SPEC, (), "fast"),
    ]
    assert len(set(keys)) == len(keys)
    assert layer_key(SPEC.with_batch(8)) == layer_key(SPEC)
    assert layer_key(SPEC, ("b", "a")) == layer_key(SPEC, ("a", "b", "a"))


# ---- what is measured -----------------------------------------------------------------------------------------------
def test_layers_that_are_alike_are_one_task() -> None:
    tasks = tuning_tasks(equal_layers(), MACHINE)
    assert [(task.name, task.count) for task in tasks] == [("a", 3), ("y", 1)]
    for task in tasks:
        assert task.key == layer_key(task.spec)
        assert 2 <= len(task.candidates) <= MOST_CANDIDATES
        assert task.weight > 0


def test_others_are_what_passes_the_caches_between_two_runs() -> None:
    first, last = tuning_tasks(equal_layers(), MACHINE)
    weights = {"a": 16 * 16 * 9 * 4, "y": 24 * 16 * 4}
    image = 10 * 10 * 4
    assert first.others_bytes == 2 * weights["a"] + weights["y"] + (16 + 24) * image
    assert last.others_bytes == 3 * weights["a"] + (16 + 16) * image


def test_a_network_of_one_layer_displaces_nothing() -> None:
    b = Building(x=(1, 16, 10, 10))
    b.conv("y", "x", 16, 16, 3)
    (task,) = tuning_tasks(b.graph("y"), MACHINE)
    assert task.others_bytes == 0


def test_the_batch_is_that_of_the_network() -> None:
    graph = equal_layers()
    assert {task.spec.n for task in tuning_tasks(graph.with_shapes({"x": (4, 16, 10, 10)}), MACHINE)} == {4}
    assert {task.spec.n for task in tuning_tasks(graph.with_shapes({"x": (0, 16, 10, 10)}), MACHINE)} == {1}


def test_every_variant_that_may_be_the_fastest_is_measured_and_blockings_too() -> None:
    ranked = offers(SPEC, MACHINE)
    chosen = worth_measuring(ranked)
    limit = WORTH_MEASURING * ranked[0].seconds
    assert {o.label for o in chosen} == {o.label for o in ranked if o.seconds <= limit}
    assert len({o.label for o in chosen}) < len(chosen) <= MOST_CANDIDATES
    assert list(chosen) == sorted(chosen, key=lambda o: o.seconds)
    assert max(o.seconds for o in chosen) <= limit
    assert chosen[0] == ranked[0]


def test_candidates_that_cost_far_more_are_not() -> None:
    def offer(label: int, seconds: float) -> Offer:
        return Offer(ranked[0].algorithm, replace(ranked[0].config, block_tiles=label), seconds)

    ranked = offers(SPEC, MACHINE)
    chosen = worth_measuring([offer(i, 1.0 + i) for i in range(20)])
    assert [o.seconds for o in chosen] == [1.0, 2.0]


@pytest.mark.parametrize("options", [PlanOptions(accuracy="strict"), PlanOptions(("im2col", "indirect"))])
def test_options_limit_what_is_measured(options: PlanOptions) -> None:
    allowed = {"im2col", "indirect"}
    for task in tuning_tasks(zoo("resnet18"), MACHINE, options):
        labels = {offer.label for offer in task.candidates}
        assert "winograd:f4x4" not in labels
        assert not options.algorithms or labels <= allowed
        assert options.accuracy in task.key


# ---- what a table decides -------------------------------------------------------------------------------------------
def test_the_fastest_measured_candidate_is_chosen() -> None:
    table = slowest_first(SPEC)
    timings = table.of(SPEC, (), "default")
    choice = choose(SPEC, MACHINE, timings=timings)
    assert (choice.candidates[0].algorithm, choice.config) == (timings[-1].label, timings[-1].config)
    assert choice.candidates[0].measured_seconds == timings[-1].seconds
    measured = [c.measured_seconds for c in choice.candidates if c.measured_seconds is not None]
    assert measured == sorted(measured)
    assert len(measured) == len(timings)
    assert all(c.seconds is not None for c in choice.candidates if c.measured_seconds is not None)
    untuned = choose(SPEC, MACHINE)
    missing = {c.algorithm for c in untuned.candidates} - {c.algorithm for c in choice.candidates}
    assert not missing  # those that were not measured, and the refused ones, are still told


def test_the_choice_does_not_depend_on_rates() -> None:
    """A new calibration changes costs, and with them perhaps the configs; a tuned layer stays as it is."""
    table = slowest_first(SPEC)
    other = replace(MACHINE, peak_flops_per_s=MACHINE.peak() / 3, clock_hz=MACHINE.clock_hz / 2)
    timings = table.of(SPEC, (), "default")
    assert choose(SPEC, other, timings=timings).config == choose(SPEC, MACHINE, timings=timings).config


def test_a_candidate_that_could_not_be_run_is_not_chosen() -> None:
    timings = slowest_first(SPEC).of(SPEC, (), "default")
    timings = (*timings[:-1], replace(timings[-1], seconds=None))
    assert choose(SPEC, MACHINE, timings=timings).config == timings[-2].config


def test_layers_without_times_are_chosen_by_cost() -> None:
    graph = equal_layers()
    by_cost = plan(graph, MACHINE, ALONE)
    spec = alike(graph)
    tuned = plan(graph, MACHINE, ALONE, slowest_first(spec))
    is_same = [a == b for a, b in zip(layers(by_cost), layers(tuned), strict=True)]
    assert is_same == [False, False, False, True]
    assert plan(graph, MACHINE, ALONE, Measurements()) == by_cost


def test_times_measured_under_other_options_do_not_count() -> None:
    graph = equal_layers()
    spec = alike(graph)
    strict = PlanOptions(accuracy="strict", block_fusion=False)
    assert plan(graph, MACHINE, strict, slowest_first(spec)) == plan(graph, MACHINE, strict)


@pytest.mark.parametrize("machine", [MACHINE, CATALOGUE[5]], ids=lambda m: m.name)
def test_the_batch_changes_no_tuned_choice(machine: Machine) -> None:
    graph = equal_layers()
    spec = alike(graph)
    table = slowest_first(spec)
    batch = graph.with_shapes({"x": (8, 16, 10, 10)})
    assert layers(plan(batch, machine, ALONE, table)) == layers(plan(graph, machine, ALONE, table))


def test_a_tuned_plan_reads_back_as_it_was_written() -> None:
    graph = equal_layers()
    spec = alike(graph)
    made = plan(graph, MACHINE, ALONE, slowest_first(spec))
    assert any(c.measured_seconds for step in made.steps for c in step.candidates)
    assert Plan.from_json(made.to_json()) == made
