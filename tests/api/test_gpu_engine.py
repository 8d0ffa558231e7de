"""Networks compiled for a GPU, run in Triton's interpreter: results against the reference, batches, kinds of arrays."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from algorithms import block_networks
from algorithms.blocks import Net

import waterline
from waterline import CompiledNetwork, Plan, reference
from waterline.api.compiling import make_plan
from waterline.api.gpu import GpuEngine, rounded_batch
from waterline.graph import Graph
from waterline.graph.ops import (
    AdaptivePool,
    Binary,
    Concat,
    Conv,
    ConvTranspose,
    LayerNorm,
    Linear,
    Pad,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Transpose,
)
from waterline.spec import Activation, Epilogue

from .networks import image, model_proto, module

Make = Callable[[int], Graph]
# Of the largest value of an output: what a few layers of halves, or of operands of ten bits, may lose.
LOOSE = {"float16": 4e-3, "tf32": 4e-3}


# ---- networks -------------------------------------------------------------------------------------------------------
def shuffled(n: int) -> Graph:
    b = Net(x=(n, 12, 6, 5))
    y = b.put("divided", Reshape((0, 3, 4, 6, 5)), b.layer("x", 12, act=Activation("relu")))
    y = b.put("turned", Transpose((0, 2, 1, 3, 4)), y)
    y = b.put("joined", Reshape((0, 12, 6, 5)), y)
    return b.done(b.layer(y, 7, 3, groups=1))


def split_and_joined(n: int) -> Graph:
    """Parts of channels, of images whose rows do not begin aligned, joined along channels and along rows."""
    b = Net(x=(n, 13, 6, 5))
    left = b.layer(b.put("left", Slice((1,), (0,), (5,), (1,)), "x"), 8)
    right = b.layer(b.put("right", Slice((1, 2), (5, 1), (13, 7), (1, 1)), "x"), 8)
    right = b.put("padded", Pad((0, 0, 1, 0), (0, 0, 0, 0)), right)
    y = b.put("both", Concat(1), left, right, "x")
    return b.done(b.put("tall", Concat(2), b.layer(y, 9, 3), b.layer(left, 9)))


def up_and_down(n: int) -> Graph:
    """Transposed convolutions, with one group and several, and resizing."""
    b = Net(x=(n, 6, 5, 4))
    b.weights("up.weight", 6, 8, 3, 3)
    b.weights("up.bias", 8)
    up = ConvTranspose((2, 2), (1, 1, 1, 1), (1, 0), bias=True)
    y = b.put("up", up, "x", "up.weight", "up.bias")
    b.weights("grouped.weight", 8, 3, 2, 2)
    y = b.put("grouped", ConvTranspose((2, 2), groups=2), y, "grouped.weight")
    y = b.put("resized", Resize("linear", size=(7, 6)), y)
    return b.done(b.put("near", Resize("nearest", scale=(2.0, 1.0)), b.layer(y, 5, 3, act=Activation("mish"))))


def scores(n: int) -> Graph:
    """Pooling of every kind, a hidden layer, and probabilities."""
    b = Net(x=(n, 10, 9, 7))
    y = b.pool(b.pool("x"), "average", 2, 1, 1)
    y = b.put("pooled", AdaptivePool("max", (2, 2)), y)
    y = b.put("flat", Reshape((0, -1)), y)
    y = b.put("hidden", Linear(Epilogue(bias=True)), y, b.weights("w1", 12, 40), b.weights("b1", 12))
    y = b.unary(y, Activation("elu", (1.0,)))
    y = b.put("scores", Linear(), y, b.weights("w2", 5, 12))
    return b.done(b.put("probabilities", Softmax(1), y))


def tokens(n: int) -> Graph:
    """Rows of pixels with what belongs to their places, normalised, mixed, and back to an image."""
    b = Net(x=(n, 8, 4, 4))
    y = b.put("rows", Transpose((0, 2, 1)), b.put("list", Reshape((0, 8, 16)), b.layer("x", 8)))
    y = b.put("placed", Binary("add"), y, b.weights("places", 1, 16, 8))
    y = b.put("norm", LayerNorm(2), y, b.weights("scale", 8), b.weights("bias", 8))
    y = b.put(
        "mixed", Linear(Epilogue(bias=True, after=Activation("gelu"))), y, b.weights("w", 24, 8), b.weights("b", 24)
    )
    y = b.put("back", Reshape((0, 24, 4, 4)), b.put("turned", Transpose((0, 2, 1)), y))
    return b.done(b.layer(y, 4, 3), b.put("mean", Reduce("mean", (2, 3), keepdims=False), y))


def many_ends(n: int) -> Graph:
    """Two inputs; outputs one of which is an input, one a constant, one read by others too, and one given twice."""
    b = Net(x=(n, 5, 4, 3), gate=(n, 6))
    a = b.layer("x", 6, 3, act=Activation("relu"))
    y = b.binary("mul", a, b.put("wide", Reshape((0, 6, 1, 1)), "gate"))
    b.weights("fixed", 2, 3, 4, 5)
    return b.done(y, "x", "fixed", a, y, "gate")


def of_constants(n: int) -> Graph:
    """Layers that read constants as images, as rows and as residuals."""
    b = Net(x=(n, 8, 4, 4), rows=(n, 4))
    b.weights("image", n, 4, 4, 4)
    b.weights("list", n, 8)
    summed = b.layer("x", 4, 3, add="image")
    y = b.put("y", Conv(epilogue=Epilogue(residual=True)), "image", b.weights("w", 4, 4, 1, 1), summed)
    return b.done(y, b.put("z", Linear(Epilogue(residual=True)), "list", b.weights("v", 4, 8), "rows"))


def through_blocks(name: str) -> Make:
    return lambda n: block_networks.NETWORKS[name][0](n, 8, 8)


NETWORKS: dict[str, Make] = {
    "residual bottleneck": through_blocks("bottleneck"),
    "inverted residual with squeeze-and-excite": through_blocks("excited"),
    "inverted residual": through_blocks("inverted_residual"),
    "ConvNeXt block": through_blocks("conv_next"),
    "ConvFirst block": through_blocks("conv_first"),
    "parts of a concatenation": through_blocks("in_concat"),
    "stem": through_blocks("stem"),
    "operators": through_blocks("operators"),
    "channel shuffle": shuffled,
    "parts joined": split_and_joined,
    "up and down": up_and_down,
    "scores": scores,
    "tokens": tokens,
    "many ends": many_ends,
    "constants": of_constants,
}
# Their constants have as many images as the network was made for.
OF_ONE_BATCH = {"constants"}


# ---- comparing ------------------------------------------------------------------------------------------------------
def drawn(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(graph.shapes[name]).astype(np.float32) for name in graph.inputs}


def compiled(graph: Graph, dtype: str = "float32", **options: object) -> CompiledNetwork:
    return waterline.compile(graph, device="cuda", dtype=dtype, options=options)


def check(net: CompiledNetwork, graph: Graph, dtype: str, seed: int = 0) -> None:
    """The results for one batch, `graph` being of its shapes."""
    inputs = drawn(graph, seed)
    results = net(*inputs.values())
    exact = reference.run(graph, inputs)
    bounds = reference.network_bound(graph, inputs) if dtype == "float32" else {}
    results = results if isinstance(results, tuple) else (results,)
    assert len(results) == len(graph.outputs)
    for name, result in zip(graph.outputs, results, strict=True):
        assert type(result) is np.ndarray
        assert (result.dtype, result.shape) == (np.float32, graph.shapes[name])
        assert result.flags.c_contiguous
        largest = float(np.abs(exact[name]).max(initial=0))
        allowed = LOOSE[dtype] * largest if dtype in LOOSE else max(4 * bounds[name], 1e-6 * largest)
        comparison = reference.compare(result, exact[name], allowed)
        assert comparison.is_within, f"{name}: {comparison}"


@pytest.mark.parametrize("dtype", ["float32", "float16", "tf32"])
@pytest.mark.parametrize("name", NETWORKS)
def test_against_the_reference(name: str, dtype: str) -> None:
    graph = NETWORKS[name](2)
    net = compiled(graph, dtype)
    check(net, graph, dtype)
    check(net, graph, dtype, seed=1)
    assert Plan.from_json(net.plan.to_json()) == net.plan


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - OF_ONE_BATCH))
def test_other_batches(name: str) -> None:
    net = compiled(NETWORKS[name](1), "float16")
    for n in (0, 3):
        check(net, NETWORKS[name](n), "float16")


def test_an_empty_batch_first() -> None:
    for name in ("ConvNeXt block", "scores", "up and down"):
        net = compiled(NETWORKS[name](0))
        check(net, NETWORKS[name](0), "float32")
        check(net, NETWORKS[name](2), "float32")


@pytest.mark.parametrize("algorithm", ["indirect", "winograd", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_algorithm_that_is_asked_for(algorithm: str, dtype: str) -> None:
    b = Net(x=(1, 17, 7, 6))
    graph = b.done(b.layer(b.layer("x", 16, 3, act=Activation("relu")), 18, 3))
    net = compiled(graph, dtype, algorithms=[algorithm], accuracy="fast")
    assert {step.algorithm.partition(":")[0] for step in net.plan.steps} == {algorithm}
    inputs = drawn(graph)
    (exact,) = reference.run(graph, inputs).values()
    comparison = reference.compare(net(*inputs.values()), exact, 4e-3 * float(np.abs(exact).max()))
    assert comparison.is_within, comparison


def test_no_block_and_blocks_agree() -> None:
    graph = NETWORKS["ConvFirst block"](2)
    with_blocks, without = compiled(graph, "float16"), compiled(graph, "float16", block_fusion=False)
    assert any(step.parts for step in with_blocks.plan.steps)
    assert not any(step.parts for step in without.plan.steps)
    check(without, graph, "float16")


# ---- batches --------------------------------------------------------------------------------------------------------
def test_rounded_batches() -> None:
    sizes = [rounded_batch(n) for n in range(130)]
    assert sizes[:9] == list(range(9))
    assert sorted(set(sizes[9:65])) == [10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64]
    assert all(n <= size <= max(n + 1, 1.25 * n) for n, size in enumerate(sizes))
    assert all(rounded_batch(size) == size for size in sizes)


def tiny(n: int) -> Graph:
    b = Net(x=(n, 3, 2, 2))
    return b.done(b.put("mean", Reduce("mean", (2, 3)), b.layer("x", 4, act=Activation("relu"))))


def test_a_few_programs_serve_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = GpuEngine.program

    def program(self: GpuEngine, plan: Plan, weights: object) -> object:
        made.append(plan.inputs[0][1][0])
        return real(self, plan, weights)

    monkeypatch.setattr(GpuEngine, "program", program)
    net = compiled(tiny(1))
    for n in range(1, 41):
        check(net, tiny(n), "float32", seed=n)
    assert made == sorted({rounded_batch(n) for n in range(1, 41)})
    assert len(made) == 17
    check(net, tiny(39), "float32")
    assert len(made) == 17
    assert net.plan_for(image(37, 3, 2, 2)).inputs[0][1] == (40, 3, 2, 2)


def test_the_batch_it_was_compiled_for_is_not_rounded() -> None:
    net = compiled(tiny(9))
    assert net.plan.inputs[0][1][0] == 9
    check(net, tiny(9), "float32")
    check(net, tiny(10), "float32")


def test_images_of_an_earlier_call_do_not_show() -> None:
    net = compiled(tiny(1))
    net(np.full((10, 3, 2, 2), np.nan, np.float32))
    check(net, tiny(9), "float32")


def test_images_that_depend_on_each_other_run_as_they_are() -> None:
    def make(n: int) -> Graph:
        b = Net(x=(n, 3, 2, 2))
        return b.done(b.put("sum", Reduce("sum", (0,)), b.layer("x", 4)))

    net = compiled(make(1))
    for n in (2, 9, 11):
        assert net.plan_for(image(n, 3, 2, 2)).inputs[0][1][0] == n
        check(net, make(n), "float32")


# ---- arrays ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def net() -> CompiledNetwork:
    return compiled(tiny(2))


def test_tensors_in_and_out(net: CompiledNetwork) -> None:
    x = torch.from_numpy(image(2, 3, 2, 2))
    result = net(x)
    assert isinstance(result, torch.Tensor)
    assert result.dtype == torch.float32
    np.testing.assert_array_equal(result.numpy(), net(x.numpy()))
    kept = result.clone()
    net(x + 1)
    assert torch.equal(result, kept), "a result is the caller's own"


def test_results_are_of_the_networks_type() -> None:
    result = compiled(tiny(2), "float16")(torch.ones(2, 3, 2, 2))
    assert result.dtype == torch.float16


def test_layouts_and_types_of_tensors(net: CompiledNetwork) -> None:
    x = torch.from_numpy(image(2, 3, 2, 2)).half().float()
    expected = net(x)
    for same in (
        x.contiguous(memory_format=torch.channels_last),
        x.half(),
        x.flip(0).flip(0),
        torch.nn.Parameter(x),
        x.transpose(2, 3).contiguous().transpose(2, 3),
        torch.repeat_interleave(x, 2, 1)[:, ::2],
    ):
        assert torch.equal(net(same), expected)
    assert torch.equal(net(x[:1].expand(2, -1, -1, -1))[1], expected[0])


def test_layouts_and_types_of_arrays(net: CompiledNetwork) -> None:
    x = image(2, 3, 2, 2).astype(np.float16).astype(np.float32)
    expected = net(x)
    read_only = x.copy()
    read_only.flags.writeable = False
    for same in (np.asfortranarray(x), x.astype(np.float16), x[::-1].copy()[::-1], read_only, _Dlpack(x), _Array(x)):
        np.testing.assert_array_equal(net(same), expected)


class _Dlpack:
    """What only speaks DLPack."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __dlpack__(self, **how: object) -> object:
        return self._array.__dlpack__(**how)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._array.__dlpack_device__()


