from hypothesis import given, settings
from hypothesis import strategies as st

from waterline.graph import Graph
from waterline.graph.ops import (
    AdaptivePool,
    Concat,
    Conv,
    LayerNorm,
    MatMul,
    Pad,
    Pool,
    Reduce,
    Reshape,
    Slice,
    Transpose,
)
from waterline.graph.passes import simplify
from waterline.reference import evaluate
from waterline.spec import Activation, Epilogue

from .building import Builder, check_same, op_names

RELU = Activation("relu")
ROUNDING = 2e-5  # several foldings in a row, each rounds to float32


def summary(graph: Graph) -> list[str]:
    return [
        f"{node.op.name} {node.op.epilogue}" if hasattr(node.op, "epilogue") else node.op.name for node in graph.nodes
    ]


def bottleneck(b: Builder, x: str, k: int, stride: int) -> str:
    y = b.unary("relu", b.batch_norm(b.conv(x, k // 4, 1)))
    y = b.unary("relu", b.batch_norm(b.conv(y, k // 4, 3, pad=(1, 1, 1, 1), stride=(stride, stride))))
    y = b.batch_norm(b.conv(y, k, 1))
    if b.graph.shapes[x] != b.graph.shapes[y]:
        x = b.batch_norm(b.conv(x, k, 1, stride=(stride, stride)))
    return b.unary("relu", b.binary("add", y, x))


def test_resnet():
    b = Builder()
    y = b.conv(b.input(2, 3, 32, 32), 16, 7, stride=(2, 2), pad=(3, 3, 3, 3))
    y = b.add(Pool("max", (3, 3), (2, 2), (1, 1, 1, 1)), b.unary("relu", b.batch_norm(y)))
    for stride in (1, 1, 2):
        y = bottleneck(b, y, 32, stride)
    y = b.add(Reshape((0, -1)), b.add(AdaptivePool("average"), y))
    graph = b.finish(b.linear(y, 10, bias=True))
    result = simplify(graph)
    plain, block = "Conv bias+relu", ["Conv bias+relu", "Conv bias+relu", "Conv bias+add+relu"]
    projected = ["Conv bias+relu", "Conv bias+relu", "Conv bias", "Conv bias+add+relu"]
    assert summary(result) == [
        plain, "Pool", *projected, *block, *projected, "AdaptivePool", "Reshape", "Linear bias",
    ]  # fmt: skip
    check_same(graph, result, ROUNDING)


def convnext_block(b: Builder, x: str) -> str:
    """As torchvision's model looks after export to ONNX: gelu and the linear layers' biases in pieces."""
    c = b.graph.shapes[x][1]
    y = b.conv(x, c, 7, bias=True, groups=c, pad=(3, 3, 3, 3))
    y = b.add(LayerNorm(3, 1e-6), b.add(Transpose((0, 2, 3, 1)), y), b.random_constant(c), b.random_constant(c))
    y = b.binary("add", b.add(MatMul(), y, b.random_constant(c, 4 * c)), b.random_constant(4 * c))
    phi = b.binary("add", b.unary("erf", b.binary("div", y, 2**0.5)), 1.0)
    y = b.binary("mul", b.binary("mul", y, phi), 0.5)
    y = b.binary("add", b.add(MatMul(), y, b.random_constant(4 * c, c)), b.random_constant(c))
    y = b.binary("mul", b.random_constant(c, 1, 1), b.add(Transpose((0, 3, 1, 2)), y))
    return b.binary("add", y, x)


def test_convnext():
    b = Builder()
    y = b.conv(b.input(1, 3, 32, 32), 8, 4, bias=True, stride=(4, 4))
    y = convnext_block(b, convnext_block(b, y))
    y = b.add(LayerNorm(3, 1e-6), b.add(Transpose((0, 2, 3, 1)), y), b.random_constant(8), b.random_constant(8))
    y = b.conv(b.add(Transpose((0, 3, 1, 2)), y), 16, 2, bias=True, stride=(2, 2))
    graph = b.finish(convnext_block(b, y))
    result = simplify(graph)
    block = ["Conv bias", "Transpose", "LayerNorm", "Linear bias+gelu"]
    assert summary(result) == [
        "Conv bias", *block, "Transpose", "Linear bias+add", "Transpose", *block, "Linear bias+add",
        "LayerNorm", "Transpose", "Conv bias", *block, "Transpose", "Linear bias+add", "Transpose",
    ]  # fmt: skip
    check_same(graph, result, ROUNDING)


def test_preactivation():
    b = Builder()
    features = [b.input(1, 4, 8, 8)]
    for _ in range(2):
        y = b.add(Concat(1), *features) if len(features) > 1 else features[0]
        y = b.unary("relu", b.batch_norm(b.conv(b.unary("relu", b.batch_norm(y)), 8, 1)))
        features.append(b.conv(y, 4, pad=(1, 1, 1, 1)))
    graph = b.finish(b.add(Concat(1), *features))
    result = simplify(graph)
    assert op_names(result) == ["mul", "add", "Conv", "Conv", "Concat", "mul", "add", "Conv", "Conv", "Concat"]
    assert result.nodes[1].op.after == RELU
    assert result.nodes[2].op.epilogue == Epilogue(bias=True, after=RELU)
    check_same(graph, result, ROUNDING)


def test_inverted_residual_with_squeeze_and_excitation():
    b = Builder()
    x = b.input(2, 8, 6, 6)
    y = b.batch_norm(b.conv(x, 24, 1))
    y = b.binary("mul", y, b.unary("sigmoid", y))
    y = b.batch_norm(b.conv(b.add(Pad((0, 0, 1, 1), (0, 0, 1, 1)), y), 24, groups=24))
    y = b.binary("mul", y, b.unary("sigmoid", y))
    gate = b.unary("relu", b.conv(b.add(Reduce("mean", (2, 3)), y), 6, 1, bias=True))
    y = b.binary("mul", y, b.unary("sigmoid", b.conv(gate, 24, 1, bias=True)))
    graph = b.finish(b.binary("add", b.batch_norm(b.conv(y, 8, 1)), x))
    result = simplify(graph)
    convolutions = ["Conv bias+silu", "Conv bias+silu"]
    assert summary(result) == [
        *convolutions, "reduce_mean", "Conv bias+relu", "Conv bias+sigmoid", "mul", "Conv bias+add",
    ]  # fmt: skip
    assert result.nodes[1].op.pad == (1, 1, 1, 1)
    check_same(graph, result, ROUNDING)


def test_channel_shuffle_stays():
    b = Builder()
    x = b.input(2, 8, 4, 4)
    left, right = (b.add(Slice((1,), (start,), (start + 4,), (1,)), x) for start in (0, 4))
    y = b.add(Concat(1), left, b.unary("relu", b.batch_norm(b.conv(right, 4, 1))))
    y = b.add(Transpose((0, 2, 1, 3, 4)), b.add(Reshape((0, 2, 4, 4, 4)), y))
    graph = b.finish(b.add(Reshape((0, 8, 4, 4)), y))
    result = simplify(graph)
    assert op_names(result) == ["Slice", "Slice", "Conv", "Concat", "Reshape", "Transpose", "Reshape"]
    check_same(graph, result, ROUNDING)


def test_standardised_weights_are_computed_once():
    """Weights that pass through nodes of their own: constant folding makes a plain convolution of it."""
    b = Builder()
    weight = b.random_constant(4, 3, 3, 3)
    centred = b.binary("sub", weight, b.add(Reduce("mean", (1, 2, 3)), weight))
    graph = b.finish(b.batch_norm(b.add(Conv(), b.input(1, 3, 6, 6), centred)))
    assert op_names(simplify(graph)) != ["Conv"]
    result = simplify(graph, evaluate)
    assert op_names(result) == ["Conv"]
    check_same(graph, result, ROUNDING)


def test_simplify_is_pure_and_idempotent():
    b = Builder()
    y = bottleneck(b, b.input(1, 8, 6, 6), 16, 2)
    b.unary("exp", y)
    graph = b.finish(y)
    nodes, constants = list(graph.nodes), {name: value.copy() for name, value in graph.constants.items()}
    result = simplify(graph)
    assert graph.nodes == nodes
    assert constants.keys() == graph.constants.keys()
    assert all((constants[name] == value).all() for name, value in graph.constants.items())
    assert simplify(result) is result


def test_unchanged_constants_are_shared():
    b = Builder()
    graph = b.finish(b.unary("relu", b.conv(b.input(1, 3, 5, 5), 4)))
    (weight,) = graph.constants
    assert simplify(graph).constants[weight] is graph.constants[weight]


def test_another_batch_and_image():
    b = Builder()
    y = bottleneck(b, b.input(1, 8, 6, 6), 16, 2)
    y = convnext_block(b, y)
    graph = b.finish(b.linear(b.add(Reshape((0, -1)), b.add(AdaptivePool("average"), y)), 5))
    result = simplify(graph)
    for shape in ((1, 8, 6, 6), (3, 8, 6, 6), (2, 8, 11, 9)):
        check_same(graph.with_shapes({"x0": shape}), result.with_shapes({"x0": shape}), ROUNDING)


def test_an_empty_batch():
    b = Builder()
    graph = b.finish(bottleneck(b, b.input(0, 8, 6, 6), 8, 1))
    check_same(graph, simplify(graph))


# ---- random networks ------------------------------------------------------------------------------------------------
@st.composite
def networks(draw: st.DrawFn) -> Graph:
    """Layers, constants, sums, transposes and pads in any order, with several readers and outputs."""
    b = Builder(draw(st.integers(0, 10**6)))
    tensors = [b.input(draw(st.integers(1, 2)), 4, 5, 5)]

    def like(x: str) -> list[str]:
        return [t for t in tensors if b.graph.shapes[t] == b.graph.shapes[x]]

    def channels(x: str, axis: int) -> tuple[int, ...]:
        shape = b.graph.shapes[x]
        return tuple(d if i == axis else 1 for i, d in enumerate(shape))

    steps = {
        "conv": lambda x: b.conv(x, 4, draw(st.sampled_from([1, 3])), draw(st.booleans()), pad=(1, 1, 1, 1)),
        "depthwise": lambda x: b.conv(x, b.graph.shapes[x][1], 1, groups=b.graph.shapes[x][1]),
        "linear": lambda x: b.linear(x, b.graph.shapes[x][-1], draw(st.booleans())),
        "batch_norm": b.batch_norm,
        "unary": lambda x: b.unary(draw(st.sampled_from(["relu", "tanh", "sigmoid", "abs", "hard_swish"])), x),
        "scalar": lambda x: b.binary(
            draw(st.sampled_from(["add", "sub", "mul", "div", "max", "min"])), x, b.random_constant()
        ),
        "channels": lambda x: b.binary(draw(KINDS), x, b.random_constant(*channels(x, draw(st.sampled_from([1, 3]))))),
        "silu": lambda x: b.binary("mul", x, b.unary("sigmoid", x)),
        "hard": lambda x: b.binary("div", b.unary("clip", b.binary("add", x, 3.0), 0.0, 6.0), 6.0),
        "sum": lambda x: b.binary(draw(KINDS), x, draw(st.sampled_from(like(x)))),
        "residual": lambda x: b.binary("add", b.conv(x, b.graph.shapes[x][1], 1), draw(st.sampled_from(like(x)))),
        "last": lambda x: b.add(Transpose((0, 2, 3, 1)), x),
        "first": lambda x: b.add(Transpose((0, 3, 1, 2)), x),
        "pad": lambda x: b.add(Pad((0, 0, 1, 0), (0, 0, 0, 1)), x),
        "pool": lambda x: b.add(Pool(draw(st.sampled_from(["max", "average"])), (2, 2)), x),
        "reshape": lambda x: b.add(Reshape((0, 0, 0, -1)), x),
    }
    for _ in range(draw(st.integers(1, 14))):
        x = draw(st.sampled_from(tensors[-3:] + tensors[-1:] * 3))  # mostly the newest: chains are what fuses
        if min(b.graph.shapes[x]) < 2 and b.graph.shapes[x][0] != 1:
            continue
        name = draw(st.sampled_from(sorted(steps)))
        if name in ("pool", "pad") and not all(2 <= d <= 12 for d in b.graph.shapes[x][2:]):
            continue
        tensors.append(steps[name](x))
    others = draw(st.lists(st.sampled_from(tensors), max_size=1))
    return b.finish(*dict.fromkeys([tensors[-1], *others]))


KINDS = st.sampled_from(["add", "add", "sub", "mul"])


@settings(max_examples=200, deadline=None)
@given(networks())
def test_random_networks_keep_their_values(graph):
    result = simplify(graph, evaluate)
    assert simplify(result, evaluate) is result
    assert len(result.nodes) <= len(graph.nodes) + 2 * sum(name == "BatchNorm" for name in op_names(graph)) + 4
    check_same(graph, result, 1e-4)
