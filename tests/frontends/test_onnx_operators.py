"""Converters against ONNX's own evaluation, where the ONNX project's suite (tests/onnx_backend) leaves gaps:
old opsets, attributes in rare combinations, one-dimensional layers, other batches than the one imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import waterline
from waterline import reference
from waterline.frontends.onnx import load
from waterline.graph import Graph, ops

from .onnx_building import build, node, random


class Runtime:
    """ONNX Runtime, for what ONNX's own evaluator computes wrongly (global pools and groups in one dimension)."""

    def __init__(self, model: onnx.ModelProto) -> None:
        runtime = pytest.importorskip("onnxruntime")
        self.session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(self, names: None, data: dict[str, np.ndarray]) -> list[np.ndarray]:
        return self.session.run(names, data)


def check(
    model: onnx.ModelProto,
    *,
    batches: tuple[int, ...] = (3,),
    oracle: Callable[[onnx.ModelProto], Any] = ReferenceEvaluator,
) -> Graph:
    """The graph computes what the oracle does, for the shapes in the file and for other batches."""
    graph = load(model)
    evaluator = oracle(model)
    for batch in (None, *batches):
        shapes = {name: graph.shapes[name] for name in graph.inputs}
        if batch is not None:
            shapes = {name: (batch, *shape[1:]) for name, shape in shapes.items()}
        data = {name: random(*shape, seed=i) for i, (name, shape) in enumerate(shapes.items())}
        results = reference.run(graph.with_shapes(shapes), data)
        for name, expected in zip(graph.outputs, evaluator.run(None, data), strict=True):
            assert results[name].shape == expected.shape
            np.testing.assert_allclose(results[name], expected, rtol=1e-5, atol=1e-5)
    return graph


def kinds(graph: Graph) -> list[str]:
    return [step.op.name for step in graph.nodes]


