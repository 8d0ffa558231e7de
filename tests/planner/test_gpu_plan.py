"""Plans for GPUs: what kernels want of tensors, memory, options, blocks, tuned choices, and what PyTorch computes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import pytest
from algorithms import block_networks
from algorithms.blocks import Net, block_steps

from planner.networks import zoo
from waterline import models
from waterline.algorithms.gpu_registry import GPU_REGISTRY
from waterline.api.explanation import explain
from waterline.errors import InvalidArgument, Refused
from waterline.graph import Graph
from waterline.graph.block import BlockSpec
from waterline.graph.ops import Conv, ConvTranspose, LayerNorm, Linear, Slice
from waterline.machine.gpu import GPU_CATALOGUE, H200, PRECISION_BYTES, PRECISIONS, Gpu
from waterline.planner import Measurements, Plan, PlanOptions, Step, Storage, Timing, plan, tuning_tasks
from waterline.planner.gpu import GpuTarget, names
from waterline.planner.lower import ALIGNED_ELEMS, Copy
from waterline.planner.memory import ALIGNMENT_BYTES
from waterline.spec import Activation, ConvSpec, Epilogue, channels_last

# Of every kind: bottlenecks, groups, squeeze-and-excite, layer norm, concatenation, shuffled channels, large filters.
NETWORKS = ["resnet18", "regnet_y_400mf", "mobilenet_v3_large", "convnext_tiny", "googlenet", "shufflenet_v2_x1_0"]
# Left out for the size of their weights; their layers are those of others.
HEAVY = {"vgg11", "vgg16", "vgg19", "overfeat"}
WINOGRAD = ("winograd:f2x2", "winograd:f4x4")
LIBRARY = GPU_REGISTRY[-1].name


def planned(
    graph: Graph,
    precision: str = "f16",
    gpu: Gpu = H200,
    options: PlanOptions | None = None,
    measured: Measurements | None = None,
) -> Plan:
    graph.dtype = precision
    return plan(graph, GpuTarget(gpu, precision), options, measured)


def small(name: str, n: int = 1) -> Graph:
    """A network of the zoo with the smallest image that it takes."""
    for size in (32, 64, 96, 224):
        try:
            return zoo(name, size, n)
        except InvalidArgument:
            continue
    return zoo(name, models.default_image_size(name), n)


def convolutions(made: Plan) -> list[Step]:
    return [step for step in made.steps if isinstance(step.spec, ConvSpec)]


def algorithms(made: Plan) -> set[str]:
    return {step.algorithm for step in made.steps if step.spec is not None}


# ---- every plan -----------------------------------------------------------------------------------------------------
def check(made: Plan, target: GpuTarget) -> None:
    for step in made.steps:
        check_step(step, made, target)
    check_memory(made, target)
    assert Plan.from_json(made.to_json()) == made


def check_step(step: Step, made: Plan, target: GpuTarget) -> None:
    assert step.dtype == target.precision
    tensors = (*step.inputs, *step.outputs)
    for storage in tensors:
        view = storage.view
        reach = storage.offset + sum((size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True))
        assert 0 in view.shape or reach < made.buffers[storage.root].elems, step.name
    if isinstance(step.spec, ConvSpec):
        spec = step.spec
        assert spec.dtype == target.precision
        images = {"x": (step.inputs[0], (spec.n, spec.c, spec.h, spec.w))}
        images["y"] = (step.outputs[0], (spec.n, spec.k, spec.p, spec.q))
        if spec.epilogue.residual:
            images["residual"] = (step.inputs[-1], (spec.n, spec.k, spec.p, spec.q))
        for name, (storage, shape) in images.items():
            check_image(storage, f"{step.name}: {name}")
            assert made.buffers[storage.root].kind != "constant", "constants are in f32"
            assert storage.view.elems == shape[0] * shape[1] * shape[2] * shape[3]
        algorithm = next(each for each in GPU_REGISTRY if each.name == step.algorithm)
        assert algorithm.refuse(spec, *target.where) is None
        assert step.config in algorithm.configs(target.decided(spec), *target.where)
    elif isinstance(step.spec, BlockSpec):
        for storage in tensors:
            if storage.root not in constants(made):
                check_image(storage, step.name)
        assert sum(part.spec.flops for part in step.parts if part.spec) == step.spec.flops
        assert [bool(part.spec) for part in step.parts] == [bool(layer.spec) for layer in step.spec.layers]
    elif step.kind.endswith(":triton") and not isinstance(step.op, Copy):
        for storage in tensors:
            rank = len(storage.view.shape)
            is_image = rank == 4 and not isinstance(step.op, LayerNorm)
            assert storage.view.is_dense(channels_last(4) if is_image else tuple(range(rank))), step.name
    else:
        assert step.kind.endswith((":torch", ":triton")), step.kind


def check_image(storage: Storage, where: str) -> None:
    """What kernels read and write: NHWC without gaps, aligned for bulk copies."""
    assert storage.view.is_dense(channels_last(4)), where
    assert storage.offset % ALIGNED_ELEMS == 0, where


def constants(made: Plan) -> set[str]:
    return {name for name, buffer in made.buffers.items() if buffer.kind == "constant"}


def check_memory(made: Plan, target: GpuTarget) -> None:
    """What lives at the same time lies apart, and everything in the arena."""
    elem_bytes = PRECISION_BYTES[target.precision]
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for i, step in enumerate(made.steps):
        for storage in (*step.inputs, *step.outputs):
            if made.buffers[storage.root].kind == "arena":
                last[storage.root] = i
                first.setdefault(storage.root, i)
    places = [
        (made.buffers[name].offset_bytes, made.buffers[name].elems * elem_bytes, first[name], last[name])
        for name in first
    ]
    for i, step in enumerate(made.steps):
        sizes = target.workspaces(step)
        assert set(sizes) == {name for name, _ in step.workspaces}
        places += [(offset, sizes[name], i, i) for name, offset in step.workspaces]
    for offset, size, _, _ in places:
        assert offset % ALIGNMENT_BYTES == 0
        assert 0 <= offset <= offset + size <= made.arena_bytes
    for a, b in itertools.combinations(places, 2):
        is_together = a[2] <= b[3] and b[2] <= a[3]
        is_apart = a[0] + a[1] <= b[0] or b[0] + b[1] <= a[0]
        assert is_apart or not is_together, (a, b)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_in_every_precision(name: str) -> None:
    """Each for one of the GPUs."""
    gpu = GPU_CATALOGUE[NETWORKS.index(name) % len(GPU_CATALOGUE)]
    graph = small(name)
    for precision in PRECISIONS:
        made = planned(graph, precision, gpu)
        check(made, GpuTarget(gpu, precision))
        assert LIBRARY not in algorithms(made), "kernels serve every layer of these"


@pytest.mark.parametrize("name", sorted(set(models.names()) - set(NETWORKS) - HEAVY))
def test_the_other_networks(name: str) -> None:
    made = planned(small(name))
    check(made, GpuTarget(H200, "f16"))
    assert LIBRARY not in algorithms(made)


@pytest.mark.parametrize("n", [0, 3])
def test_batches(n: int) -> None:
    for name in ("resnet18", "shufflenet_v2_x1_0"):
        check(planned(small(name, n), "f32"), GpuTarget(H200, "f32"))


def test_tensors_without_gaps_are_copied_where_they_do_not_begin_aligned() -> None:
    b = Net(x=(1, 24, 1, 1))
    aligned = b.put("aligned", Slice((1,), (8,), (16,), (1,)), "x")
    odd = b.put("odd", Slice((1,), (3,), (11,), (1,)), "x")
    made = planned(b.done(b.layer(aligned, 8), b.layer(odd, 8)))
    check(made, GpuTarget(H200, "f16"))
    assert sum(isinstance(step.op, Copy) for step in made.steps) == 1


def test_constants_that_layers_read_as_images_are_copied_to_the_networks_type() -> None:
    b = Net(x=(2, 8, 4, 4), rows=(2, 4))
    b.weights("image", 2, 4, 4, 4)
    b.weights("list", 2, 8)
    with_residual = Epilogue(residual=True)
    sum_of_both = b.layer("x", 4, 3, add="image")
    y = b.put("y", Conv(epilogue=with_residual), "image", b.weights("w", 4, 4, 1, 1), sum_of_both)
    z = b.put("z", Linear(with_residual), "list", b.weights("v", 4, 8), "rows")
    made = planned(b.done(y, z), options=PlanOptions(block_fusion=False))
    assert len(convolutions(made)) == 3
    assert sum(isinstance(step.op, Copy) for step in made.steps) == 2, "a copy serves all who read it"
    check(made, GpuTarget(H200, "f16"))


# ---- options --------------------------------------------------------------------------------------------------------
def test_only_what_is_allowed_is_used() -> None:
    graph = small("resnet18")
    allowed = ("indirect", "direct_gemm")
    made = planned(graph, options=PlanOptions(algorithms=allowed))
    assert algorithms(made) == set(allowed)
    for step in convolutions(made):
        refused = {each.algorithm: each.refusal for each in step.candidates if each.refusal}
        assert refused["winograd:f2x2"] == refused[LIBRARY] == "the options do not allow it"
    check(made, GpuTarget(H200, "f16"))


def test_pytorch_alone_is_used_where_it_is_asked_for() -> None:
    made = planned(small("mobilenet_v3_large"), options=PlanOptions(algorithms=(LIBRARY,)))
    assert algorithms(made) == {LIBRARY}
    check(made, GpuTarget(H200, "f16"))


def test_what_serves_no_layer_is_refused_with_reasons() -> None:
    with pytest.raises(Refused, match=r"depthwise: it takes one input channel a group.*allow more algorithms"):
        planned(small("resnet18"), options=PlanOptions(algorithms=("depthwise",)))
    with pytest.raises(Refused, match="block_fusion: it computes several layers together"):
        planned(small("resnet18"), options=PlanOptions(algorithms=("block_fusion",)))


def test_names_that_may_be_allowed() -> None:
    assert set(WINOGRAD) < set(names())
    assert {"winograd", "block_fusion", LIBRARY} < set(names())
    assert len(set(names())) == len(names())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("accuracy", ["strict", "default", "fast"])
def test_accuracy(accuracy: str, precision: str) -> None:
    """Winograd's kernels need a policy, the larger tile in few bits more of it."""
    made = planned(wide(), precision, options=PlanOptions(accuracy=accuracy))
    (step,) = convolutions(made)
    refused = {each.algorithm: each.refusal for each in step.candidates if each.refusal}
    needed = {"winograd:f2x2": "default", "winograd:f4x4": "default" if precision == "f32" else "fast"}
    for name, least in needed.items():
        is_allowed = ["strict", "default", "fast"].index(least) <= ["strict", "default", "fast"].index(accuracy)
        assert (name not in refused) == is_allowed
        if not is_allowed:
            assert refused[name] == f"it needs accuracy {least!r}, the option is {accuracy!r}"
    check(made, GpuTarget(H200, precision))


