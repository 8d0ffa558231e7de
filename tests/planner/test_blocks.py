"""`group_blocks`: what may become one kernel, that the cheapest cut is taken, and what plans and reports say of it."""

from __future__ import annotations

import itertools
import math
import re
import zlib
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from algorithms.block_networks import NETWORKS, bottleneck, conv_first, inverted_residual
from algorithms.blocks import PARTS, Net, block_steps, fused_plan, fusing, unfused_plan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import waterline
from planner.networks import zoo
from planner.test_random_graphs import Drawing
from waterline.algorithms.block_fusion import BLOCK_FUSION
from waterline.algorithms.block_fusion.model import BlockConfig
from waterline.algorithms.operator_cost import step_seconds
from waterline.api.explanation import explain
from waterline.errors import InvalidArgument, Refused
from waterline.graph import Graph
from waterline.graph.block import BlockSpec
from waterline.graph.ops import AdaptivePool, Concat
from waterline.graph.passes import simplify
from waterline.machine import CATALOGUE, Machine
from waterline.planner import Plan, PlanOptions, blocks, grouping, plan
from waterline.planner.lower import lower
from waterline.runtime import loader

every_machine = pytest.mark.parametrize("machine", CATALOGUE, ids=lambda m: m.name)
MACHINE = CATALOGUE[3]


def groups(made: Plan) -> list[list[str]]:
    return [[part.name for part in step.parts] for step in block_steps(made)]


# ---- borders --------------------------------------------------------------------------------------------------------
def chain(b: Net, count: int, c: int = 8) -> list[str]:
    x, names = "x", []
    for i in range(count):
        x = b.layer(x, c, name="abcdefgh"[i])
        names.append(x)
    return names


def test_a_chain_is_one_block():
    b = Net(x=(1, 8, 6, 6))
    graph = b.done(chain(b, 4)[-1])
    assert groups(fused_plan(graph, MACHINE)) == [["a", "b", "c", "d"]]
    (step,) = block_steps(fused_plan(graph, MACHINE))
    assert step.name == "a to d"
    assert step.spec.flops == sum(part.spec.flops for part in step.parts)
    assert fused_plan(graph, MACHINE).flops == unfused_plan(graph, MACHINE).flops


def test_an_output_of_the_network_ends_a_block():
    b = Net(x=(1, 8, 6, 6))
    names = chain(b, 4)
    assert groups(fused_plan(b.done(names[-1], names[1]), MACHINE)) == [["a", "b"], ["c", "d"]]


def test_what_is_read_elsewhere_ends_a_block():
    """The result of b goes into a sum that no block may hold, behind a mean over the image."""
    b = Net(x=(1, 8, 6, 6))
    names = chain(b, 4)
    mean = b.put("mean", AdaptivePool("average"), names[-1])
    made = fused_plan(b.done(b.binary("mul", names[1], mean)), MACHINE)
    assert groups(made) == [["a", "b"], ["c", "d"]]


def test_what_lies_in_a_concatenation_ends_a_block():
    b = Net(x=(1, 8, 6, 6))
    names = chain(b, 3)
    both = b.put("both", Concat(1), names[0], names[2])
    made = fused_plan(b.done(b.layer(b.layer(both, 8, name="e"), 8, name="f")), MACHINE)
    assert groups(made) == [["b", "c"], ["e", "f"]]
    parts = {part.name: part for step in block_steps(made) for part in step.parts}
    assert parts["c"].outputs[0].root == parts["e"].inputs[0].root == "both"


def test_a_tensor_that_is_read_inside_only_may_be_read_often():
    assert groups(fused_plan(bottleneck(1, 9, 7), MACHINE)) == [["conv0", "conv1", "conv2", "conv3"]]


def test_squeeze_and_excite_is_two_blocks():
    made = fused_plan(NETWORKS["excited"][0](1, 9, 7), MACHINE)
    assert groups(made) == [["conv0", "conv1"], ["binary5", "conv6"]]


