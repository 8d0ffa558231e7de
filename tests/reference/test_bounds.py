import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from waterline.errors import InvalidArgument
from waterline.graph import Graph, Node
from waterline.graph.ops import AdaptivePool, Conv, ConvTranspose, Linear, MatMul, Reshape
from waterline.reference import compare, conv2d, conv_bound, network_bound, run
from waterline.reference.elementwise import activate
from waterline.spec import ACTIVATIONS, Activation, ConvSpec, Epilogue

SMOOTH = {"leaky_relu": (0.1,), "clip": (0.0, 6.0), "hard_sigmoid": (0.2, 0.5), "elu": (1.0,), "selu": (1.67, 1.05)}

JUMPING = {"log", "sqrt", "reciprocal", "floor", "ceil"}  # not of bounded slope: somewhere any error is possible


def data(spec: ConvSpec, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = {
        "x": (spec.n, spec.c, spec.h, spec.w),
        "weight": (spec.k, spec.group_c, spec.r, spec.s),
        "bias": (spec.k,),
        "residual": (spec.n, spec.k, spec.p, spec.q),
    }
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def sequential_f32(spec: ConvSpec, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The least accurate direct sum: one float32 accumulator, one product after the other."""
    padded = np.pad(x, ((0, 0), (0, 0), (spec.pad[0], spec.pad[2]), (spec.pad[1], spec.pad[3])))
    y = np.zeros((spec.n, spec.k, spec.p, spec.q), np.float32)
    for r in range(spec.r):
        for s in range(spec.s):
            for c in range(spec.c):
                y += weight[:, c, r, s][:, None, None] * padded[:, c : c + 1, r : r + spec.p, s : s + spec.q]
    return y


def test_direct_summation_is_within_factor_one():
    spec = ConvSpec(1, 64, 9, 9, 16, 3, 3, pad=(1, 1, 1, 1))
    arrays = data(spec)
    x, weight = arrays["x"], arrays["weight"]
    truth, bound = conv2d(x, weight, None, spec), conv_bound(spec, x, weight)
    for actual in (sequential_f32(spec, x, weight), F.conv2d(torch.tensor(x), torch.tensor(weight), padding=1).numpy()):
        comparison = compare(actual, truth, bound)
        assert comparison.is_within, comparison
        assert comparison.max_error > 0


def test_bound_notices_one_lost_product():
    spec = ConvSpec(1, 16, 5, 5, 4, 3, 3, pad=(1, 1, 1, 1))
    arrays = data(spec)
    x, weight = arrays["x"], arrays["weight"].copy()
    truth, bound = conv2d(x, weight, None, spec), conv_bound(spec, x, weight)
    weight[2, 7, 1, 2] = 0
    assert not compare(conv2d(x, weight, None, spec), truth, bound).is_within


def test_pixels_that_are_mixed_share_the_largest_bound():
    """Of all windows that meet the image: those of the layer see its corners and nothing else."""
    spec = ConvSpec(1, 4, 4, 4, 3, 3, 3, stride=(5, 5), pad=(2, 2, 2, 2))
    arrays = data(spec)
    x, weight = arrays["x"], arrays["weight"]
    own = conv_bound(spec, x, weight)
    mixed = conv_bound(spec, x, weight, mixes_pixels=True)
    whole = conv_bound(ConvSpec(1, 4, 4, 4, 3, 3, 3, pad=(2, 2, 2, 2)), x, weight)
    np.testing.assert_array_equal(mixed, np.broadcast_to(whole.max(axis=(2, 3), keepdims=True), own.shape))
    assert (mixed > own).all()


def test_mixed_bounds_go_through_the_epilogue():
    """The error is widened before the activation: far outside of clip's range it is lost, inside it stays."""
    spec = ConvSpec(1, 1, 1, 1, 1, 3, 3, pad=(1, 1, 1, 1), epilogue=Epilogue(after=Activation("clip", (-1.0, 1.0))))
    weight = np.ones((1, 1, 3, 3))
    assert conv_bound(spec, np.full((1, 1, 1, 1), 100.0), weight, mixes_pixels=True).item() < 1e-4
    weight[0, 0, 1, 1] = 0
    assert conv_bound(spec, np.full((1, 1, 1, 1), 100.0), weight).item() < 1e-30
    assert conv_bound(spec, np.full((1, 1, 1, 1), 100.0), weight, mixes_pixels=True).item() > 1e-5


def test_bound_grows_with_the_factor():
    spec = ConvSpec(1, 3, 5, 5, 4, 3, 3)
    arrays = data(spec)
    bound = conv_bound(spec, arrays["x"], arrays["weight"])
    np.testing.assert_allclose(conv_bound(spec, arrays["x"], arrays["weight"], 10.0), 10 * bound)
    depth = 27
    magnitude = conv2d(np.abs(arrays["x"]), np.abs(arrays["weight"]), None, spec)
    np.testing.assert_allclose(bound, 2.0**-23 * (depth + 2) * magnitude)


@pytest.mark.parametrize("kind", sorted(set(ACTIVATIONS) - JUMPING))
def test_epilogue_is_within_the_bound(kind):
    function = Activation(kind, SMOOTH.get(kind, ()))
    epilogue = Epilogue(bias=True, before=function, residual=True, after=function)
    spec = ConvSpec(2, 8, 6, 6, 8, 3, 3, epilogue=epilogue)
    arrays = data(spec)
    arrays["weight"] /= 8  # keeps exp(exp(x)) finite
    arrays["residual"] /= 4
    arrays["bias"] /= 4
    truth = conv2d(spec=spec, **arrays)
    bound = conv_bound(spec, **arrays)
    x32, bare = {k: v.astype(np.float32) for k, v in arrays.items()}, spec.with_epilogue(Epilogue())
    total = sequential_f32(bare, x32["x"], x32["weight"]) + x32["bias"][:, None, None]
    single = Activation(kind, function.params)
    before = apply_f32(single, total)
    after = apply_f32(single, before + x32["residual"])
    comparison = compare(after, truth, bound)
    assert comparison.is_within, comparison
    assert np.median(bound) < 1e-3 * max(1.0, np.median(np.abs(truth)))  # a bound that says something


def apply_f32(function: Activation, x: np.ndarray) -> np.ndarray:
    """The activation of a float32 argument, rounded to float32."""
    return activate(function, x.astype(np.float64)).astype(np.float32)


def test_half_precision_adds_the_rounding_of_the_store():
    spec = ConvSpec(1, 4, 3, 3, 2, 1, 1, dtype="bf16")
    arrays = data(spec)
    truth = conv2d(arrays["x"], arrays["weight"], None, spec)
    stored = torch.tensor(truth).to(torch.bfloat16).to(torch.float64).numpy()
    bound = conv_bound(spec, arrays["x"], arrays["weight"])
    assert compare(stored, truth, bound).is_within
    assert not compare(
        stored, truth, conv_bound(ConvSpec(1, 4, 3, 3, 2, 1, 1), arrays["x"], arrays["weight"])
    ).is_within


def test_whole_numbers_allow_nothing():
    spec = ConvSpec(1, 4, 3, 3, 2, 1, 1, dtype="i8")
    assert (conv_bound(spec, np.ones((1, 4, 3, 3)), np.ones((2, 4, 1, 1))) == 0).all()


def test_underflow_is_not_an_error():
    spec = ConvSpec(1, 4, 3, 3, 2, 1, 1)
    x, weight = np.full((1, 4, 3, 3), 1e-20), np.full((2, 4, 1, 1), 1e-21)
    truth = conv2d(x, weight, None, spec)
    assert compare(np.zeros_like(truth), truth, conv_bound(spec, x, weight)).is_within


# ---- comparison -----------------------------------------------------------------------------------------------------
def test_compare_finds_the_worst_element():
    expected = np.array([[1.0, 2.0], [3.0, 4.0]])
    actual = np.array([[1.0, 2.1], [3.3, 4.0]], np.float32)
    comparison = compare(actual, expected, np.array([[1, 0.01], [1, 1]]))
    assert comparison.where == (0, 1)
    assert comparison.ratio == pytest.approx(10, rel=1e-5)
    assert comparison.max_error == pytest.approx(0.3, rel=1e-5)
    assert not comparison.is_within
    assert "(0, 1)" in str(comparison)


def test_compare_special_values():
    special = np.array([np.nan, np.inf, -np.inf])
    assert compare(special, special, 0.0).is_within
    for wrong in ([0, np.inf, -np.inf], [np.nan, -np.inf, -np.inf], [np.nan, np.inf, 1], [np.nan, np.nan, -np.inf]):
        comparison = compare(np.array(wrong, np.float32), special, np.inf)
        assert comparison.disagreements == 1
        assert not comparison.is_within
    assert "disagree" in str(compare(np.array([0.0]), np.array([np.nan]), 1.0))


def test_compare_allows_overflow_of_the_type():
    assert compare(np.array([np.inf, -np.inf], np.float32), np.array([1e39, -1e39]), 0.0).is_within
    assert not compare(np.array([np.inf], np.float32), np.array([-1e39]), 0.0).is_within
    assert not compare(np.array([np.inf], np.float32), np.array([1e37]), 0.0).is_within
    assert not compare(np.array([np.inf], np.float64), np.array([1e39]), 0.0).is_within


def test_compare_without_room():
    assert compare(np.zeros(2), np.zeros(2), 0.0).is_within
    assert compare(np.array([1e-300]), np.zeros(1), 0.0).ratio == np.inf
    assert compare(np.array([1.0]), np.zeros(1), np.nan).ratio == np.inf
    assert compare(np.zeros((0, 3)), np.zeros((0, 3)), 0.0).is_within
    with pytest.raises(InvalidArgument, match="shape"):
        compare(np.zeros(2), np.zeros(3), 0.0)


# ---- a network ------------------------------------------------------------------------------------------------------
def network(depth: int = 6, channels: int = 16) -> Graph:
    random = np.random.default_rng(0)
    nodes, constants, tensor = [], {}, "x"
    for i in range(depth):
        scale = np.sqrt(2 / (9 * channels))
        constants[f"w{i}"] = (random.standard_normal((channels, channels, 3, 3)) * scale).astype(np.float32)
        epilogue = Epilogue(residual=i % 2 == 1, after=Activation("relu"))
        inputs = (
            (tensor, f"w{i}", f"t{i - 2}")
            if i % 2 and i > 1
            else (tensor, f"w{i}", "x")
            if i % 2
            else (tensor, f"w{i}")
        )
        nodes.append(Node(f"conv{i}", Conv(pad=(1, 1, 1, 1), epilogue=epilogue), inputs, (f"t{i}",)))
        tensor = f"t{i}"
    nodes.append(Node("pool", AdaptivePool("average"), (tensor,), ("pooled",)))
    nodes.append(Node("flat", Reshape((0, -1)), ("pooled",), ("flat",)))
    constants["fc"] = random.standard_normal((50, channels)).astype(np.float32)
    nodes.append(Node("fc", Linear(), ("flat", "fc"), ("y",)))
    return Graph("small", ["x"], ["y"], nodes, {"x": (1, channels, 12, 12)}, constants).infer()


def torch_f32(graph: Graph, x: np.ndarray) -> np.ndarray:
    values = {"x": torch.tensor(x)} | {name: torch.tensor(value) for name, value in graph.constants.items()}
    for node in graph.nodes:
        inputs = [values[name] for name in node.inputs]
        if isinstance(node.op, Conv):
            y = F.conv2d(inputs[0], inputs[1], padding=1)
            values[node.output] = F.relu(y + inputs[2] if node.op.epilogue.residual else y)
        elif isinstance(node.op, Linear):
            values[node.output] = F.linear(*inputs)
        else:
            values[node.output] = inputs[0].mean((2, 3), keepdim=True) if node.name == "pool" else inputs[0].flatten(1)
    return values["y"].numpy()


def test_network_bound_holds_for_another_f32_engine_and_is_tight():
    graph = network()
    x = np.random.default_rng(5).standard_normal((1, 16, 12, 12)).astype(np.float32)
    truth = run(graph, {"x": x})["y"]
    bound = network_bound(graph, {"x": x})["y"]
    comparison = compare(torch_f32(graph, x), truth, bound)
    assert comparison.is_within, comparison
    assert bound < 1e-4 * np.abs(truth).max()


def test_network_bound_notices_a_small_mistake():
    graph = network()
    x = np.random.default_rng(5).standard_normal((1, 16, 12, 12)).astype(np.float32)
    truth, bound = run(graph, {"x": x})["y"], network_bound(graph, {"x": x})["y"]
    graph.constants["w3"] = graph.constants["w3"].copy()
    graph.constants["w3"][3, 5, 1, 1] *= 1.01
    assert not compare(run(graph, {"x": x})["y"], truth, bound).is_within


@pytest.mark.parametrize("op", ["transposed", "transposed with bias", "product", "gelu"])
def test_network_bound_of_other_layers(op):
    """About the rounding that one layer does: between a tenth and a thousand units in the last place."""
    random = np.random.default_rng(0)
    x = random.standard_normal((1, 8, 6, 6)).astype(np.float32)
    weight, bias = random.standard_normal((8, 8, 3, 3)).astype(np.float32), np.ones(8, np.float32)
    layers = {
        "transposed": (ConvTranspose((2, 2)), {"w": weight}),
        "transposed with bias": (ConvTranspose((2, 2), bias=True), {"w": weight, "b": bias}),
        "product": (MatMul(), {"w": random.standard_normal((6, 5)).astype(np.float32)}),
        "gelu": (Conv(epilogue=Epilogue(bias=True, after=Activation("gelu"))), {"w": weight, "b": bias}),
    }
    layer, constants = layers[op]
    nodes = [Node("layer", layer, ("x", *constants), ("y",))]
    graph = Graph("one", ["x"], ["y"], nodes, {"x": x.shape}, constants).infer()
    bound, truth = network_bound(graph, {"x": x})["y"], run(graph, {"x": x})["y"]
    assert 0.1 < bound / np.abs(truth).max() / 2.0**-23 < 1000
    assert compare(truth.astype(np.float32), truth, bound).is_within


def test_network_bound_follows_factors_and_seed():
    graph = network(2)
    x = {"x": np.random.default_rng(5).standard_normal((1, 16, 12, 12))}
    bound = network_bound(graph, x, seed=3)
    assert network_bound(graph, x, seed=3) == bound
    assert network_bound(graph, x, {"conv0": 100.0}, seed=3)["y"] > 5 * bound["y"]
    with pytest.raises(InvalidArgument, match="trials"):
        network_bound(graph, x, trials=0)