class _Array:
    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        return self._array


# ---- models ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["module", "exported program"])
def test_pytorch_models(kind: str) -> None:
    network, x = module(), torch.from_numpy(image())
    with torch.inference_mode():
        expected = network(x)
    model = (network, x) if kind == "module" else (torch.export.export(network, (x,)),)
    net = waterline.compile(*model, device="cuda")
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)
    three = torch.from_numpy(image(3, *image().shape[1:]))
    torch.testing.assert_close(net(three), network(three).detach(), rtol=1e-4, atol=1e-5)


def test_a_module_in_half_precision_stays_as_it_is() -> None:
    network, x = module().half(), torch.from_numpy(image()).half()
    net = waterline.compile(network, x, device="cuda", dtype="float16")
    assert {each.dtype for each in network.parameters()} == {torch.float16}
    result = net(x)
    assert result.dtype == torch.float16
    expected = network.float()(x.float())
    torch.testing.assert_close(result.float(), expected, rtol=1e-2, atol=1e-2)


def test_the_modules_own_structure_comes_back() -> None:
    class Structured(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, object]:
            return {"sum": x + y, "both": (x, torch.relu(y))}

    x, y = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)
    found = waterline.compile(Structured(), (x, y), device="cuda")(x, y)
    torch.testing.assert_close(found["sum"], x + y)
    assert torch.equal(found["both"][0], x)
    assert torch.equal(found["both"][1], torch.relu(y))


