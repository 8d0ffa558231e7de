"""Files, bytes and protos; where weights are; shapes and symbols; folding; functions and branches."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from waterline import reference
from waterline.errors import InvalidArgument, InvalidModel, UnsupportedOperator
from waterline.frontends.onnx import TensorInfo, evaluation, load, operators, signature
from waterline.frontends.onnx.wire import strip
from waterline.graph import ops
from waterline.spec import Activation

from .onnx_building import build, node, random, value


def conv_model(batch: int | str = 1) -> onnx.ModelProto:
    return build(
        [node("Conv", "x,w,b", "c", "conv"), node("Relu", "c", "y", "relu")],
        {"x": (batch, 2, 5, 5)},
        constants={"w": random(3, 2, 3, 3), "b": random(3, seed=1)},
    )


# ---- where a model comes from ---------------------------------------------------------------------------------------
def test_path_bytes_and_proto_give_the_same_graph(tmp_path: Path) -> None:
    model = conv_model()
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    graphs = [load(source) for source in (path, str(path), path.read_bytes(), model)]
    for graph in graphs:
        assert graph.nodes == graphs[0].nodes
        assert [node.name for node in graph.nodes] == ["conv", "relu"]
        assert graph.shapes == {"x": (1, 2, 5, 5), "w": (3, 2, 3, 3), "b": (3,), "c": (1, 3, 3, 3), "y": (1, 3, 3, 3)}
        np.testing.assert_array_equal(graph.constants["w"], random(3, 2, 3, 3))
        assert all(array.flags.aligned for array in graph.constants.values())


def test_the_graph_does_not_depend_on_the_file_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(conv_model(), path)
    graph = load(path)
    path.write_bytes(b"")
    np.testing.assert_array_equal(graph.constants["w"], random(3, 2, 3, 3))


def test_strip_removes_payloads_and_nothing_else() -> None:
    model = conv_model()
    model.graph.initializer.append(onnx.TensorProto(name="f", dims=[2], data_type=TensorProto.FLOAT, float_data=[1, 2]))
    model.graph.initializer.append(onnx.TensorProto(name="i", dims=[2], data_type=TensorProto.INT64, int64_data=[1, 2]))
    data = model.SerializeToString()
    skeleton, spans = strip(memoryview(data))
    parsed = onnx.ModelProto.FromString(skeleton)
    arrays = [None if s is None else np.frombuffer(data, np.float32, s.length // 4, s.begin) for s in spans]
    np.testing.assert_array_equal(arrays[0], random(3, 2, 3, 3).ravel())
    np.testing.assert_array_equal(arrays[2], [1, 2])
    assert arrays[3] is None
    for tensor, original, array in zip(parsed.graph.initializer, model.graph.initializer, arrays, strict=True):
        if array is not None:
            tensor.raw_data = array.tobytes()
            original.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(original), original.name))
    assert parsed == model


@pytest.mark.parametrize("field", ["raw", "typed"])
@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.int64, np.uint16, np.bool_])
def test_weights_of_other_types_become_float32(dtype: Any, field: str) -> None:
    weight = (random(3, 4) * 10).astype(dtype)
    tensor = numpy_helper.from_array(weight, "w")
    if field == "typed":
        values = weight.view(np.uint16) if dtype == np.float16 else weight
        tensor = helper.make_tensor("w", tensor.data_type, weight.shape, values.ravel().tolist(), raw=False)
        if dtype == np.float16:
            tensor = onnx.TensorProto(name="w", dims=[3, 4], data_type=TensorProto.FLOAT16, int32_data=values.ravel())
    model = build([node("Mul", "x,w")], {"x": (1, 4)})
    model.graph.initializer.append(tensor)
    constant = load(model.SerializeToString()).constants["w"]
    assert constant.dtype == np.float32
    np.testing.assert_array_equal(constant, weight.astype(np.float32))


def test_bfloat16_weights() -> None:
    tensor = helper.make_tensor("w", TensorProto.BFLOAT16, [2], [1.5, -3.0])
    raw = onnx.TensorProto(name="w", dims=[2], data_type=TensorProto.BFLOAT16, raw_data=bytes([0xC0, 0x3F, 0x40, 0xC0]))
    for proto in (tensor, raw):
        model = build([node("Mul", "x,w")], {"x": (1, 2)})
        model.graph.initializer.append(proto)
        np.testing.assert_array_equal(load(model).constants["w"], [1.5, -3.0])


# ---- external data --------------------------------------------------------------------------------------------------
def save_external(folder: Path, location: str = "weights.bin") -> Path:
    path = folder / "model.onnx"
    onnx.save_model(
        conv_model(), path, save_as_external_data=True, location=location, size_threshold=0, convert_attribute=False
    )
    return path


def relocate(path: Path, **entries: str) -> None:
    """Change where the first initializer says its data is."""
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        entry.value = entries.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())


def test_external_data_are_mapped(tmp_path: Path) -> None:
    graph = load(save_external(tmp_path))
    np.testing.assert_array_equal(graph.constants["w"], random(3, 2, 3, 3))
    np.testing.assert_array_equal(graph.constants["b"], random(3, seed=1))


def test_model_of_more_than_two_gigabytes(tmp_path: Path) -> None:
    """The file with the weights is sparse: it takes no space, and no more of it is read than is used."""
    path = save_external(tmp_path)
    rows = 700_000_000
    with (tmp_path / "huge.bin").open("wb") as file:
        file.truncate(rows * 4)
    model = onnx.load(path, load_external_data=False)
    huge = onnx.TensorProto(name="huge", dims=[rows, 1], data_type=TensorProto.FLOAT)
    huge.data_location = TensorProto.EXTERNAL
    huge.external_data.add(key="location", value="huge.bin")
    model.graph.initializer.append(huge)
    model.graph.node.append(node("Shape", "huge", "s"))
    model.graph.node.append(node("Gather", "huge,i", "g"))
    model.graph.node.append(node("Mul", "y,g", "z"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([rows - 1]), "i"))
    model.graph.output[0].name = "z"
    path.write_bytes(model.SerializeToString())
    graph = load(path)
    assert graph.constants["g"].shape == (1, 1)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "a/../../weights.bin", "", ".", "we\0ights"])
def test_external_data_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = save_external(folder)
    (tmp_path / "weights.bin").write_bytes((folder / "weights.bin").read_bytes())
    relocate(path, location=location)
    with pytest.raises(InvalidModel, match="initializer 'w'"):
        load(path)


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    path = save_external(folder)
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(InvalidModel, match="outside the model's folder"):
        load(path)


def test_a_cache_of_links_is_read(tmp_path: Path) -> None:
    """Download caches keep the files in one folder and links to them in another."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    path = save_external(blobs)
    for name in ("model.onnx", "weights.bin"):
        (blobs / name).rename(blobs / f"{name}.hash")
        (snapshot / name).symlink_to(blobs / f"{name}.hash")
    np.testing.assert_array_equal(load(snapshot / path.name).constants["w"], random(3, 2, 3, 3))


