"""`waterline.compile`: every kind of model and array, and the options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import waterline
from waterline import InvalidArgument, InvalidModel
from waterline.graph import Graph, Node, ops

from .networks import graph, image, model_proto, module

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}


def expected_of_proto(x: np.ndarray) -> list[np.ndarray]:
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(model_proto()).run(None, {"x": x})


# ---- kinds of models --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["module", "exported program"])
def test_pytorch_models(kind: str) -> None:
    network, x = module(), torch.from_numpy(image())
    with torch.inference_mode():
        expected = network(x)
    if kind == "module":
        net = waterline.compile(network, x)
    else:
        net = waterline.compile(torch.export.export(network, (x,)))
    torch.testing.assert_close(net(x), expected, **TOLERANCE)


def test_example_inputs_as_a_tuple() -> None:
    network, x = module(), torch.from_numpy(image())
    torch.testing.assert_close(waterline.compile(network, (x,))(x), network(x).detach(), **TOLERANCE)


@pytest.mark.parametrize("kind", ["path", "str", "bytes", "bytearray", "ModelProto"])
def test_onnx_models(kind: str, tmp_path: Path) -> None:
    proto = model_proto(12, 10)
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    data = path.read_bytes()
    models: dict[str, Any] = {
        "path": path,
        "str": str(path),
        "bytes": data,
        "bytearray": bytearray(data),
        "ModelProto": proto,
    }
    results = waterline.compile(models[kind])(image())
    for result, expected in zip(results, expected_of_proto(image()), strict=True):
        np.testing.assert_allclose(result, expected, **TOLERANCE)


def test_graph() -> None:
    made = graph()
    expected = torch.nn.functional.conv2d(
        torch.from_numpy(image()), torch.from_numpy(made.constants["weight"]), padding=1
    )
    np.testing.assert_allclose(waterline.compile(made)(image()), expected, **TOLERANCE)


def test_open_sizes_need_example_inputs() -> None:
    with pytest.raises(InvalidArgument, match=r"'x'"):
        waterline.compile(model_proto())
    for example in (image(), [image()], {"x": image()}):
        features, means = waterline.compile(model_proto(), example)(image())
        assert features.shape == (1, 8, 12, 10)
        assert means.shape == (1, 8, 1, 1)


def test_other_sizes_of_an_open_model() -> None:
    net = waterline.compile(model_proto(), image())
    x = image(2, 3, 7, 9)
    for result, expected in zip(net(x), expected_of_proto(x), strict=True):
        np.testing.assert_allclose(result, expected, **TOLERANCE)


@pytest.mark.parametrize("model", [None, 3, "no such file.onnx", [graph], torch.nn.Conv2d])
def test_what_is_no_model(model: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        waterline.compile(model)
    assert caught.value.hint


@pytest.mark.parametrize("data", [b"", b"\0", b"no model at all", b"\x08\x07" * 100])
def test_bytes_that_are_no_model(data: bytes) -> None:
    with pytest.raises(InvalidModel):
        waterline.compile(data)


def test_truncated_file(tmp_path: Path) -> None:
    data = model_proto(12, 10).SerializeToString()
    path = tmp_path / "half.onnx"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InvalidModel):
        waterline.compile(path)


def test_a_module_needs_example_inputs() -> None:
    with pytest.raises(InvalidArgument, match="example_inputs"):
        waterline.compile(module())


@pytest.mark.parametrize("examples", [[image(), image()], [], {"y": image()}, [3]])
def test_example_inputs_that_do_not_fit(examples: Any) -> None:
    with pytest.raises(InvalidArgument):
        waterline.compile(model_proto(), examples)


def test_unsupported_operators_are_all_named() -> None:
    proto = model_proto(12, 10)
    for name in ("first", "second"):
        proto.graph.node.append(onnx.helper.make_node("Einsum", ["features"], [name], name=name, equation="nchw->nc"))
        proto.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, ["n", 8]))
    with pytest.raises(waterline.UnsupportedOperator) as caught:
        waterline.compile(proto)
    for word in ("Einsum", "first", "second"):
        assert word in caught.value.message


# ---- kinds of arrays --------------------------------------------------------------------------------------------
def test_the_callers_kind_comes_back() -> None:
    net = waterline.compile(graph())
    x = image()
    from_numpy, from_torch = net(x), net(torch.from_numpy(x))
    assert type(from_numpy) is np.ndarray
    assert from_numpy.dtype == np.float32
    assert type(from_torch) is torch.Tensor
    assert from_torch.dtype == torch.float32
    np.testing.assert_array_equal(from_torch.numpy(), from_numpy)


def test_a_modules_structure_comes_back() -> None:
    class Several(torch.nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
            return {"sum": x + y, "parts": (x * 2, [torch.relu(y)])}

    x, y = torch.from_numpy(image()), torch.from_numpy(image(seed=1))
    result = waterline.compile(Several(), (x, y))(x, y)
    assert list(result) == ["sum", "parts"]
    assert isinstance(result["parts"], tuple)
    torch.testing.assert_close(result["sum"], x + y)
    torch.testing.assert_close(result["parts"][0], x * 2)
    torch.testing.assert_close(result["parts"][1][0], torch.relu(y))


def test_dlpack() -> None:
    class Exporting:
        def __init__(self, array: np.ndarray) -> None:
            self._array = array

        def __dlpack__(self, **arguments: Any) -> Any:
            return self._array.__dlpack__(**arguments)

        def __dlpack_device__(self) -> Any:
            return self._array.__dlpack_device__()

    net = waterline.compile(graph())
    np.testing.assert_array_equal(net(Exporting(image())), net(image()))


def test_results_own_their_memory() -> None:
    net = waterline.compile(graph())
    first = net(image())
    kept = first.copy()
    net(image(seed=1))
    np.testing.assert_array_equal(first, kept)
    assert first.flags.writeable


def test_an_identity_does_not_return_the_callers_array() -> None:
    net = waterline.compile(torch.nn.Identity(), torch.zeros(1, 2))
    x = torch.ones(1, 2)
    y = net(x)
    x.zero_()
    torch.testing.assert_close(y, torch.ones(1, 2))


def test_names_of_inputs() -> None:
    net = waterline.compile(model_proto(), image())
    np.testing.assert_array_equal(net(x=image())[0], net(image())[0])
    for inputs, named, word in [
        ((), {}, "'x' is missing"),
        ((), {"X": image()}, "'X'"),
        ((image(),), {"x": image()}, "2 inputs"),
        ((image(), image()), {}, "2 inputs"),
    ]:
        with pytest.raises(InvalidArgument, match=word):
            net(*inputs, **named)


# ---- options ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("key", "closest"),
    [("algorithm", "algorithms"), ("Accuracy", "accuracy"), ("workspace", "workspace_bytes"), ("tuning", "tune")],
)
def test_an_unknown_option_names_the_closest(key: str, closest: str) -> None:
    with pytest.raises(InvalidArgument, match=f"unknown option {key!r}.*did you mean {closest!r}"):
        waterline.compile(graph(), options={key: 1})


@pytest.mark.parametrize(
    "options",
    [
        {"frobnicate": 1},
        {1: 2},
        {"algorithms": []},
        {"algorithms": ["wino"]},
        {"algorithms": [3]},
        {"algorithms": 3},
        {"accuracy": "exact"},
        {"accuracy": ["strict"]},
        {"block_fusion": 1},
        {"workspace_bytes": 0},
        {"workspace_bytes": 1e6},
        {"workspace_bytes": True},
        {"tune": -1},
        {"tune": float("nan")},
        {"tune": "yes"},
        ["algorithms"],
        "fast",
    ],
)
def test_wrong_options(options: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        waterline.compile(graph(), options=options)
    assert caught.value.hint


def test_algorithms_limits_the_choice() -> None:
    for name in ("naive", "im2col", "indirect"):
        net = waterline.compile(graph(), options={"algorithms": [name]})
        assert [step.algorithm for step in net.plan.steps if step.spec] == [name]


def test_an_algorithm_that_serves_no_layer_is_refused_with_its_reason() -> None:
    with pytest.raises(waterline.Refused, match=r"depthwise: .*one channel a group"):
        waterline.compile(graph(), options={"algorithms": ["depthwise"]})


def test_workspace_is_a_hard_limit() -> None:
    """Below what the planner takes by itself it may give workspaces up or fuse more; below the least it refuses."""
    limit, refusal = waterline.compile(graph()).plan.arena_bytes, ""
    while not refusal:
        try:
            taken = waterline.compile(graph(), options={"workspace_bytes": limit}).plan.arena_bytes
        except InvalidArgument as error:
            refusal = str(error)
        else:
            assert 0 < taken <= limit
            limit = taken - 1
    needed = re.search(rf"needs (\d+) bytes.*allows {limit} ", refusal)
    assert needed
    assert int(needed[1]) > limit


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2", 10**6])
def test_wrong_numbers_of_threads(threads: Any) -> None:
    with pytest.raises(InvalidArgument, match="num_threads"):
        waterline.compile(graph(), num_threads=threads)


def test_threads() -> None:
    assert waterline.compile(graph()).num_threads >= 1
    assert waterline.compile(graph(), num_threads=3).num_threads == 3


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float32"), torch.float32])
def test_dtypes(dtype: Any) -> None:
    waterline.compile(graph(), dtype=dtype)


@pytest.mark.parametrize("dtype", ["float64", np.float16, torch.bfloat16, "int8", None, 32])
def test_dtypes_that_are_not_computed(dtype: Any) -> None:
    with pytest.raises(InvalidArgument, match="dtype"):
        waterline.compile(graph(), dtype=dtype)


@pytest.mark.parametrize("device", ["cuda0", "gpu", None])
def test_devices_that_are_not_served(device: Any) -> None:
    with pytest.raises(InvalidArgument, match="device"):
        waterline.compile(graph(), device=device)


def test_weights_that_are_known_at_run_time_only() -> None:
    nodes = [
        Node("first", ops.Conv(), ("x", "w"), ("a",)),
        Node("second", ops.ConvTranspose(bias=True), ("a", "w", "b"), ("c",)),
        Node("third", ops.BatchNorm(), ("c", "b", "b", "b", "b"), ("y",)),
    ]
    shapes = {"x": (1, 3, 4, 4), "w": (3, 3, 1, 1), "b": (3,)}
    made = Graph("g", list(shapes), ["y"], nodes, shapes).infer()
    with pytest.raises(waterline.UnsupportedOperator) as caught:
        waterline.compile(made)
    for word in ("'first'", "'second'", "'third'", "'w' and 'b' are known at run time only"):
        assert word in caught.value.message
    assert "constants" in caught.value.hint


def test_a_trace_holds_for_its_own_sizes() -> None:
    """Sizes that a module computes are numbers in its trace: at other sizes the result would be another network's."""

    class Doubling(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3]))

    net = waterline.compile(Doubling(), torch.from_numpy(image(1, 3, 4, 5)))
    x = torch.from_numpy(image(2, 3, 4, 5))
    torch.testing.assert_close(net(x), Doubling()(x))
    with pytest.raises(
        InvalidArgument, match=r"traced for inputs of shape \(N, 3, 4, 5\), got \(2, 3, 6, 5\)"
    ) as caught:
        net(torch.zeros(2, 3, 6, 5))
    assert "example_inputs" in caught.value.hint