# ---- convolution ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"strides": [2], "pads": [1, 2]},
        {"dilations": [2], "auto_pad": "SAME_UPPER"},
        {"strides": [2], "auto_pad": "SAME_LOWER"},
        {"auto_pad": "VALID"},
        {"group": 2},
    ],
)
def test_conv_of_one_dimension(attributes: dict[str, Any]) -> None:
    groups = attributes.get("group", 1)
    graph = check(
        build(
            [node("Conv", "x,w,b", **attributes)],
            {"x": (1, 4, 11)},
            constants={"w": random(6, 4 // groups, 3), "b": random(6, seed=1)},
        )
    )
    assert kinds(graph) == ["Reshape", "Conv", "Reshape"]


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pad(auto_pad: str) -> None:
    graph = check(
        build(
            [node("Conv", "x,w", auto_pad=auto_pad, strides=[2, 3])],
            {"x": (1, 2, 9, 10)},
            constants={"w": random(3, 2, 2, 5)},
        )
    )
    assert isinstance(graph.nodes[0].op, ops.Conv)


@pytest.mark.parametrize(
    ("attributes", "pad", "output_pad"),
    [
        ({"output_shape": [9, 9], "strides": [2, 2]}, (0, 0, 0, 0), (0, 0)),
        ({"output_shape": [8, 7], "strides": [2, 2]}, (1, 1, 0, 1), (0, 0)),
        ({"output_shape": [8, 7], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, (0, 1, 1, 1), (0, 0)),
        ({"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (0, 0, 1, 1), (0, 0)),
        ({"auto_pad": "SAME_LOWER", "strides": [2, 2]}, (1, 1, 0, 0), (0, 0)),
        ({"output_shape": [10, 9], "strides": [2, 2]}, (0, 0, 0, 0), (1, 0)),
        ({"output_padding": [1, 1], "strides": [2, 2], "pads": [1, 1, 1, 1]}, (1, 1, 1, 1), (1, 1)),
    ],
)
def test_pads_of_conv_transpose(attributes: dict[str, Any], pad: tuple[int, ...], output_pad: tuple[int, ...]) -> None:
    model = build(
        [node("ConvTranspose", "x,w", **attributes)], {"x": (1, 2, 4, 4)}, constants={"w": random(2, 3, 3, 3)}
    )
    op = load(model).nodes[0].op
    assert isinstance(op, ops.ConvTranspose)
    assert (op.pad, op.output_pad) == (pad, output_pad)


def test_conv_transpose_of_one_dimension() -> None:
    check(
        build(
            [node("ConvTranspose", "x,w,b", strides=[2], pads=[1, 0], group=2)],
            {"x": ("n", 4, 5)},
            constants={"w": random(4, 3, 3), "b": random(6, seed=1)},
        ),
        oracle=Runtime,
    )


# ---- pooling --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("ceil_mode", [0, 1])
def test_pools_of_one_dimension(kind: str, ceil_mode: int) -> None:
    attributes: dict[str, Any] = {"kernel_shape": [3], "strides": [2], "ceil_mode": ceil_mode}
    check(build([node(kind, "x", **attributes)], {"x": ("n", 3, 10)}, opset=22), oracle=Runtime)


@pytest.mark.parametrize("shape", [(1, 3, 7), (1, 3, 5, 4), (1, 3, 4, 3, 2)])
@pytest.mark.parametrize("kind", ["GlobalMaxPool", "GlobalAveragePool"])
def test_global_pools_of_any_rank(kind: str, shape: tuple[int, ...]) -> None:
    check(build([node(kind, "x")], {"x": ("n", *shape[1:])}), oracle=Runtime)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_global_lp_pool(p: int) -> None:
    graph = load(build([node("GlobalLpPool", "x", p=p)], {"x": (2, 3, 4, 5)}))
    x = random(2, 3, 4, 5)
    expected = (np.abs(x.astype(float)) ** p).sum((2, 3), keepdims=True) ** (1 / p)
    np.testing.assert_allclose(reference.run(graph, {"x": x})["y"], expected, rtol=1e-6)


# ---- elements -------------------------------------------------------------------------------------------------------
def test_clip_of_opset_6_has_attributes() -> None:
    graph = load(build([node("Clip", "x", min=-1.0)], {"x": (2, 3)}, opset=10))
    op = graph.nodes[0].op
    assert isinstance(op, ops.Unary)
    assert op.function.params == (-1.0, np.inf)


@pytest.mark.parametrize(
    ("inputs", "params"), [("x,low", (-1, np.inf)), ("x,,high", (-np.inf, 2)), ("x", (-np.inf, np.inf))]
)
def test_clip_with_missing_bounds(inputs: str, params: tuple[float, float]) -> None:
    graph = load(build([node("Clip", inputs)], {"x": (2, 3)}, constants={"low": -1.0, "high": 2.0}))
    op = graph.nodes[0].op
    assert isinstance(op, ops.Unary)
    assert op.function.params == params


def test_clip_with_bounds_computed_at_run_time() -> None:
    check(build([node("Clip", "x,low,high")], {"x": (2, 3), "low": (), "high": ()}), batches=())


def test_binary_of_opset_6_is_aligned_with_an_axis() -> None:
    graph = load(
        build([node("Add", "x,b", broadcast=1, axis=1)], {"x": (2, 3, 4, 5)}, constants={"b": random(3)}, opset=6)
    )
    x = random(2, 3, 4, 5, seed=1)
    np.testing.assert_allclose(reference.run(graph, {"x": x})["y"], x + random(3).reshape(3, 1, 1), rtol=1e-6)


@pytest.mark.parametrize("kind", ["Sum", "Mean", "Max", "Min"])
@pytest.mark.parametrize("inputs", ["x", "x,z", "x,z,c"])
def test_variadic(kind: str, inputs: str) -> None:
    shapes = {name: (1, 3, 2) for name in inputs.split(",") if name != "c"}
    check(build([node(kind, inputs)], shapes, constants={"c": random(3, 1, seed=9)}))


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_swish_and_celu(alpha: float) -> None:
    x = random(2, 5)
    swish = load(build([node("Swish", "x", alpha=alpha)], {"x": (2, 5)}, opset=24))
    np.testing.assert_allclose(reference.run(swish, {"x": x})["y"], x / (1 + np.exp(-alpha * x)), rtol=1e-5)
    celu = load(build([node("Celu", "x", alpha=alpha)], {"x": (2, 5)}))
    expected = np.maximum(0, x) + np.minimum(0, alpha * np.expm1(x / alpha))
    np.testing.assert_allclose(reference.run(celu, {"x": x})["y"], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("exponent", "kind"), [(2.0, "square"), (0.5, "sqrt"), (3.0, "pow"), (2, "square")])
def test_powers(exponent: float, kind: str) -> None:
    assert kinds(load(build([node("Pow", "x,e")], {"x": (2, 3)}, constants={"e": exponent}))) == [kind]


# ---- normalisation --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 5, 1)])
def test_softmax_of_opset_11_flattens(kind: str, axis: int, shape: tuple[int, ...]) -> None:
    graph = load(build([node(kind, "x", axis=axis)], {"x": shape}, opset=11))
    x = random(*shape).astype(np.float64)
    flat = x.reshape(int(np.prod(shape[:axis])), -1)
    expected = np.exp(flat) / np.exp(flat).sum(1, keepdims=True)
    expected = (np.log(expected) if kind == "LogSoftmax" else expected).reshape(shape)
    np.testing.assert_allclose(reference.run(graph, {"x": x})["y"], expected, rtol=1e-6)


def test_softmax_over_channels_of_one_pixel_needs_no_reshape() -> None:
    assert kinds(load(build([node("Softmax", "x")], {"x": (1, 10, 1, 1)}, opset=11))) == ["Softmax"]


def test_group_normalization_of_opset_18_has_a_scale_for_each_group() -> None:
    model = build(
        [node("GroupNormalization", "x,s,b", num_groups=2)],
        {"x": (1, 6, 3, 3)},
        constants={"s": random(2), "b": random(2, seed=1)},
        opset=18,
    )
    check(model)


def test_layer_normalization_gives_mean_and_deviation_on_request() -> None:
    model = build(
        [node("LayerNormalization", "x,s,b", "y,mean,inverse", axis=2)],
        {"x": (1, 2, 3, 4)},
        ("y", "mean", "inverse"),
        {"s": random(3, 4), "b": random(3, 4, seed=1)},
    )
    check(model)


def test_standardised_weights_are_constants() -> None:
    """NFNets are exported with a BatchNormalization of the weights in training mode."""
    model = build(
        [
            node("Reshape", "w,to", "flat"),
            node("BatchNormalization", "flat,s,b,m,v", "standard,m2,v2", training_mode=1),
            node("Reshape", "standard,back", "weight"),
            node("Conv", "x,weight"),
        ],
        {"x": (1, 2, 5, 5)},
        constants={
            "w": random(4, 2, 3, 3),
            "to": [1, 4, -1],
            "back": [4, 2, 3, 3],
            "s": random(4),
            "b": [0.0] * 4,
            "m": [0.0] * 4,
            "v": [1.0] * 4,
        },
        opset=15,
    )
    graph = check(model)
    assert kinds(graph) == ["Conv"]


# ---- matrix products ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("c", [None, (), (1,), (5,), (1, 5)])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, -2.0)])
def test_gemm_with_constants_is_one_layer(trans_b: int, c: tuple[int, ...] | None, alpha: float, beta: float) -> None:
    constants = {"b": random(5, 4) if trans_b else random(4, 5)}
    if c is not None:
        constants["c"] = random(*c, seed=2)
    inputs = "x,b" if c is None else "x,b,c"
    graph = check(
        build([node("Gemm", inputs, transB=trans_b, alpha=alpha, beta=beta)], {"x": (1, 4)}, constants=constants)
    )
    assert kinds(graph) == ["Linear"]


def test_gemm_with_everything_at_run_time() -> None:
    model = build(
        [node("Gemm", "x,b,c", transA=1, transB=1, alpha=0.5, beta=2.0)], {"x": (4, 3), "b": (5, 4), "c": (3, 1)}
    )
    check(model, batches=())


def test_matmul_with_a_constant_is_a_layer() -> None:
    graph = check(build([node("MatMul", "x,w")], {"x": (1, 3, 4)}, constants={"w": random(4, 6)}))
    assert kinds(graph) == ["Linear"]
    check(build([node("MatMul", "w,x")], {"x": (1, 4, 3)}, constants={"w": random(6, 4)}))


# ---- moving data ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "constants"),
    [
        ("Reshape", {"p": [0, -1]}),
        ("Reshape", {"p": [-1, 4, 3]}),
        ("Reshape", {"p": [0, 4, 3, 2]}),
        ("Squeeze", {"p": [-1]}),
        ("Unsqueeze", {"p": [0, -1]}),
        ("Unsqueeze", {"p": [1]}),
        ("Tile", {"p": [1, 2, 1, 3]}),
        ("Tile", {"p": [2, 1, 1, 1]}),
        ("Expand", {"p": [1, 1, 4, 5]}),
        ("Expand", {"p": [2, 1, 1, 1, 1]}),
    ],
)
def test_shapes_hold_for_another_batch(kind: str, constants: dict[str, Any]) -> None:
    shape = (1, 3, 8, 1) if kind in ("Reshape", "Squeeze", "Unsqueeze") else (1, 3, 4, 1)
    check(build([node(kind, "x,p")], {"x": shape}, constants=constants))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, 3])
def test_flatten(axis: int) -> None:
    check(build([node("Flatten", "x", axis=axis)], {"x": (1, 3, 4)}))


@pytest.mark.parametrize("indices", [1, -1, [0, 2], [2, 1, 0], [0, 1, 2], [0, 0, 3], [[0, 1], [2, 3]], [3, 0, 1]])
def test_gather_of_an_activation(indices: Any) -> None:
    check(build([node("Gather", "x,i", axis=1)], {"x": (1, 4, 3)}, constants={"i": indices}))


def test_gather_from_the_first_axis_keeps_the_batch_free() -> None:
    """Attention stacks q, k and v in front of the batch."""
    model = build(
        [node("Transpose", "x", "t", perm=[1, 0, 2]), node("Gather", "t,i", axis=0)],
        {"x": (1, 3, 4)},
        constants={"i": 1},
    )
    check(model)


@pytest.mark.parametrize(
    "parameters",
    [
        {"s": [1], "e": [2**63 - 1], "a": [2], "t": [1]},
        {"s": [-1], "e": [-(2**63)], "a": [2], "t": [-1]},
        {"s": [-1], "e": [-9], "a": [1], "t": [-2]},
        {"s": [0, 1], "e": [5, -1], "a": [-1, 1], "t": [2, 1]},
        {"s": [3], "e": [1], "a": [2], "t": [1]},
    ],
)
def test_slice(parameters: dict[str, Any]) -> None:
    check(build([node("Slice", "x,s,e,a,t")], {"x": (1, 3, 5)}, constants=parameters))


def test_slice_to_the_end_holds_for_a_longer_axis() -> None:
    graph = load(build([node("Slice", "x,s,e,a")], {"x": (1, 3, 5)}, constants={"s": [1], "e": [5], "a": [2]}))
    assert graph.with_shapes({"x": (1, 3, 9)}).shapes["y"] == (1, 3, 8)


def test_split() -> None:
    check(build([node("Split", "x", "a,b,c", axis=1, num_outputs=3)], {"x": (1, 8, 2)}, ("a", "b", "c")))
    check(build([node("Split", "x,p", "a,b", axis=1)], {"x": (1, 8, 2)}, ("a", "b"), {"p": [3, 5]}))
    check(build([node("Split", "x", "a,b", axis=1, split=[3, 5])], {"x": (1, 8, 2)}, ("a", "b"), opset=11))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad(mode: str) -> None:
    check(
        build(
            [node("Pad", "x,p,v,a", mode=mode)],
            {"x": (1, 3, 5, 6)},
            constants={"p": [1, 2, 0, 3], "v": 0.5, "a": [-1, 2]},
        )
    )


@pytest.mark.parametrize(("kind", "mode"), [("DepthToSpace", "DCR"), ("DepthToSpace", "CRD"), ("SpaceToDepth", None)])
def test_blocks(kind: str, mode: str | None) -> None:
    attributes = {} if mode is None else {"mode": mode}
    check(build([node(kind, "x", blocksize=2, **attributes)], {"x": (1, 8, 4, 6)}, opset=13))


# ---- resizing -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"])
@pytest.mark.parametrize("by", ["scales", "sizes"])
def test_resize(mode: str, coordinates: str, by: str) -> None:
    parameters: dict[str, Any] = {"scales": [1.0, 1.0, 2.0, 1.5]} if by == "scales" else {"sizes": [1, 2, 10, 3]}
    inputs = "x,,scales" if by == "scales" else "x,,,sizes"
    model = build(
        [node("Resize", inputs, mode=mode, coordinate_transformation_mode=coordinates)],
        {"x": (1, 2, 5, 4)},
        constants=parameters,
    )
    check(model, batches=(2,) if by == "scales" else ())
    op = load(model).nodes[0].op
    assert isinstance(op, ops.Resize)
    assert (op.size is None) == (by == "scales")


def test_resize_of_one_dimension() -> None:
    model = build([node("Resize", "x,,s", mode="linear")], {"x": (1, 2, 5)}, constants={"s": [1.0, 1.0, 2.0]})
    check(model)


@pytest.mark.parametrize("opset", [7, 9])
def test_upsample(opset: int) -> None:
    attributes = {"scales": [1.0, 1.0, 2.0, 3.0]} if opset == 7 else {}
    constants = {} if opset == 7 else {"s": [1.0, 1.0, 2.0, 3.0]}
    model = build(
        [node("Upsample", "x" if opset == 7 else "x,s", mode="nearest", **attributes)],
        {"x": (1, 2, 3, 4)},
        constants=constants,
        opset=opset,
    )
    x = random(1, 2, 3, 4)
    np.testing.assert_array_equal(reference.run(load(model), {"x": x})["y"], x.repeat(2, axis=2).repeat(3, axis=3))


# ---- reductions -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "kind",
    [
        "ReduceMean",
        "ReduceSum",
        "ReduceMax",
        "ReduceMin",
        "ReduceL1",
        "ReduceL2",
        "ReduceSumSquare",
        "ReduceLogSumExp",
    ],
)
@pytest.mark.parametrize("keepdims", [0, 1])
def test_reductions(kind: str, keepdims: int) -> None:
    check(build([node(kind, "x,a", keepdims=keepdims)], {"x": (1, 3, 4, 5)}, constants={"a": [-1, 2]}, opset=18))
    if kind != "ReduceSum":
        check(build([node(kind, "x", keepdims=keepdims, axes=[-1, 1])], {"x": (1, 3, 4, 5)}, opset=13))


@pytest.mark.parametrize("keepdims", [0, 1])
def test_log_sum_exp_neither_overflows_nor_makes_nan_of_infinities(keepdims: int) -> None:
    x = np.array([[300.0, 299.0], [-300.0, -301.0], [np.inf, 1.0], [-np.inf, -np.inf], [-np.inf, 2.0], [np.nan, 1.0]])
    with np.errstate(invalid="ignore"):
        expected = np.logaddexp(x[:, 0], x[:, 1]).reshape((-1, 1) if keepdims else -1)
    model = build([node("ReduceLogSumExp", "x,a", keepdims=keepdims)], {"x": (6, 2)}, constants={"a": [1]})
    np.testing.assert_allclose(reference.run(load(model), {"x": x.astype(np.float32)})["y"], expected, rtol=1e-6)
    np.testing.assert_allclose(waterline.compile(model)(x.astype(np.float32)), expected, rtol=1e-6)


def test_reduction_of_no_axes() -> None:
    constants = {"a": np.zeros(0, np.int64)}
    model = build([node("ReduceSum", "x,a", noop_with_empty_axes=1)], {"x": (2, 3)}, constants=constants)
    check(model)