@pytest.mark.parametrize(
    "entries", [{"offset": "-4"}, {"offset": "99999999"}, {"length": "8"}, {"length": "x"}, {"offset": "1e3"}]
)
def test_external_data_that_do_not_fit(tmp_path: Path, entries: dict[str, str]) -> None:
    path = save_external(tmp_path)
    relocate(path, **entries)
    with pytest.raises(InvalidModel, match="initializer 'w'"):
        load(path)


def test_external_data_that_are_missing_or_short(tmp_path: Path) -> None:
    path = save_external(tmp_path)
    with pytest.raises(InvalidModel, match="pass the path"):
        load(path.read_bytes())
    (tmp_path / "weights.bin").write_bytes(b"1234")
    with pytest.raises(InvalidModel, match="truncated"):
        load(path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(InvalidModel, match="no such file"):
        load(path)


# ---- shapes ---------------------------------------------------------------------------------------------------------
def test_signature_keeps_symbols() -> None:
    model = build([node("Add", "x,z")], {"x": ("batch", 3, None), "z": None}, constants={"w": random(2)})
    model.graph.input.append(value("w", (2,)))  # old exporters list initializers as inputs, too
    result = signature(model)
    assert result.inputs == (TensorInfo("x", ("batch", 3, None), "float32"), TensorInfo("z", None, "float32"))
    assert result.outputs == (TensorInfo("y", None, "float32"),)
    assert result.inputs[0].type == "tensor(float)"


def test_the_batch_is_one_by_default_and_free() -> None:
    model = conv_model("n")
    graph = load(model)
    assert graph.shapes["y"] == (1, 3, 3, 3)
    assert graph.with_shapes({"x": (7, 2, 9, 9)}).shapes["y"] == (7, 3, 7, 7)
    assert load(model, {"x": (4, 2, 5, 5)}).shapes["y"] == (4, 3, 3, 3)
    assert load(conv_model(1), {"x": (4, 2, 5, 5)}).shapes["y"] == (4, 3, 3, 3)


def test_symbols_are_shared_between_inputs() -> None:
    model = build([node("Add", "x,z")], {"x": (1, "s"), "z": ("n", "s")})
    assert load(model, {"x": (1, 6)}).shapes["z"] == (1, 6)
    with pytest.raises(InvalidArgument, match="'s' two sizes, 6 and 7"):
        load(model, {"x": (1, 6), "z": (1, 7)})


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (None, r"'x' has the shape \(n, 3, h, \?\), and nothing tells the size of axis 2"),
        ({"y": (1, 3, 4, 4)}, "'y', which is no input"),
        ({"x": (1, 3, 4)}, "rank 4"),
        ({"x": (1, 4, 4, 4)}, "axis 1 is 3"),
        ({"x": (1, 3, -4, 4)}, "not negative"),
        ({"x": (1, 3, 4.5, 4)}, "whole numbers"),
        ({"x": 5}, "whole numbers"),
    ],
)
def test_wrong_input_shapes(shapes: Any, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        load(build([node("Relu", "x")], {"x": ("n", 3, "h", None)}), shapes)


def test_a_shape_of_unknown_rank_is_asked_for() -> None:
    model = build([node("Relu", "x")], {"x": None})
    with pytest.raises(InvalidArgument, match=r"the shape of the input 'x' is not in the model.*input_shapes"):
        load(model)
    assert load(model, {"x": (2, 3)}).shapes["y"] == (2, 3)


# ---- folding --------------------------------------------------------------------------------------------------------
def test_shape_arithmetic_disappears_and_leaves_the_batch_free() -> None:
    """`x.view(x.size(0), -1, x.size(2) * 2)` as exporters write it."""
    model = build(
        [
            node("Shape", "x", "shape"),
            node("Gather", "shape,zero", "n", axis=0),
            node("Gather", "shape,two", "h", axis=0),
            node("Mul", "h,two", "h2"),
            node("Unsqueeze", "n,axes", "n1"),
            node("Unsqueeze", "h2,axes", "h3"),
            node("Concat", "n1,minus,h3", "to", axis=0),
            node("Reshape", "x,to"),
        ],
        {"x": ("n", 4, 3, 5)},
        constants={"zero": 0, "two": 2, "axes": [0], "minus": [-1]},
    )
    graph = load(model)
    assert graph.nodes[0].op == ops.Reshape((0, 10, 6))
    assert len(graph.nodes) == 1
    assert not graph.constants
    assert graph.with_shapes({"x": (5, 4, 3, 5)}).shapes["y"] == (5, 10, 6)


def test_float_arithmetic_on_constants_is_done() -> None:
    model = build(
        [node("Exp", "w", "e"), node("Transpose", "e", "t", perm=[1, 0]), node("MatMul", "x,t")],
        {"x": (1, 3)},
        constants={"w": random(4, 3)},
    )
    graph = load(model)
    assert [step.op.name for step in graph.nodes] == ["Linear"]
    np.testing.assert_allclose(graph.constants[graph.nodes[0].inputs[1]], np.exp(random(4, 3)), rtol=1e-6)


def test_whole_numbers_are_divided_towards_zero() -> None:
    constants = {"a": [7, -7, 7, -7, 6], "b": [2, 2, -2, -2, -3]}
    model = build([node("Div", "a,b", "q"), node("Mul", "x,q")], {"x": (1, 5)}, constants=constants)
    np.testing.assert_array_equal(load(model).constants["q"], [3, -3, -3, 3, -2])


@pytest.mark.parametrize(
    ("nodes", "constants", "expected"),
    [
        ([node("Range", "a,b,c", "k")], {"a": 1, "b": 8, "c": 3}, [1, 4, 7]),
        ([node("Range", "a,b,c", "k")], {"a": 2.0, "b": 0.5, "c": -0.5}, [2.0, 1.5, 1.0]),
        ([node("Where", "a,b,c", "k")], {"a": np.array([True, False]), "b": [1, 2], "c": [3, 4]}, [1, 4]),
        ([node("Mod", "a,b", "k")], {"a": [-7, 7], "b": [3, 3]}, [2, 1]),
        ([node("Mod", "a,b", "k", fmod=1)], {"a": [-7, 7], "b": [3, 3]}, [-1, 1]),
        ([node("ReduceProd", "a", "k", keepdims=0)], {"a": [2, 3]}, 6),
        ([node("Size", "a", "k")], {"a": random(2, 3)}, 6),
        ([node("Shape", "a", "k", start=-2)], {"a": random(2, 3, 4)}, [3, 4]),
        ([node("Cast", "a", "b", to=TensorProto.INT32), node("Neg", "b", "k")], {"a": [1.7, -1.7]}, [-1, 1]),
        ([node("CastLike", "a,b", "k")], {"a": [1.7], "b": [1]}, [1]),
        ([node("ConstantOfShape", "a", "k")], {"a": [2, 2]}, [[0, 0], [0, 0]]),
        ([node("Equal", "a,b", "c"), node("Not", "c", "k")], {"a": [1, 2], "b": [1, 3]}, [0, 1]),
        ([node("CumSum", "a,b", "k")], {"a": [1.0, 2.0], "b": 0}, [1, 3]),
        ([node("ScatterND", "a,b,c", "k")], {"a": [1.0, 2.0], "b": [[1]], "c": [5.0]}, [1, 5]),
        ([node("ReduceSum", "a", "k", keepdims=0)], {"a": [2, 3]}, 5),
        ([node("Slice", "a,b,c", "k")], {"a": [1, 2, 3], "b": [1], "c": [9]}, [2, 3]),
    ],
)
def test_constants(nodes: list[onnx.NodeProto], constants: dict[str, Any], expected: Any) -> None:
    graph = load(build([*nodes, node("Mul", "x,k")], {"x": ()}, constants=constants))
    (name,) = (name for name in graph.nodes[-1].inputs if name != "x")
    np.testing.assert_array_equal(graph.constants[name], np.asarray(expected, np.float32))


def test_a_constant_output() -> None:
    graph = load(build([node("Exp", "w"), node("Relu", "x", "r")], {"x": (2,)}, ("y", "r"), {"w": [0.0]}))
    results = reference.run(graph, {"x": random(2)})
    np.testing.assert_array_equal(results["y"], [1.0])


def test_outputs_that_are_inputs_or_each_other() -> None:
    model = build(
        [node("Relu", "x", "a"), node("Identity", "a", "b"), node("Dropout", "x", "c")], {"x": (2, 3)}, ("a", "b", "c")
    )
    graph = load(model)
    results = reference.run(graph, {"x": random(2, 3)})
    assert graph.outputs == ["a", "b", "c"]
    np.testing.assert_array_equal(results["a"], results["b"])
    np.testing.assert_array_equal(results["c"], random(2, 3))


def test_what_no_output_needs_is_dropped() -> None:
    nodes = [node("NonMaxSuppression", "x,x", "unused"), node("Relu", "x")]
    assert [step.op.name for step in load(build(nodes, {"x": (1, 2)})).nodes] == ["relu"]


def test_memory_of_constants_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Constants of one value are views until they are read; then what they take is counted before it is taken."""
    monkeypatch.setattr(evaluation, "FOLDING_LIMIT_BYTES", 2**24)
    nodes = [node("ConstantOfShape", "a", "k"), node("ReduceMax", "k", "m", keepdims=0), node("Mul", "x,m")]
    for size in ([10**12], [10**6, 10**6], [2**62, 2**62], [-1], [2**63 - 1]):
        with pytest.raises(InvalidModel):
            load(build(nodes, {"x": ()}, constants={"a": size}))
    grow = [node("Concat", "k,k" if i == 0 else f"k{i},k{i}", f"k{i + 1}", axis=0) for i in range(60)]
    for last in (node("Tile", "k,t", "k60"), node("Expand", "k,t", "k60"), node("Range", "r,t0,r", "k60"), *[None]):
        body = grow if last is None else [last]
        constants = {"k": [1.0], "t": [10**12], "t0": 10**12, "r": 1}
        with pytest.raises(InvalidModel):
            load(build([*body, node("Exp", "k60", "e"), node("Add", "x,e")], {"x": (1,)}, constants=constants))


# ---- functions and branches -----------------------------------------------------------------------------------------
def leaky() -> onnx.FunctionProto:
    """A function with an attribute that its node refers to and a default for it."""
    scaled = node("LeakyRelu", "a", "b")
    scaled.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    return helper.make_function(
        "local",
        "Activate",
        ["a"],
        ["b"],
        [scaled],
        [helper.make_opsetid("", 20)],
        attribute_protos=[helper.make_attribute("slope", 0.25)],
    )


def test_local_functions_are_expanded() -> None:
    nodes = [
        helper.make_node("Activate", ["x"], ["t"], "first", domain="local"),
        helper.make_node("Activate", ["t"], ["y"], "second", domain="local", slope=0.5),
    ]
    graph = load(build(nodes, {"x": (1, 2)}, functions=[leaky()]))
    assert [step.name for step in graph.nodes] == ["first/LeakyRelu_0", "second/LeakyRelu_0"]
    assert [step.op.function.params for step in graph.nodes] == [(0.25,), (0.5,)]
    assert graph.outputs == ["y"]


def test_inputs_and_outputs_of_functions_may_be_left_out() -> None:
    body = [node("Clip", "a,low,high", "b"), node("NonMaxSuppression", "a,a", "unused")]
    function = helper.make_function(
        "local", "Bound", ["a", "low", "high"], ["b", "unused"], body, [helper.make_opsetid("", 20)]
    )
    call = helper.make_node("Bound", ["x", "", "h"], ["y"], domain="local")
    graph = load(build([call], {"x": (1, 2)}, constants={"h": 6.0}, functions=[function]))
    assert [step.op for step in graph.nodes] == [ops.Unary(Activation("clip", (-np.inf, 6.0)))]


def test_functions_that_call_themselves_are_refused() -> None:
    inner = helper.make_node("Loop1", ["a"], ["b"], domain="local")
    functions = [helper.make_function("local", "Loop1", ["a"], ["b"], [inner], [helper.make_opsetid("", 20)])]
    model = build([helper.make_node("Loop1", ["x"], ["y"], domain="local")], {"x": (1,)}, functions=functions)
    with pytest.raises(InvalidModel, match="nested more than"):
        load(model)


def test_functions_that_multiply_are_refused() -> None:
    functions = []
    for level in range(40):
        kind, domain = ("Relu", "") if level == 0 else (f"F{level - 1}", "local")
        body = [
            helper.make_node(kind, ["a"], ["m"], domain=domain),
            helper.make_node(kind, ["m"], ["b"], domain=domain),
        ]
        functions.append(helper.make_function("local", f"F{level}", ["a"], ["b"], body, [helper.make_opsetid("", 20)]))
    model = build([helper.make_node("F39", ["x"], ["y"], domain="local")], {"x": (1,)}, functions=functions)
    with pytest.raises(InvalidModel, match="once its functions are expanded"):
        load(model)


def test_a_branch_with_a_known_condition_is_taken() -> None:
    branches = {
        f"{name}_branch": helper.make_graph([node(kind, "x", "r")], name, [], [value("r", None)])
        for name, kind in (("then", "Relu"), ("else", "Exp"))
    }
    for condition, kind in ((True, "relu"), (False, "exp")):
        model = build([node("If", "c", **branches)], {"x": (1, 2)}, constants={"c": np.array(condition)})
        assert [step.op.name for step in load(model).nodes] == [kind]
    with pytest.raises(UnsupportedOperator, match=r"If \(node 'If_0': its condition is computed at run time\)"):
        load(build([node("If", "c", **branches)], {"x": (1, 2), "c": ()}))


# ---- speed ----------------------------------------------------------------------------------------------------------
@pytest.mark.alone
def test_weights_are_copied_once(tmp_path: Path) -> None:
    """A hundred megabytes of weights take no more than a few times the time that reading the file takes."""
    count, rows = 50, 500_000
    constants = {f"w{i}": np.full((rows, 1), i, np.float32) for i in range(count)}
    nodes = [node("MatMul", f"x,w{i}", f"y{i}") for i in range(count)]
    path = tmp_path / "model.onnx"
    onnx.save(build(nodes, {"x": (1, rows)}, [f"y{i}" for i in range(count)], constants), path)
    load(path)  # the first one warms the page cache

    def seconds(function: Any) -> float:
        started = time.perf_counter()
        function()
        return time.perf_counter() - started

    reading = min(seconds(path.read_bytes) for _ in range(3))
    loading = min(seconds(lambda: load(path)) for _ in range(3))
    assert loading < 5 * reading + 0.1, f"{loading:.3f} s to load what is read in {reading:.3f} s"
    assert os.path.getsize(path) > 100_000_000


def test_operators_are_listed() -> None:
    names = operators()
    assert names == sorted(names)
    assert {"Conv", "Resize", "If", "Shape"} <= set(names)
