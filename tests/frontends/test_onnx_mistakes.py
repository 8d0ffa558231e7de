"""Broken, hostile and unsupported models: one clear error each, never another exception."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from waterline.errors import Error, InvalidArgument, InvalidModel, UnsupportedOperator
from waterline.frontends.onnx import load, signature

from .onnx_building import build, node, random, value


def conv(x: tuple[Any, ...] = (1, 2, 5, 5), w: tuple[int, ...] = (3, 2, 3, 3), **attributes: Any) -> onnx.ModelProto:
    return build([node("Conv", "x,w", name="conv", **attributes)], {"x": x}, constants={"w": random(*w)})


# ---- files ----------------------------------------------------------------------------------------------------------
def test_files_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="does not exist"):
        load(tmp_path / "none.onnx")
    with pytest.raises(InvalidArgument, match="is not a file"):
        load(tmp_path)
    with pytest.raises(InvalidArgument, match=r"cannot be read|does not exist"):
        load("a\0b")
    with pytest.raises(InvalidArgument, match="a list is no ONNX model"):
        load([1, 2])
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(InvalidModel, match="is empty"):
        load(tmp_path / "empty.onnx")
    for content in (b"", b"hello, world", b"\x89PNG\r\n\x1a\n", bytes(1000), b"\xff" * 1000, b"\x08\x08"):
        with pytest.raises(InvalidModel):
            load(content)


def test_every_truncation_is_noticed() -> None:
    data = conv().SerializeToString()
    for length in range(len(data)):
        with pytest.raises(Error):
            load(data[:length])


@pytest.mark.parametrize("opset", [1, 5, 10**6, -3])
def test_unknown_opsets(opset: int) -> None:
    model = conv()
    model.opset_import[0].version = opset
    with pytest.raises(InvalidModel, match=f"opset {opset} "):
        load(model)


def test_no_opset_no_graph_no_outputs() -> None:
    model = conv()
    del model.opset_import[:]
    with pytest.raises(InvalidModel, match="which opset"):
        load(model)
    with pytest.raises(InvalidModel, match="no graph"):
        load(onnx.ModelProto())
    model = conv()
    del model.graph.output[:]
    with pytest.raises(InvalidModel, match="no outputs"):
        signature(model)


# ---- names ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("Relu", "a", "y"), node("Relu", "y", "a")], "reads 'a', which a later node or itself writes.*cycle"),
        ([node("Relu", "y", "y")], "reads 'y', which a later node or itself writes"),
        ([node("Relu", "z", "y")], "reads 'z', which nothing writes"),
        ([node("Relu", "x", "y"), node("Exp", "x", "y")], "writes 'y', which is already there"),
        ([node("Relu", "x", "x"), node("Relu", "x", "y")], "writes 'x', which is already there"),
        ([node("Relu", "x", "w"), node("Relu", "w", "y")], "writes 'w', which is already there"),
        ([node("Relu", "x", "z")], "output 'y' is written by no node"),
        ([], "output 'y' is written by no node"),
        ([node("Relu", "", "y")], "its input 0 is missing"),
        ([node("Concat", "", "y", axis=0)], "it has no inputs"),
        ([node("Add", "x", "y")], "its input 1 is missing"),
    ],
)
def test_names_that_do_not_fit_together(nodes: list[onnx.NodeProto], message: str) -> None:
    with pytest.raises(InvalidModel, match=message):
        load(build(nodes, {"x": (1, 2)}, constants={"w": random(2)}))


def test_names_that_occur_twice_or_not_at_all() -> None:
    model = conv()
    model.graph.initializer.append(model.graph.initializer[0])
    with pytest.raises(InvalidModel, match="two initializers are called 'w'"):
        load(model)
    for role in ("input", "output"):
        model = conv()
        values = getattr(model.graph, role)
        values.append(values[0])
        with pytest.raises(InvalidModel, match=f"two {role}s of the model are called"):
            load(model)
        model = conv()
        getattr(model.graph, role)[0].name = ""
        with pytest.raises(InvalidModel, match="has no name"):
            load(model)
    model = conv()
    model.graph.initializer[0].name = ""
    with pytest.raises(InvalidModel, match="has no name"):
        load(model)


# ---- shapes and numbers ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (conv(x=(1, 3, 5, 5)), "node 'conv' .*channels"),
        (conv(x=(1, 2, 2, 2)), "node 'conv' .*larger than the padded input"),
        (conv(x=(1, 2)), "rank of at least 3"),
        (conv(x=(1, 2, 5)), "same rank"),
        (conv(pads=[1, 1]), "4 numbers"),
        (conv(pads=[-1, 0, 0, 0]), "must not be negative"),
        (conv(strides=[0, 1]), "positive numbers"),
        (conv(dilations=[1]), "positive numbers"),
        (conv(group=0), "group is 0, at least 1"),
        (conv(kernel_shape=[2, 2]), "disagree"),
        (conv(auto_pad="SAME"), "auto_pad 'SAME'"),
        (conv(strides="a"), "attribute 'strides' has the type STRING where INTS is expected"),
        (conv(x=(1, 2, 2**40, 2**40)), "63-bit|machine"),
        (conv(x=(1, -2, 5, 5)), "a size of -2"),
        (build([node("Relu", "x")], {"x": (2**31, 2**31, 3)}), "machine can hold"),
        (build([node("MaxPool", "x", kernel_shape=[3, 3], pads=[3, 3, 3, 3])], {"x": (1, 1, 5, 5)}), "smaller than"),
        (build([node("MaxPool", "x")], {"x": (1, 1, 5, 5)}), "kernel_shape is missing"),
        (build([node("Softmax", "x", axis=2)], {"x": (1, 5)}), "axis 2 of a tensor of rank 2"),
        (build([node("Transpose", "x", perm=[0, 0])], {"x": (1, 5)}), "permutation"),
        (build([node("Reshape", "x,s")], {"x": (2, 3)}, constants={"s": [4, -1]}), "multiple of 4"),
        (build([node("Reshape", "x,s")], {"x": (2, 3)}, constants={"s": [-1, -1]}), "to \\[-1, -1\\]"),
        (build([node("Reshape", "x,s")], {"x": (2, 3)}, constants={"s": [2.0, 3.0]}), "whole numbers"),
        (build([node("Gather", "x,i", axis=1)], {"x": (2, 3)}, constants={"i": [3]}), "outside of axis 1"),
        (build([node("Split", "x", "y,z", axis=1)], {"x": (2, 3)}, opset=13), "2 equal parts"),
        (build([node("Squeeze", "x,a")], {"x": (2, 3)}, constants={"a": [0]}), "size 1"),
        (build([node("Unsqueeze", "x,a")], {"x": (2, 3)}, constants={"a": [1, 1]}), "one axis twice"),
        (build([node("Concat", "x,w", axis=0)], {"x": (2, 3)}, constants={"w": random(2, 4)}), "shapes"),
        (build([node("Add", "x,w")], {"x": (2, 3)}, constants={"w": random(2, 4)}), "do not broadcast"),
        (build([node("Div", "a,b", "c"), node("Mul", "x,c")], {"x": ()}, constants={"a": 1, "b": 0}), "by zero"),
        (build([node("Range", "a,a,b", "c"), node("Mul", "x,c")], {"x": ()}, constants={"a": 1, "b": 0}), "by 0"),
        (build([node("Resize", "x")], {"x": (1, 1, 2, 2)}), "exactly one of scales and sizes"),
        (build([node("Resize", "x,,s")], {"x": (1, 1, 2, 2)}, constants={"s": [1.0, 1, -1, 1]}), "must be positive"),
        (build([node("DepthToSpace", "x", blocksize=0)], {"x": (1, 4, 2, 2)}), "at least 1"),
        (build([node("BatchNormalization", "x,a,a,a,a")], {"x": (1, 4)}, constants={"a": random(3)}), "parameters"),
        (build([node("Tile", "x,r")], {"x": (1, 4)}, constants={"r": [2, -1]}), "repeats"),
    ],
)
def test_shapes_and_numbers_that_make_no_sense(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises((InvalidModel, InvalidArgument), match=message) as caught:
        load(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "tensor",
    [
        onnx.TensorProto(name="w", dims=[3, 2], data_type=TensorProto.FLOAT, raw_data=b"1234"),
        onnx.TensorProto(name="w", dims=[2**40, 2**40], data_type=TensorProto.FLOAT, raw_data=b"1234"),
        onnx.TensorProto(name="w", dims=[-1], data_type=TensorProto.FLOAT, raw_data=b"1234"),
        onnx.TensorProto(name="w", dims=[3], data_type=TensorProto.FLOAT, float_data=[1, 2]),
        onnx.TensorProto(name="w", dims=[3], data_type=TensorProto.FLOAT),
        onnx.TensorProto(name="w", dims=[1], raw_data=b"1234"),
        onnx.TensorProto(name="w", dims=[2**62, 2], data_type=TensorProto.INT64, int64_data=[1]),
    ],
)
def test_damaged_weights(tensor: onnx.TensorProto) -> None:
    model = build([node("Mul", "x,w")], {"x": ()})
    model.graph.initializer.append(tensor)
    for source in (model, model.SerializeToString()):
        with pytest.raises(InvalidModel, match="initializer 'w'"):
            load(source)


# ---- what is not supported ------------------------------------------------------------------------------------------
def test_everything_unsupported_is_in_one_message() -> None:
    model = build(
        [
            node("NonMaxSuppression", "x,x", "a", "nms"),
            node("Relu", "a", "b", "follows"),
            node("Conv", "v,w", "c", "volume"),
            node("MaxPool", "i", "d,indices", "pool", kernel_shape=[2, 2]),
            node("Exotic", "b", "e", "exotic"),
            node("Exotic", "c", "f", "exotic2"),
            node("MaxUnpool", "d,indices", "g", "unpool", kernel_shape=[2, 2]),
        ],
        {"x": (1, 2, 3), "v": (1, 2, 5, 5, 5), "i": (1, 1, 4, 4)},
        ("e", "f", "g"),
        {"w": random(2, 2, 3, 3, 3)},
    )
    model.graph.node.append(helper.make_node("Fused", ["x"], ["h"], "fused", domain="com.vendor"))
    model.graph.output.append(value("h", None))
    with pytest.raises(UnsupportedOperator) as caught:
        load(model)
    message = str(caught.value)
    for part in (
        "NonMaxSuppression (node 'nms')",
        "Conv (node 'volume': the input (1, 2, 5, 5, 5) has 3 spatial dimensions; one and two are supported)",
        "MaxPool (node 'pool': its output 1 (Indices) is not computed)",
        "Exotic (nodes 'exotic', 'exotic2')",
        "MaxUnpool (node 'unpool')",
        "com.vendor::Fused (node 'fused')",
    ):
        assert part in message
    assert "follows" not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("data_type", "name"),
    [(TensorProto.FLOAT16, "float16"), (TensorProto.DOUBLE, "float64"), (TensorProto.INT64, "int64")],
)
def test_other_element_types_are_refused(data_type: int, name: str) -> None:
    model = build([node("Relu", "x", name="relu")], {})
    model.graph.input.append(value("x", (1, 2), data_type))
    with pytest.raises(UnsupportedOperator, match=f"relu': its input 'x' is {name}, and float32 is computed"):
        load(model)


def test_whole_numbers_that_nothing_computes_with_are_accepted() -> None:
    model = build([node("Shape", "i", "s"), node("Reshape", "x,s")], {"x": (2, 3)})
    model.graph.input.append(value("i", (3, 2), TensorProto.INT64))
    assert load(model).shapes["y"] == (3, 2)


def test_outputs_of_other_types_are_refused() -> None:
    with pytest.raises(UnsupportedOperator, match=r"output \('y': it is int64, and float32 is computed\)"):
        load(build([node("Shape", "x")], {"x": (2, 3)}))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (build([node("Cast", "x", to=TensorProto.FLOAT16)], {"x": (1,)}), "makes float16 of float32 at run time"),
        (build([node("Reshape", "x,s")], {"x": (2, 3), "s": (2,)}), "'s'\\) is computed at run time"),
        (build([node("BatchNormalization", "x,a,a,a,a", training_mode=1)], {"x": (2, 3), "a": (3,)}), "training mode"),
        (
            build(
                [node("Resize", "x,,s", antialias=1, mode="linear")],
                {"x": (1, 1, 4, 4)},
                constants={"s": [1.0, 1, 0.5, 1]},
            ),
            "antialias",
        ),
        (build([node("Resize", "x,,s")], {"x": (1, 2, 4, 4)}, constants={"s": [1.0, 2, 1, 1]}), "first two axes"),
        (build([node("Pad", "x,p", mode="wrap")], {"x": (3,)}, constants={"p": [1, 1]}), "'wrap'"),
        (build([node("Loop", ",", "y")], {"x": (3,)}), "Loop"),
        (build([node("Gather", "x,i")], {"x": (300,)}, constants={"i": np.arange(300) ** 2 % 300}), "few slices"),
        (build([node("Constant", "", "k", value_string="a"), node("Relu", "k")], {"x": (3,)}), "value_string"),
    ],
)
def test_reasons(model: onnx.ModelProto, reason: str) -> None:
    with pytest.raises(UnsupportedOperator, match=reason):
        load(model)


def test_sequences_and_sparse_tensors_are_refused() -> None:
    model = build([node("Relu", "x")], {})
    model.graph.input.append(helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None))
    with pytest.raises(InvalidArgument, match="shape of the input 'x'"):
        load(model)
    with pytest.raises(UnsupportedOperator, match="'x' is sequence"):
        load(model, {"x": (1,)})
    model = build([node("Mul", "x,w")], {"x": (3,)})
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "w"), numpy_helper.from_array(np.zeros(1, np.int64), "i"), [3]
    )
    model.graph.sparse_initializer.append(sparse)
    with pytest.raises(UnsupportedOperator, match="'w' is sparse"):
        load(model)