def test_onnx_inputs_by_name_and_other_sizes() -> None:
    net = waterline.compile(model_proto(), {"x": image()}, device="cuda")
    cpu = waterline.compile(model_proto(), {"x": image()}, num_threads=1)
    for shape in ((1, 3, 12, 10), (2, 3, 5, 4), (9, 3, 5, 4)):
        for ours, theirs in zip(net(x=image(*shape)), cpu(image(*shape)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_session() -> None:
    session = waterline.Session(model_proto(), device="cuda", dtype="float16")
    x = image()
    expected = waterline.Session(model_proto(), num_threads=1).run(["means"], {"x": x})
    (means,) = session.run(["means"], {"x": x})
    np.testing.assert_allclose(means, expected[0], rtol=1e-2, atol=1e-2)


def test_the_plan_without_compiling() -> None:
    graph = NETWORKS["scores"](1)
    assert make_plan(graph, device="cuda", dtype="float16") == compiled(graph, "float16").plan


# ---- threads --------------------------------------------------------------------------------------------------------
def test_calls_from_several_threads() -> None:
    net = compiled(tiny(2))
    inputs = [image(2, 3, 2, 2, seed=seed) for seed in range(4)]
    expected = [net(x) for x in inputs]
    wrong: list[int] = []
    start = threading.Barrier(len(inputs))

    def call(index: int) -> None:
        start.wait()
        for _ in range(10):
            if not np.array_equal(net(inputs[index]), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=call, args=(index,)) for index in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