@pytest.mark.parametrize("name", WINOGRAD)
def test_a_variant_that_is_named_needs_no_policy(name: str) -> None:
    made = planned(wide(), options=PlanOptions(algorithms=(name,), accuracy="strict"))
    assert algorithms(made) == {name}


def wide(n: int = 8) -> Graph:
    """A layer that suits Winograd's algorithm."""
    b = Net(x=(n, 256, 28, 28))
    return b.done(b.layer("x", 256, 3))


def deep() -> Graph:
    """Two such layers with a tensor between them."""
    b = Net(x=(8, 256, 28, 28))
    return b.done(b.layer(b.layer("x", 256, 3), 256, 3))


def test_a_limit_of_memory_is_kept() -> None:
    graph = deep()
    only = PlanOptions(algorithms=("winograd", "indirect"), accuracy="fast")
    free = planned(graph, options=PlanOptions(algorithms=("winograd",), accuracy="fast"))
    assert any(step.workspaces for step in free.steps)
    between = 8 * 28 * 28 * 256 * 2
    assert free.arena_bytes > between
    for limit in (free.arena_bytes, free.arena_bytes - 1, (free.arena_bytes + between) // 2, between):
        options = PlanOptions(algorithms=only.algorithms, accuracy="fast", workspace_bytes=limit)
        made = planned(graph, options=options)
        assert made.arena_bytes <= limit
        check(made, GpuTarget(H200, "f16"))
    assert algorithms(made) == {"indirect"}
    for step in made.steps:
        refusals = [each.refusal for each in step.candidates if each.algorithm in WINOGRAD]
        assert all(re.search(rf"workspaces.*{limit}", each) for each in refusals), refusals


def test_a_limit_that_nothing_fits() -> None:
    between = 8 * 28 * 28 * 256 * 2
    with pytest.raises(InvalidArgument, match=rf"needs {between} bytes.*allows {between - 1}.*smaller batch"):
        planned(deep(), options=PlanOptions(workspace_bytes=between - 1))
    with pytest.raises(Refused, match=r"workspaces take \d+ bytes.*raise workspace_bytes"):
        planned(deep(), options=PlanOptions(algorithms=("winograd",), accuracy="fast", workspace_bytes=between))


# ---- blocks ---------------------------------------------------------------------------------------------------------
def test_blocks_are_taken_where_they_are_cheaper() -> None:
    graph = small("convnext_tiny")
    made = planned(graph)
    assert block_steps(made)
    for step in block_steps(made):
        together, apart = step.candidates
        assert (together.algorithm, apart.algorithm) == (step.algorithm, "one layer after the other")
        assert together.seconds < apart.seconds
    inner = {part.outputs[0].root for step in block_steps(made) for part in step.parts[:-1]}
    assert inner
    assert not inner & set(made.buffers)


def test_no_blocks_where_an_option_says_so() -> None:
    graph = small("convnext_tiny")
    assert not block_steps(planned(graph, options=PlanOptions(block_fusion=False)))
    every = tuple(algorithm.name for algorithm in GPU_REGISTRY)
    assert not block_steps(planned(graph, options=PlanOptions(every)))
    assert block_steps(planned(graph, options=PlanOptions((*every, "block_fusion"))))


@pytest.mark.parametrize("name", ["conv_first", "conv_next", "inverted_residual"])
def test_blocks_by_name_whatever_they_cost(name: str) -> None:
    graph = block_networks.NETWORKS[name][0](1, 8, 8)
    layers = tuple(step.name for step in planned(graph, options=PlanOptions(block_fusion=False)).steps)
    made = planned(graph, options=PlanOptions(blocks=(layers,)))
    check(made, GpuTarget(H200, "f16"))
    (step,) = made.steps
    assert tuple(part.name for part in step.parts) == layers
    assert not block_steps(planned(graph, options=PlanOptions(blocks=())))


def test_a_block_in_words() -> None:
    graph = block_networks.conv_next(1, 8, 8)
    layers = tuple(step.name for step in planned(graph, options=PlanOptions(block_fusion=False)).steps)
    text = explain(planned(graph, options=PlanOptions(blocks=(layers,))))
    assert re.search(r"block_fusion: chosen, predicted [\d.]+ us, GpuBlock\(pixels=.*bytes stay inside", text)
    assert "one layer after the other: predicted" in text
    for name in layers:
        assert f"    {name}: " in text
    assert "None" not in text


def test_a_layer_that_is_in_no_block_says_why() -> None:
    for step in convolutions(planned(small("resnet18"))):
        (reason,) = [each.refusal for each in step.candidates if each.algorithm == "block_fusion"]
        assert reason


# ---- tuning ---------------------------------------------------------------------------------------------------------
def test_what_is_tuned_belongs_to_a_batch_and_a_precision() -> None:
    keys: list[str] = []
    for n, precision in itertools.product((1, 4), PRECISIONS):
        graph = block_networks.basic(n, 8, 8)
        graph.dtype = precision
        tasks = tuning_tasks(graph, GpuTarget(H200, precision))
        assert all(task.spec.n == n and f"n{n}_" in task.key for task in tasks)
        keys += [task.key for task in tasks]
    assert len(set(keys)) == len(keys)


def test_every_candidate_can_be_chosen() -> None:
    graph = wide()
    graph.dtype = "f16"
    target = GpuTarget(H200, "f16")
    options = PlanOptions(accuracy="fast")
    (task,) = tuning_tasks(graph, target, options)
    assert len(task.candidates) > 2
    for fastest in task.candidates:
        timings = [Timing(each.label, each.config, 2e-6 if each == fastest else 3e-6) for each in task.candidates]
        made = plan(graph, target, options, Measurements({task.key: tuple(timings)}))
        (step,) = made.steps
        assert (step.algorithm, step.config) == (fastest.algorithm.name, fastest.config)
        assert step.candidates[0].measured_seconds == 2e-6
        assert f"{fastest.label}: chosen, predicted" in explain(made)
        assert "measured 2.0 us" in explain(made)
        check(made, target)


def test_what_could_not_be_run_is_not_chosen() -> None:
    graph = wide()
    graph.dtype = "f16"
    target = GpuTarget(H200, "f16")
    (task,) = tuning_tasks(graph, target)
    first, second = task.candidates[:2]
    timings = (Timing(first.label, first.config, None), Timing(second.label, second.config, 5e-3))
    (step,) = plan(graph, target, None, Measurements({task.key: timings})).steps
    assert (step.algorithm, step.config) == (second.algorithm.name, second.config)


def test_times_of_another_batch_decide_nothing() -> None:
    target = GpuTarget(H200, "f16")
    free = planned(wide(8))
    (task,) = tuning_tasks(wide(16), target)
    slow = task.candidates[-1]
    measured = Measurements({task.key: (Timing(slow.label, slow.config, 1e-9),)})
    (step,) = planned(wide(8), measured=measured).steps
    assert step == free.steps[0]


def test_pytorch_is_taken_where_it_was_measured_to_be_faster() -> None:
    graph = wide()
    graph.dtype = "f16"
    target = GpuTarget(H200, "f16")
    (task,) = tuning_tasks(graph, target)
    ours = task.candidates[0]
    timings = (Timing(LIBRARY, None, 1e-6), Timing(ours.label, ours.config, 2e-6))
    (step,) = plan(graph, target, None, Measurements({task.key: timings})).steps
    assert step.algorithm == LIBRARY


# ---- what kernels do not serve --------------------------------------------------------------------------------------
def unserved() -> Iterator[tuple[str, Graph]]:
    """A reason, and a network of one layer."""
    b = Net(x=(2, 24, 8, 8))
    b.weights("up.weight", 24, 10, 2, 2)
    yield "zeros between pixels", b.done(b.put("up", ConvTranspose(stride=(2, 2)), "x", "up.weight"))
    b = Net(x=(2, 24, 8, 8))
    yield "mish", b.done(b.layer("x", 16, 3, act=Activation("mish")))
    b = Net(x=(2, 21, 8, 8))
    yield "groups have 7 input", b.done(b.layer("x", 9, 3, groups=3))


@pytest.mark.parametrize(("reason", "graph"), list(unserved()))
def test_the_library_computes_what_no_kernel_serves(reason: str, graph: Graph) -> None:
    for precision in PRECISIONS:
        made = planned(graph, precision)
        check(made, GpuTarget(H200, precision))
        (step,) = convolutions(made)
        assert step.algorithm == step.kind == LIBRARY
        refusals = [each.refusal for each in step.candidates[1:]]
        assert all(refusals)
        assert any(reason in each for each in refusals), refusals
        assert f"{step.name}: torch for" in explain(made)


def test_wide_groups_have_kernels() -> None:
    b = Net(x=(1, 144, 8, 8))
    made = planned(b.done(b.layer("x", 144, 3, groups=3)))
    assert algorithms(made) == {"indirect"}


def test_operators_say_whose_kernels_compute_them() -> None:
    made = planned(small("shufflenet_v2_x1_0"))
    kinds = {step.kind for step in made.steps if step.spec is None}
    assert any(kind.startswith("Copy:") for kind in kinds)
    assert all(kind.endswith((":triton", ":torch")) for kind in kinds)
    for kind in kinds:
        assert f": {kind} -> " in explain(made)