def check_borders(made: Plan, graph: Graph) -> None:
    """What is inside a block is nowhere else, and every layer is there once, after those that it reads."""
    inside = {part.outputs[0].root for step in block_steps(made) for part in step.parts[:-1]}
    assert not inside & set(made.buffers)
    for step in made.steps:
        assert not inside & {storage.root for storage in (*step.inputs, *step.outputs)}, step.name
        own = {part.outputs[0].root for part in step.parts[:-1]}
        for part in step.parts:
            foreign = inside - own
            assert not foreign & {storage.root for storage in (*part.inputs, *part.outputs)}, part.name
        if step.parts:
            assert step.outputs[0].root == step.parts[-1].outputs[0].root
            assert len(step.parts) <= blocks.MOST_LAYERS
    unfused = [(s.name, s.inputs, s.outputs) for s in unfused_plan(graph, MACHINE).steps]
    assert [(s.name, s.inputs, s.outputs) for step in made.steps for s in step.layers] == unfused


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_borders_of_random_networks(data: st.DataObject):
    drawing = Drawing(data)
    for _ in range(data.draw(st.integers(3, 20), label="nodes")):
        drawing.node()
    graph = simplify(drawing.graph())
    with fusing():
        check_borders(plan(graph, MACHINE, PlanOptions((*PARTS, "block_fusion"))), graph)


@pytest.mark.parametrize("name", ["googlenet", "shufflenet_v2_x1_0", "densenet121", "convnext_tiny"])
def test_borders_of_networks(name: str):
    graph = zoo(name, 64)
    with fusing(4):
        made = plan(graph, MACHINE, PlanOptions((*PARTS, "block_fusion")))
        assert block_steps(made)
        check_borders(made, graph)


# ---- the choice -----------------------------------------------------------------------------------------------------
@every_machine
def test_the_cheaper_one_is_chosen(machine: Machine):
    lowered = lower(inverted_residual(1, 28, 28, c=16))
    fixed = step_seconds(machine)
    for seconds, is_fused in ((1.0, True), (-fixed, False)):
        result, fusions = blocks.group_blocks(lowered, machine, lambda _, each=seconds: each)
        assert [len(fusion.group.layers) for fusion in fusions.values()] == [3] * is_fused
        for index, fusion in fusions.items():
            assert result.layers[index].spec == fusion.group.block
            assert fusion.parts_seconds == pytest.approx(3 * (seconds + fixed))
            assert fusion.seconds < fusion.parts_seconds


