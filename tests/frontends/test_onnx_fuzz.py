"""Random damage to models: a graph whose shapes fit, or one of Waterline's errors; never another exception.

WATERLINE_FUZZ_SECONDS is the time for the whole file, with new examples every time. Without it, the same ones are tried
for about ten seconds.
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto

from waterline.errors import Error
from waterline.frontends.onnx import load, operators, signature

from .onnx_building import build, node, random

SECONDS = float(os.environ.get("WATERLINE_FUZZ_SECONDS", "10"))
EXAMPLES_PER_SECOND = 200  # somewhat less than one core does
SLOWEST_SECONDS = 10.0  # for one small model, however hostile


def box(share: float) -> Any:
    """Settings for a test that may take this share of the time."""
    return settings(
        max_examples=max(int(share * SECONDS * EXAMPLES_PER_SECOND), 1),
        deadline=None,
        database=None,
        derandomize="WATERLINE_FUZZ_SECONDS" not in os.environ,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


def seeds() -> list[onnx.ModelProto]:
    """Small models that use many operators between them."""
    convolutional = build(
        [
            node("Conv", "x,w,b", "c", pads=[1, 1, 1, 1], group=1),
            node("BatchNormalization", "c,b,b,b,v", "n"),
            node("Relu", "n", "r"),
            node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
            node("Resize", "p,,scales", "u", mode="linear"),
            node("Concat", "u,r", "j", axis=1),
            node("GlobalAveragePool", "j", "g"),
            node("Flatten", "g", "f"),
            node("Gemm", "f,m,k", "l", transB=1, alpha=0.5),
            node("Softmax", "l", "y"),
        ],
        {"x": ("n", 3, 8, 8)},
        constants={
            "w": random(4, 3, 3, 3),
            "b": random(4),
            "v": np.abs(random(4)),
            "scales": [1.0, 1.0, 2.0, 2.0],
            "m": random(5, 8),
            "k": random(5),
        },
    )
    shapely = build(
        [
            node("Shape", "x", "s"),
            node("Gather", "s,zero", "n", axis=0),
            node("Unsqueeze", "n,axes", "n1"),
            node("Concat", "n1,rest", "to", axis=0),
            node("Reshape", "x,to", "r"),
            node("Transpose", "r", "t", perm=[0, 2, 1]),
            node("Slice", "t,zeros,ends,axes2,steps", "c"),
            node("Split", "c", "a,d", axis=2, num_outputs=2),
            node("Pad", "a,pads", "e", mode="edge"),
            node("Tile", "d,repeats", "h"),
            node("ReduceMean", "e,axes2", "i"),
            node("Expand", "i,large", "o"),
            node("LayerNormalization", "h,scale", "q"),
            node("ConstantOfShape", "axes2", "z"),
            node("Range", "zero,four,one", "v"),
            node("Cast", "v", "w", to=TensorProto.FLOAT),
            node("MatMul", "q,w", "u"),
            node("Unsqueeze", "u,axes3", "u3"),
            node("Sum", "o,u3,z", "y"),
        ],
        {"x": (2, 4, 2, 3)},
        constants={
            "zero": 0,
            "one": 1,
            "four": 6,
            "axes": [0],
            "axes2": [1],
            "axes3": [2],
            "rest": [4, 6],
            "zeros": [0],
            "ends": [6],
            "steps": [1],
            "pads": [0] * 6,
            "repeats": [1, 1, 3],
            "large": [2, 6, 2],
            "scale": random(6),
        },
    )
    return [convolutional, shapely]


SEEDS = seeds()
NUMBERS = st.one_of(
    st.integers(-3, 9),
    st.sampled_from([-(2**63), 2**63 - 1, 2**31, 2**32 + 1, -(2**31) - 1, 10**12, 65536]),
)


def check(model: Any) -> None:
    started = time.perf_counter()
    message = ""
    try:
        signature(model)
        graph = load(model)
    except Error as error:
        message = str(error)
    else:
        graph.infer()
        assert all(array.dtype == np.float32 for array in graph.constants.values())
    assert "\n" not in message
    assert time.perf_counter() - started < SLOWEST_SECONDS


@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_seeds_are_valid(seed: int) -> None:
    assert load(SEEDS[seed]).nodes


# ---- bytes ----------------------------------------------------------------------------------------------------------
@st.composite
def damaged_bytes(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(SEEDS)).SerializeToString())
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        end = min(place + draw(st.integers(0, 12)), len(data))
        match draw(st.sampled_from(["write", "cut", "insert", "repeat", "truncate"])):
            case "write":
                data[place:end] = draw(st.binary(min_size=end - place, max_size=end - place))
            case "cut":
                del data[place:end]
            case "insert":
                data[place:place] = draw(st.binary(max_size=12))
            case "repeat":
                data[place:place] = data[place:end] * draw(st.integers(1, 50))
            case "truncate":
                del data[place:]
    return bytes(data)


@box(0.4)
@given(damaged_bytes())
def test_damaged_bytes(data: bytes) -> None:
    check(data)


@box(0.05)
@given(st.binary(max_size=200))
def test_random_bytes(data: bytes) -> None:
    check(data)


# ---- protos ---------------------------------------------------------------------------------------------------------
def _rename(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    """Connect something to another tensor, itself included: cycles, loose ends, duplicates."""
    graph = model.graph
    target = draw(st.sampled_from(list(graph.node)))
    names = [name for each in graph.node for name in (*each.input, *each.output)] + ["x", "y", "", "nothing"]
    field = draw(st.sampled_from([f for f in (target.input, target.output) if len(f)]))
    field[draw(st.integers(0, len(field) - 1))] = draw(st.sampled_from(names))


def _arity(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    target = draw(st.sampled_from(list(model.graph.node)))
    field = draw(st.sampled_from([target.input, target.output]))
    if draw(st.booleans()) and len(field):
        del field[-1]
    else:
        field.append(draw(st.sampled_from(["x", "", "extra"])))


def _operator(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    target = draw(st.sampled_from(list(model.graph.node)))
    target.op_type = draw(st.sampled_from([*operators(), "Nothing"]))


def _attribute(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    target = draw(st.sampled_from(list(model.graph.node)))
    names = sorted({a.name for each in model.graph.node for a in each.attribute} | {"axis", "auto_pad", "dilations"})
    attribute = AttributeProto(name=draw(st.sampled_from(names)))
    attribute.type = draw(
        st.sampled_from([AttributeProto.INT, AttributeProto.INTS, AttributeProto.FLOAT, AttributeProto.GRAPH])
    )
    attribute.i = draw(NUMBERS)
    attribute.ints.extend(draw(st.lists(NUMBERS, max_size=5)))
    attribute.f = draw(st.floats(width=32))
    for index in [i for i, a in enumerate(target.attribute) if a.name == attribute.name]:
        del target.attribute[index]
        break
    target.attribute.append(attribute)


def _values(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    """Other numbers in a constant that is a shape, axes, sizes."""
    tensors = [t for t in model.graph.initializer if t.data_type == TensorProto.INT64]
    if tensors:
        tensor = draw(st.sampled_from(tensors))
        numbers = draw(st.lists(NUMBERS, max_size=7))
        tensor.ClearField("raw_data")
        tensor.int64_data[:] = numbers
        tensor.dims[:] = [len(numbers)]


def _tensor(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    tensor = draw(st.sampled_from(list(model.graph.initializer)))
    match draw(st.sampled_from(["dims", "type", "raw", "external", "remove"])):
        case "dims":
            tensor.dims[:] = draw(st.lists(NUMBERS, max_size=5))
        case "type":
            tensor.data_type = draw(st.integers(0, 40))
        case "raw":
            tensor.raw_data = draw(st.binary(max_size=64))
        case "external":
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=draw(st.sampled_from(["a", "../a", "/dev/zero", ""])))
        case "remove":
            model.graph.initializer.remove(tensor)


def _input(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    kind = model.graph.input[0].type.tensor_type
    if draw(st.booleans()):
        kind.elem_type = draw(st.integers(0, 30))
    del kind.shape.dim[:]
    for size in draw(st.lists(NUMBERS, max_size=6)):
        kind.shape.dim.add(dim_value=size)


def _order(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    nodes = draw(st.permutations(list(model.graph.node)))
    del model.graph.node[:]
    model.graph.node.extend(nodes[: draw(st.integers(0, len(nodes)))])


def _opset(draw: st.DrawFn, model: onnx.ModelProto) -> None:
    model.opset_import[0].version = draw(st.one_of(st.integers(6, 23), NUMBERS))


DAMAGES = (_rename, _arity, _operator, _attribute, _values, _tensor, _input, _order, _opset)


@st.composite
def damaged_models(draw: st.DrawFn) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.CopyFrom(draw(st.sampled_from(SEEDS)))
    for damage in draw(st.lists(st.sampled_from(DAMAGES), min_size=1, max_size=4)):
        if len(model.graph.node) and len(model.graph.initializer):
            damage(draw, model)
    return model


@box(0.55)
@given(damaged_models(), st.booleans())
def test_damaged_models(model: onnx.ModelProto, as_bytes: bool) -> None:
    check(model.SerializeToString() if as_bytes else model)
