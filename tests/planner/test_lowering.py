"""Where tensors lie: NHWC inside, concatenations in place, and copies only where they cannot be avoided."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import waterline
from planner.networks import MAX_POOL, RELU, Building, copies, random_inputs, zoo
from waterline.graph import Graph
from waterline.graph.ops import Binary, Conv, ConvTranspose, Pad, Reshape, Slice, Transpose
from waterline.machine import CATALOGUE
from waterline.planner import CpuTarget, Plan, PlanOptions, plan
from waterline.planner.storage import is_channels_last
from waterline.reference import run

MACHINE = CATALOGUE[0]


def check_values(graph: Graph) -> None:
    """The network computes what the reference does."""
    inputs = random_inputs(graph)
    results = waterline.compile(graph, options={"algorithms": ["naive"]})(*inputs)
    expected = run(graph, dict(zip(graph.inputs, inputs, strict=True)))
    results = results if isinstance(results, tuple) else (results,)
    for name, result in zip(graph.outputs, results, strict=True):
        np.testing.assert_allclose(result, expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def copied(graph: Graph) -> list[str]:
    """Names of the copies inside, the conversions at the edges left out; after the values have been checked."""
    check_values(graph)
    edges = ("input:", "output:")
    return [step.name for step in copies(plan(graph, MACHINE)) if not step.name.startswith(edges)]


# ---- networks -------------------------------------------------------------------------------------------------------
EXPECTED_COPIES = {
    "resnet50": 0,  # the image is converted by the padding of the first layer, the scores are written as they are
    "mobilenet_v2": 0,
    "squeezenet1_0": 0,
    "convnext_tiny": 0,
    "efficientnet_b0": 0,
    "densenet121": 0,
    "googlenet": 0,
    "inception_v3": 0,
    "alexnet": 1,  # the rows of the fully connected layer are in the order of NCHW
    "shufflenet_v2_x1_0": 29,  # one for each of 16 shuffles, one for each of 13 halves that pass a unit by
}


@pytest.mark.parametrize("machine", [CATALOGUE[0], CATALOGUE[5], CATALOGUE[8]], ids=lambda m: m.name)
@pytest.mark.parametrize("name", EXPECTED_COPIES)
def test_copies_of_networks(name: str, machine):
    made = plan(zoo(name), machine)
    assert len(copies(made)) == EXPECTED_COPIES[name]
    converting = [step for step in made.steps if step.inputs[0].root == "input:input"]
    assert [step.op for step in converting if not isinstance(step.op, Pad)] == [], "the image is read by one padding"
    assert len(converting) == 1


@pytest.mark.parametrize("name", ["resnet50", "shufflenet_v2_x1_0", "densenet121"])
def test_convolutions_see_channels_innermost(name: str):
    for step in plan(zoo(name), MACHINE, PlanOptions(block_fusion=False)).steps:
        if step.spec is not None:
            residual = [step.inputs[-1]] if step.spec.epilogue.residual else []
            assert all(is_channels_last(s.view) for s in (step.inputs[0], step.outputs[0], *residual)), step.name


# ---- concatenations -------------------------------------------------------------------------------------------------
def test_branches_write_into_their_concatenation():
    b = Building(x=(1, 8, 6, 6))
    b.concat("all", b.conv("a", "x", 8, 5), b.conv("b", "x", 8, 3, 3), b.add("c", MAX_POOL, "a"))
    b.conv("y", "all", 13, 4)
    made = plan(b.graph("y"), MACHINE)
    assert {step.outputs[0].root for step in made.steps if step.name in "abc"} == {"all"}
    assert copied(b.graph("y")) == []


def test_a_dense_block_lies_in_one_place():
    """Every prefix of the features is a range of channels of the last concatenation."""
    b = Building(x=(1, 8, 6, 6))
    features = [b.conv("f0", "x", 8, 8)]
    for i in range(1, 4):
        whole = b.concat(f"cat{i}", *features) if len(features) > 1 else features[0]
        features.append(b.conv(f"f{i}", b.add(f"relu{i}", RELU, whole), 8 + 4 * (i - 1), 4, 3))
    b.concat("last", *features)
    b.conv("y", "last", 20, 3)
    assert copied(b.graph("y")) == []
    roots = {s.outputs[0].root for s in plan(b.graph("y"), MACHINE).steps if s.name in ("f0", "f1", "f2", "f3")}
    assert roots == {"last"}


def test_concatenations_inside_concatenations():
    b = Building(x=(2, 4, 5, 5))
    b.concat("inner", b.conv("a", "x", 4, 3), b.conv("b", "x", 4, 2))
    b.concat("outer", b.conv("c", "x", 4, 1), "inner", b.conv("d", "x", 4, 2))
    b.conv("y", "outer", 8, 3)
    assert copied(b.graph("y")) == []


def test_what_is_used_twice_is_copied_once():
    b = Building(x=(1, 4, 5, 5))
    b.conv("a", "x", 4, 3)
    b.concat("twice", "a", "a")
    b.conv("y", "twice", 6, 2)
    assert copied(b.graph("y")) == ["twice:a", "twice:a"], "the same tensor in two places"
    b = Building(x=(1, 4, 5, 5))
    b.conv("a", "x", 4, 3)
    b.concat("one", "a", b.conv("b", "x", 4, 2))
    b.concat("two", b.conv("c", "x", 4, 2), "a")
    b.add("sum", Binary("add"), b.conv("p", "one", 5, 3), b.conv("q", "two", 5, 3))
    assert copied(b.graph("sum")) == ["two:a"], "a lies in one concatenation and is copied into the other"


@pytest.mark.parametrize("what", ["input", "output", "constant", "rows", "batch"])
def test_concatenations_of_what_cannot_be_placed(what: str):
    b = Building(x=(2, 4, 5, 5))
    b.conv("a", "x", 4, 3)
    outputs = ["y"]
    if what == "input":
        b.concat("whole", "x", "a")
    elif what == "output":
        b.concat("whole", "a", b.conv("b", "x", 4, 4))
        outputs = ["y", "a", "whole"]
    elif what == "constant":
        b.constants["fixed"] = np.ones((2, 4, 5, 5), np.float32)
        b.concat("whole", "a", "fixed")
    elif what == "rows":
        b.concat("whole", "a", b.conv("b", "x", 4, 3), axis=2)
    else:
        b.concat("whole", "a", b.conv("b", "x", 4, 3), axis=0)
    channels = b.graph("whole").shapes["whole"][1]
    b.conv("y", "whole", channels, 2, 3)
    check_values(b.graph(*outputs))


def test_a_residual_may_lie_in_a_concatenation():
    b = Building(x=(1, 4, 5, 5))
    b.concat("all", b.conv("a", "x", 4, 6), b.conv("b", "x", 4, 2))
    b.add("y", Binary("add"), b.conv("c", "all", 8, 6, 3), "a")
    assert copied(b.graph("y")) == []


# ---- views ----------------------------------------------------------------------------------------------------------
def test_slices_of_channels_and_rows_are_views():
    b = Building(x=(1, 8, 6, 6))
    b.conv("a", "x", 8, 8)
    b.add("half", Slice((1,), (4,), (8,), (1,)), "a")
    b.add("rows", Slice((2, 3), (1, 0), (6, 6), (2, 3)), "a")
    b.conv("y", "half", 4, 3, 3)
    b.conv("z", "rows", 8, 3, 3)
    assert copied(b.graph("y", "z")) == []


def test_transposes_and_reshapes_without_copies():
    """Tokens and back, as in vision transformers: NHWC memory is tokens already."""
    b = Building(x=(1, 8, 4, 6))
    b.conv("a", "x", 8, 8)
    b.add("flat", Reshape((0, 8, 24)), "a")
    b.add("tokens", Transpose((0, 2, 1)), "flat")
    b.add("relu", RELU, "tokens")
    b.add("back", Transpose((0, 2, 1)), "relu")
    b.add("image", Reshape((0, 8, 4, 6)), "back")
    b.conv("y", "image", 8, 4)
    assert copied(b.graph("y")) == []


def test_a_shuffle_costs_one_copy():
    b = Building(x=(1, 4, 5, 5))
    b.conv("a", "x", 4, 6)
    b.add("split", Reshape((0, 2, 3, 5, 5)), "a")
    b.add("swap", Transpose((0, 2, 1, 3, 4)), "split")
    b.add("join", Reshape((0, 6, 5, 5)), "swap")
    b.conv("y", "join", 6, 4, 3)
    assert len(copied(b.graph("y"))) == 1


@pytest.mark.parametrize("what", ["input", "view of input", "constant", "twice", "same"])
def test_outputs_that_no_step_writes(what: str):
    b = Building(x=(2, 3, 4, 5))
    if what == "input":
        graph = b.graph("x")
    elif what == "view of input":
        b.add("y", Transpose((3, 0, 2, 1)), "x")
        graph = b.graph("y")
    elif what == "constant":
        b.constants["fixed"] = np.arange(6, dtype=np.float32).reshape(2, 3)
        graph = b.graph("fixed")
    else:
        b.add("y", RELU, "x")
        graph = b.graph("y", "y") if what == "twice" else b.graph("y", "x")
    check_values(graph)


def test_an_output_is_written_by_its_last_step():
    b = Building(x=(1, 3, 4, 5))
    b.add("y", RELU, "x")
    made = plan(b.graph("y"), MACHINE)
    assert [buffer.kind for buffer in made.buffers.values()] == ["input", "output"]
    assert made.arena_bytes == 0


def test_transposed_convolutions_become_convolutions():
    b = Building(x=(1, 4, 5, 5))
    b.constants["w"] = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    b.add("y", ConvTranspose(stride=(2, 2), pad=(1, 1, 1, 1), output_pad=(1, 1)), "x", "w")
    (step,) = [s for s in plan(b.graph("y"), MACHINE).steps if s.spec]
    assert step.spec is not None
    assert step.spec.upsample == (2, 2)
    assert (step.spec.p, step.spec.q) == (10, 10)
    check_values(b.graph("y"))


def test_a_constant_read_in_two_ways():
    """A tied autoencoder: a convolution and its transpose share the weight."""
    b = Building(x=(1, 5, 6, 6))
    b.constants["w"] = np.random.default_rng(0).standard_normal((5, 5, 3, 3)).astype(np.float32) / 7
    b.add("code", Conv(pad=(1, 1, 1, 1)), "x", "w")
    b.add("y", ConvTranspose(pad=(1, 1, 1, 1)), "code", "w")
    check_values(b.graph("y"))


def live_roots(made: Plan) -> list[set[str]]:
    """For each step the roots of the arena that hold something needed."""
    last = {s.root: i for i, step in enumerate(made.steps) for s in (*step.inputs, *step.outputs)}
    first: dict[str, int] = {}
    for i, step in enumerate(made.steps):
        for storage in (*step.inputs, *step.outputs):
            first.setdefault(storage.root, i)
    arena = [name for name, buffer in made.buffers.items() if buffer.kind == "arena"]
    return [{n for n in arena if first[n] <= i <= last[n]} for i in range(len(made.steps))]


@pytest.mark.parametrize("name", ["resnet50", "googlenet", "densenet121", "shufflenet_v2_x1_0"])
def test_buffers_of_networks_do_not_overlap(name: str):
    """Seen from the plan alone: what a step reads, writes and works in lies apart."""
    made = plan(zoo(name), MACHINE)
    for step, roots in zip(made.steps, live_roots(made), strict=True):
        spans = [(made.buffers[r].offset_bytes, made.buffers[r].elems * 4, r) for r in roots]
        sizes = CpuTarget(MACHINE).workspaces(step)
        spans += [(offset, sizes[name], name) for name, offset in step.workspaces]
        spans.sort()
        for (begin, size, one), (following, _, other) in itertools.pairwise(spans):
            assert begin + size <= following, f"{step.name}: {one} and {other}"
        assert not spans or spans[-1][0] + spans[-1][1] <= made.arena_bytes