@every_machine
def test_the_worth_decides(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    """Parts that take a little less, and a little more, than the block by what it must gain."""
    lowered = lower(conv_first(1, 28, 28))
    _, fusions = blocks.group_blocks(lowered, machine, lambda _: 1.0)
    (fusion,) = fusions.values()
    fixed, each = step_seconds(machine), 0.2
    least = blocks.worth(fusion.group.block, fusion.seconds, machine, each)
    assert len(fusion.group.layers) == 3

    def priced(block: BlockSpec, _: Machine) -> list[blocks.Way] | str:
        way = replace(fusion.way, seconds=fusion.seconds - fixed, buffer_bytes=0)
        return [way] if len(block.layers) == 3 else "not this one"

    monkeypatch.setattr(blocks, "_priced", priced)
    monkeypatch.setattr(blocks, "TENSOR_WORTHS", (each,))
    inside = {layer.name for layer in fusion.group.layers}
    for total, is_fused in ((least * 0.999, False), (least * 1.001, True)):
        seconds = [total / 3 - fixed if layer.name in inside else -fixed for layer in lowered.layers]
        assert bool(blocks.group_blocks(lowered, machine, seconds.__getitem__)[1]) is is_fused


@pytest.mark.parametrize("seed", range(4))
def test_of_all_cuts_the_cheapest_is_taken(seed: int, monkeypatch: pytest.MonkeyPatch):
    """Against trying all of them, with prices that are drawn."""
    b = Net(x=(1, 8, 6, 6))
    lowered = lower(b.done(chain(b, 8)[-1]))
    count, fixed = len(lowered.layers), step_seconds(MACHINE)
    drawn = np.random.default_rng(seed).uniform(1e-3, 2e-3, count)

    def price(layers: int, name: str) -> float:
        rng = np.random.default_rng(zlib.crc32(f"{seed} {layers} {name}".encode()))
        return float(layers * rng.uniform(1e-3, 2e-3))

    way = partial(blocks.Way, "block_fusion", BlockConfig(1, (), ()))
    assert len({layer.name for layer in lowered.layers}) == count
    monkeypatch.setattr(blocks, "_priced", lambda block, _: [way(price(len(block.layers), block.id))])
    monkeypatch.setattr(blocks, "TENSOR_WORTHS", (0.2,))
    _, fusions = blocks.group_blocks(lowered, MACHINE, lambda i: float(drawn[i]))
    users = grouping.users_of(lowered)

    def counted(seconds: float, group: grouping.Group) -> float:
        return blocks.worth(group.block, seconds, MACHINE, 0.2)

    def cost(begin: int, end: int) -> float:
        if end - begin == 1:
            return float(drawn[begin]) + fixed
        group = grouping.group_of(lowered, begin, end, users) if end - begin <= blocks.MOST_LAYERS else None
        return math.inf if group is None else counted(price(end - begin, group.block.id) + fixed, group)

    least = min(
        sum(cost(a, z) for a, z in itertools.pairwise((0, *cuts, count)))
        for size in range(count)
        for cuts in itertools.combinations(range(1, count), size)
    )
    assert fusions
    fused = sum(counted(f.seconds, f.group) for f in fusions.values())
    inside = {layer.name for f in fusions.values() for layer in f.group.layers}
    singles = sum(float(drawn[i]) + fixed for i, layer in enumerate(lowered.layers) if layer.name not in inside)
    assert fused + singles == pytest.approx(least)


@every_machine
def test_what_a_plan_says_of_blocks(machine: Machine):
    """Each block costs less than its parts, on the scale of the layers' own costs; and the plan reads back."""
    graph = zoo("mobilenet_v2", batch=16)
    made = plan(graph, machine)
    assert Plan.from_json(made.to_json()) == made
    steps = block_steps(made)
    assert steps, "no block of MobileNetV2 is cheaper together"
    for step in steps:
        chosen, alternative = step.candidates
        assert (chosen.algorithm, alternative.algorithm) == ("block_fusion", "one layer after the other")
        assert chosen.config == step.config
        priced = step.spec.with_batch(blocks.priced_batch(step.spec.n))
        assert blocks.worth(priced, chosen.seconds, machine, max(blocks.TENSOR_WORTHS)) < alternative.seconds
        assert not [part for part in step.parts if isinstance(part.spec, BlockSpec) or part.parts]
        assert all(part.algorithm in PARTS for part in step.parts if part.spec is not None)
    check_borders(made, graph)


def test_a_forced_plan_reads_back():
    for name in ("bottleneck", "conv_next_scale", "excited", "stem", "in_concat"):
        made = fused_plan(NETWORKS[name][0](2, 9, 7), MACHINE)
        assert block_steps(made)
        text = made.to_json()
        assert Plan.from_json(text) == made
        assert Plan.from_json(text).to_json() == text


def test_memory_counts_the_largest_buffers_and_the_arena(monkeypatch: pytest.MonkeyPatch):
    """What a byte is worth decides between fast strips and small ones, and never makes the memory larger."""
    graph = zoo("mobilenet_v2", batch=1)
    needed = []
    for worth in (0.0, 3.0, 100.0):
        monkeypatch.setattr(blocks, "MEMORY_WORTH", worth)
        made = plan(graph, MACHINE)
        buffers = [BLOCK_FUSION.buffer_bytes(step.spec, step.config.buffer_rows) for step in block_steps(made)]
        needed.append(made.arena_bytes + MACHINE.cores * max(buffers, default=0))
    assert needed[0] > needed[1] >= needed[2]


# ---- options --------------------------------------------------------------------------------------------------------
def test_options_that_forbid_blocks():
    graph = inverted_residual(1, 28, 28, c=16)
    with fusing():
        assert block_steps(plan(graph, MACHINE))
        assert block_steps(plan(graph, MACHINE, PlanOptions((*PARTS, "block_fusion"))))
        assert not block_steps(plan(graph, MACHINE, PlanOptions(block_fusion=False)))
        assert not block_steps(plan(graph, MACHINE, PlanOptions(PARTS)))
        assert not block_steps(plan(graph, MACHINE, PlanOptions((*PARTS, "block_fusion"), block_fusion=False)))


@pytest.mark.parametrize("value", ["yes", 1, None, "False", 0])
def test_wrong_values_of_the_option(value: object):
    with pytest.raises(InvalidArgument, match="block_fusion") as caught:
        waterline.compile(inverted_residual(1, 4, 4), options={"block_fusion": value})
    assert "True or False" in f"{caught.value.message} {caught.value.hint}"


def test_a_misspelt_name_of_the_algorithm():
    with pytest.raises(InvalidArgument, match="blockfusion") as caught:
        waterline.compile(inverted_residual(1, 4, 4), options={"algorithms": ["blockfusion"]})
    assert "block_fusion" in caught.value.hint


def test_where_only_blocks_are_allowed_what_is_left_over_is_refused():
    with fusing(), pytest.raises(Refused, match="conv0"):
        plan(inverted_residual(1, 1, 4), MACHINE, PlanOptions(("block_fusion",)))
    with fusing():
        assert block_steps(plan(inverted_residual(1, 4, 4), MACHINE, PlanOptions(("block_fusion",))))


# ---- memory ---------------------------------------------------------------------------------------------------------
def wide_inside() -> Graph:
    b = Net(x=(1, 8, 16, 16))
    x = b.layer("x", 8)
    for _ in range(2):
        x = b.layer(b.depthwise(b.layer(x, 48)), 8, add=x)
    return b.done(x)


@every_machine
def test_blocks_save_memory_where_there_is_too_little(machine: Machine):
    graph = wide_inside()
    alone = plan(graph, machine, PlanOptions(block_fusion=False)).arena_bytes
    with fusing():
        least = plan(graph, machine, PlanOptions((*PARTS, "block_fusion"))).arena_bytes
    assert least <= alone / 2
    for limit in (least, (least + alone) // 2):
        made = plan(graph, machine, PlanOptions(workspace_bytes=limit))
        assert block_steps(made)
        assert made.arena_bytes <= limit
        with pytest.raises(InvalidArgument, match=rf"needs {alone} bytes.*allows {limit}"):
            plan(graph, machine, PlanOptions(workspace_bytes=limit, block_fusion=False))
    with pytest.raises(InvalidArgument, match=rf"needs \d+ bytes.*allows {least // 2}") as caught:
        plan(graph, machine, PlanOptions(workspace_bytes=least // 2))
    assert "batch" in caught.value.hint


# ---- what users see -------------------------------------------------------------------------------------------------
def test_explain_names_the_block_its_parts_and_the_alternative():
    made = fused_plan(conv_first(1, 9, 7), MACHINE, 2)
    (step,) = block_steps(made)
    lines = explain(made).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("conv0 to conv2: block_fusion for 16x9x7"))
    assert step.spec.id in lines[at]
    assert "chosen, predicted" in lines[at + 1]
    assert "strips of 2 rows" in lines[at + 1]
    assert f"{4 * 9 * 7 * (16 + 48)} bytes stay inside" in lines[at + 1]
    for part, line in zip(step.parts, lines[at + 2 :], strict=False):
        assert line.strip().startswith(f"{part.name}: {part.algorithm}")
    assert re.match(r" +one layer after the other: predicted [\d.]+ us", lines[at + 2 + len(step.parts)])


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The symbols of all kernels that were compiled, by this process or not in its cache."""
    found: list[str] = []
    loaded = loader.load_kernels

    def told(kernels, machine, cache, on_compile=None):
        kernels = list(kernels)
        found.extend(k.key(machine) for k in dict.fromkeys(kernels) if not loader.is_loaded(k, machine))
        return loaded(kernels, machine, cache, on_compile)

    monkeypatch.setattr("waterline.runtime.program.load_kernels", told)
    return found


def test_batches_threads_and_the_report(compiled: list[str]):
    """Two sets of kernels serve every batch; results do not depend on the threads; a block is one row."""
    graph = inverted_residual(1, 10, 6, c=9)
    x = np.random.default_rng(0).standard_normal((5, 9, 10, 6)).astype(np.float32)
    alone = waterline.compile(graph, num_threads=1, options={"block_fusion": False})
    expected = np.concatenate([alone(x[i : i + 1]) for i in range(5)])
    with fusing(3):
        nets = {threads: waterline.compile(graph, num_threads=threads) for threads in (1, 2, 3)}
        for threads, net in nets.items():
            for batch in (1, 2, 5, 3, 1):
                compiled.clear()
                result = net(x[:batch])
                assert result.tobytes() == expected[:batch].tobytes(), f"{threads} threads, batch {batch}"
                assert not compiled or (threads, batch) == (1, 2), compiled
        report = nets[2].profile(x, seconds=0.05)
        one = nets[1].profile(x[:1], seconds=0.05)
    (row,) = (row for row in report.rows if row.algorithm == "block_fusion")
    assert row.name == "conv0 to conv2"
    assert [phase.name.split(": ")[0] for phase in row.phases] == ["1", "2", "3"]
    assert [phase.name.split(": ")[1].split()[0] for phase in row.phases] == ["1x1", "depthwise", "1x1"]
    assert sum(phase.time_ns for phase in row.phases) == pytest.approx(row.time_ns)
    assert sum(phase.flops for phase in row.phases) == row.flops
    assert row.flops == 5 * next(r for r in one.rows if r.algorithm == "block_fusion").flops
    assert [r.name for r in report.rows if r.flops] == ["conv0 to conv2"]
