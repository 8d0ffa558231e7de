"""`takes_images_alone`: every kind of operation in both ways, and random graphs against what the reference computes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from waterline import reference
from waterline.errors import Error
from waterline.graph import Graph
from waterline.graph.images import takes_images_alone
from waterline.graph.ops import (
    END,
    AdaptivePool,
    Binary,
    Concat,
    Conv,
    Expand,
    GroupNorm,
    LayerNorm,
    Linear,
    LocalResponseNorm,
    MatMul,
    Op,
    Pad,
    Pool,
    PRelu,
    Reduce,
    Reshape,
    Resize,
    Slice,
    Softmax,
    Transpose,
)
from waterline.spec import Epilogue

from .building import Builder

Make = Callable[[Builder], str]
IMAGE, ROWS = (2, 4, 6, 5), (2, 6, 4)  # (N, C, H, W) and (N, M, C)


def one(op: Op, shape: tuple[int, ...], *constants: tuple[int, ...]) -> Make:
    """An operation on an image and constants of these shapes."""
    return lambda b: b.add(op, b.input(*shape), *(b.random_constant(*each) for each in constants))


def two(op: Op, *shapes: tuple[int, ...]) -> Make:
    """An operation on several inputs of the network."""
    return lambda b: b.add(op, *(b.input(*shape) for shape in shapes))


def made_of(op: Op, shape: tuple[int, ...], *inputs: tuple[int, ...]) -> Make:
    """An operation on a constant first, then on inputs of the network."""

    def make(b: Builder) -> str:
        return b.add(op, b.random_constant(*shape), *(b.input(*each) for each in inputs))

    return make


ALONE: dict[str, Make] = {
    "convolution": lambda b: b.conv(b.input(*IMAGE), 3, bias=True, pad=(1, 0, 1, 2), groups=1),
    "convolution with a residual": lambda b: _with_residual(b, b.input(*IMAGE), b.input(*IMAGE)),
    "transposed convolution": lambda b: b.conv_transpose(b.input(*IMAGE), 3, stride=(2, 2), bias=True),
    "linear": lambda b: b.linear(b.input(2, 4), 3, bias=True),
    "linear of rows": lambda b: b.linear(b.input(*ROWS), 3),
    "product of a matrix and a constant": one(MatMul(), ROWS, (4, 3)),
    "products of pairs of matrices": two(MatMul(), ROWS, (2, 4, 3)),
    "batch norm": lambda b: b.batch_norm(b.input(*IMAGE)),
    "layer norm": one(LayerNorm(2), ROWS, (4,), (4,)),
    "group norm": one(GroupNorm(2), IMAGE, (4,), (4,)),
    "local response norm": one(LocalResponseNorm(3), IMAGE),
    "softmax": one(Softmax(1), ROWS),
    "unary": lambda b: b.unary("relu", b.input(*IMAGE)),
    "unary of a list": lambda b: b.unary("relu", b.input(2)),
    "sum of images": two(Binary("add"), IMAGE, IMAGE),
    "sum with a constant": one(Binary("add"), IMAGE, (1, 4, 1, 1)),
    "sum with a constant of lower rank": one(Binary("add"), IMAGE, (4, 1, 1)),
    "sum with a number": one(Binary("add"), IMAGE, ()),
    "prelu": one(PRelu(), IMAGE, (4, 1, 1)),
    "pool": one(Pool("max", (2, 2)), IMAGE),
    "adaptive pool": one(AdaptivePool("average", (2, 2)), IMAGE),
    "reduce": one(Reduce("mean", (2, 3), keepdims=False), IMAGE),
    "concatenation of channels": two(Concat(1), IMAGE, (2, 3, 6, 5)),
    "slice of channels": one(Slice((1,), (1,), (3,), (1,)), IMAGE),
    "slice of all images": one(Slice((0, 1), (0, 0), (END, 2), (1, 1)), IMAGE),
    "pad of pixels": one(Pad((0, 0, 1, 1), (0, 0, 1, 1)), IMAGE),
    "transpose of pixels": one(Transpose((0, 2, 3, 1)), IMAGE),
    "reshape of an image": one(Reshape((0, -1)), IMAGE),
    "reshape with the images as what is left": one(Reshape((-1, 4, 30)), IMAGE),
    "expand of pixels": one(Expand((1, 4, 6, 5)), (2, 4, 1, 1)),
    "resize": one(Resize("nearest", size=(3, 3)), IMAGE),
    "the input itself": lambda b: b.input(*IMAGE),
}
NOT_ALONE: dict[str, Make] = {
    "convolution with weights that are an input": two(Conv(), IMAGE, (3, 4, 1, 1)),
    "convolution of a constant": lambda b: _with_residual(b, b.random_constant(*IMAGE), b.input(*IMAGE)),
    "linear of one list": lambda b: b.linear(b.input(4), 3),
    "linear with weights that are an input": two(Linear(), (2, 4), (3, 4)),
    "product over images": made_of(MatMul(), (3, 2), (2, 5)),
    "product of all pairs of images": lambda b: _gram(b, (0, 1), (1, 0)),
    "layer norm over images": one(LayerNorm(0), (2, 4), (2, 4), (2, 4)),
    "softmax over images": one(Softmax(0), (2, 4)),
    "sum with a constant for each image": one(Binary("add"), IMAGE, IMAGE),
    "all pairs of images": lambda b: _pairs(b),
    "reduce over images": one(Reduce("sum", (0,)), IMAGE),
    "reduce over everything": one(Reduce("max", (0, 1), keepdims=False), (2, 4)),
    "concatenation of images": two(Concat(0), IMAGE, IMAGE),
    "concatenation with a constant": one(Concat(1), IMAGE, IMAGE),
    "slice of images": one(Slice((0,), (1,), (END,), (1,)), IMAGE),
    "slice of the first images": one(Slice((0,), (0,), (9,), (1,)), IMAGE),
    "images backwards": one(Slice((0,), (END,), (-END - 1,), (-1,)), IMAGE),
    "pad of images": one(Pad((1, 0), (0, 0)), (2, 4)),
    "transpose of images": one(Transpose((1, 0)), (2, 4)),
    "reshape that joins images and pixels": one(Reshape((-1, 4)), ROWS),
    "reshape that divides images": one(Reshape((-1, 2, 2)), (2, 8)),
    "reshape to a number of images": one(Reshape((2, -1)), IMAGE),
    "expand to several images": one(Expand((2, 4)), (1, 4)),
    "expand with more axes": one(Expand((3, 2, 4)), (2, 4)),
    "an output without images": lambda b: b.add(Binary("add"), b.random_constant(2, 3), b.random_constant(2, 3)),
    "a number that enters": lambda b: b.binary("add", b.input(2, 4), b.input()),
}


def _with_residual(b: Builder, x: str, residual: str) -> str:
    return b.add(Conv(epilogue=Epilogue(residual=True)), x, b.random_constant(4, 4, 1, 1), residual)


def _gram(b: Builder, *perms: tuple[int, ...]) -> str:
    """x x^T."""
    x = b.input(2, 4)
    return b.add(MatMul(), *(b.add(Transpose(perm), x) for perm in perms))


def _pairs(b: Builder) -> str:
    """Every image with every image: (1, N, C) + (N, 1, C)."""
    x = b.input(2, 4)
    return b.add(Binary("add"), b.add(Reshape((1, -1, 4)), x), b.add(Reshape((0, 1, 4)), x))


@pytest.mark.parametrize("name", ALONE)
def test_each_image_by_itself(name: str) -> None:
    b = Builder()
    graph = b.finish(ALONE[name](b))
    assert takes_images_alone(graph)
    assert is_truly_alone(graph, 3)


@pytest.mark.parametrize("name", NOT_ALONE)
def test_images_that_depend_on_each_other(name: str) -> None:
    b = Builder()
    output = NOT_ALONE[name](b)
    if not b.graph.inputs:
        b.input(2, 3)
    assert not takes_images_alone(b.finish(output))


def test_what_holds_for_small_batches_only_is_no_answer() -> None:
    """The first nine images are all images of a batch of two."""
    b = Builder()
    x = b.input(2, 4)
    graph = b.finish(b.add(Slice((0,), (0,), (9,), (1,)), b.unary("relu", x)))
    assert is_truly_alone(graph, 2)
    assert not takes_images_alone(graph)


def test_an_output_that_no_image_reaches() -> None:
    b = Builder()
    graph = b.finish(b.unary("relu", b.input(2, 4)), b.constant(np.ones((2, 4))))
    assert not takes_images_alone(graph)


def test_constants_may_be_computed_beside_the_images() -> None:
    b = Builder()
    scale = b.add(Reduce("sum", (0,)), b.random_constant(2, 4))
    graph = b.finish(b.binary("mul", b.input(2, 4), scale))
    assert takes_images_alone(graph)


def test_without_inputs() -> None:
    b = Builder()
    assert not takes_images_alone(b.finish(b.unary("relu", b.constant(np.ones((2, 4))))))


def test_the_graph_stays_as_it_is() -> None:
    b = Builder()
    graph = b.finish(b.conv(b.input(*IMAGE), 3))
    shapes = dict(graph.shapes)
    assert takes_images_alone(graph)
    assert graph.shapes == shapes


# ---- against the truth ----------------------------------------------------------------------------------------------
def is_truly_alone(graph: Graph, n: int) -> bool:
    """Whether `n` images give `n` results, each that of its image in a batch of its own and changed by it alone."""
    try:
        several = graph.with_shapes({name: (n, *graph.shapes[name][1:]) for name in graph.inputs})
        single = graph.with_shapes({name: (1, *graph.shapes[name][1:]) for name in graph.inputs})
    except Error:
        return False
    if any(several.shapes[name][:1] != (n,) for name in graph.outputs):
        return False
    random = np.random.default_rng(0)
    inputs = {name: random.uniform(0.5, 1.5, several.shapes[name]) for name in graph.inputs}
    together = reference.run(several, inputs)
    for image in range(n):
        changed = {name: value.copy() for name, value in inputs.items()}
        for value in changed.values():
            value[image] = random.uniform(0.5, 1.5, value.shape[1:])
        after = reference.run(several, changed)
        alone = reference.run(single, {name: value[image : image + 1] for name, value in inputs.items()})
        for name in graph.outputs:
            if alone[name].shape != (1, *together[name].shape[1:]):
                return False
            others = [i for i in range(n) if i != image]
            if not np.array_equal(after[name][others], together[name][others]):
                return False
            if not np.allclose(alone[name][0], together[name][image], rtol=1e-9, atol=1e-9):
                return False
    return True


def random_graph(random: np.random.Generator) -> Graph:
    """A few operations one after the other or joined, most of which leave images alone; (N, C) or (N, C, M)."""
    b = Builder(int(random.integers(1 << 30)))
    n = 2
    known = [b.input(n, 4, 3) for _ in range(1 + random.integers(2))]
    for _ in range(random.integers(1, 6)):
        x = known[random.integers(len(known))]
        shape = b.graph.shapes[x]
        rank = len(shape)
        axis = int(random.integers(rank)) if random.integers(4) == 0 else rank - 1
        perm = (
            tuple(int(i) for i in random.permutation(rank)) if random.integers(3) == 0 else (0, *range(rank - 1, 0, -1))
        )
        start = int(random.integers(2)) if axis == 0 else 0
        mates = [name for name in known if b.graph.shapes[name] == shape]
        ways: list[Callable[[], str]] = [
            lambda x=x: b.unary("tanh", x),
            lambda x=x, shape=shape: b.add(Binary("mul"), x, b.random_constant(shape[-1])),
            lambda x=x, shape=shape: b.add(Binary("add"), x, b.random_constant(*shape)),
            lambda mates=mates, x=x: b.add(Binary("add"), x, mates[random.integers(len(mates))]),
            lambda x=x, axis=axis: b.add(Softmax(axis), x),
            lambda x=x, axis=axis: b.add(Reduce("mean", (axis,), keepdims=True), x),
            lambda x=x, axis=axis: b.add(Reduce("mean", (axis,), keepdims=False), x),
            lambda x=x, axis=axis, mates=mates: b.add(Concat(axis), x, mates[-1]),
            lambda x=x, axis=axis, start=start: b.add(Slice((axis,), (start,), (END,), (1,)), x),
            lambda x=x, perm=perm: b.add(Transpose(perm), x),
            lambda x=x: b.add(Reshape((0, -1)), x),
            lambda x=x, shape=shape: b.add(Reshape((-1, shape[-1])), x),
            lambda x=x, shape=shape: b.linear(x, 3) if len(shape) > 1 else b.unary("abs", x),
            lambda x=x, rank=rank: b.add(Pad((0,) * rank, (0,) * (rank - 1) + (1,)), x),
        ]
        try:
            made = ways[random.integers(len(ways))]()
        except Error:
            continue
        if b.graph.shapes[made]:  # not a number
            known.append(made)
    return b.finish(known[-1])


def test_random_graphs(rng: np.random.Generator) -> None:
    """Its yes is true. Its no may be wrong, as where images leave axis 0 and come back."""
    counts = {(True, True): 0, (False, True): 0, (False, False): 0}
    for _ in range(400):
        graph = random_graph(rng)
        said, truth = takes_images_alone(graph), is_truly_alone(graph, 3) and is_truly_alone(graph, 5)
        assert truth or not said, graph.nodes
        counts[said, truth] += 1
    assert counts[True, True] > 100
    assert counts[False, False] > 50
    assert counts[False, True] < 60, counts
