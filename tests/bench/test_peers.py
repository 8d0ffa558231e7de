"""Peers compute what the reference computes; a peer that is missing or unknown is one clear error."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from waterline.bench import peers
from waterline.bench.comparison import difference
from waterline.bench.engine import Task
from waterline.bench.workload import Workload
from waterline.errors import InvalidArgument, UnsupportedOperator
from waterline.graph import Graph, Node, ops
from waterline.reference import run
from waterline.spec import Activation, ConvSpec, Epilogue

SPEC = ConvSpec(2, 16, 12, 10, 24, 3, 3, stride=(2, 1), pad=(1, 0, 0, 1), groups=4)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
def test_a_peer_computes_the_layer(name: str, threads: int) -> None:
    pytest.importorskip(name)
    workload = Workload.layer(SPEC)
    inputs = workload.inputs(2)
    engine = peers.prepare(name, Task(workload.model, inputs, threads))
    graph = workload.graph(2)
    truth = [run(graph, inputs)[output] for output in graph.outputs]
    assert difference(engine.run(), truth) < 1e-5
    assert engine.name == name
    assert engine.version


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(InvalidArgument, match="needs openvino") as raised:
        peers.prepare("openvino", Task(None, {}, 1))
    assert "pip install" in raised.value.hint


def test_an_unknown_peer_names_the_closest() -> None:
    with pytest.raises(InvalidArgument, match="onnxrt") as raised:
        peers.check_name("onnxrt")
    assert "onnxruntime" in raised.value.hint


# ---- the PyTorch peer runs every operation ---------------------------------------------------------------------------
RANDOM = np.random.default_rng(11)


def constant(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape, np.float32)


RELU, CLIP = Activation("relu"), Activation("clip", (-0.5, 0.5))
CASES: dict[str, tuple[ops.Op, tuple[int, ...], list[np.ndarray]]] = {
    "conv": (
        ops.Conv((2, 1), (1, 0, 2, 1), (1, 2), 2, Epilogue(True, RELU)),
        (2, 4, 9, 9),
        [constant(6, 2, 3, 3), constant(6)],
    ),
    "conv crop": (ops.Conv(pad=(-1, 0, 0, -2)), (1, 2, 9, 9), [constant(4, 2, 3, 3)]),
    "conv transpose": (
        ops.ConvTranspose((2, 3), (1, 0, 0, 1), (1, 0), (1, 2), 2, True),
        (2, 4, 5, 4),
        [constant(4, 3, 3, 2), constant(6)],
    ),
    "linear": (ops.Linear(Epilogue(True, after=CLIP)), (2, 3, 5), [constant(7, 5), constant(7)]),
    "matmul": (ops.MatMul(), (2, 3, 5), [constant(5, 4)]),
    "batch norm": (
        ops.BatchNorm(1e-3),
        (2, 4, 3, 3),
        [constant(4), constant(4), constant(4), np.abs(constant(4)) + 0.5],
    ),
    "layer norm": (ops.LayerNorm(2), (2, 4, 3, 3), [constant(3, 3), constant(3, 3)]),
    "group norm": (ops.GroupNorm(2), (2, 4, 3, 3), [constant(4), constant(4)]),
    "lrn": (ops.LocalResponseNorm(4, 0.1), (2, 7, 3, 3), []),
    "softmax": (ops.Softmax(1), (2, 7, 3), []),
    "log softmax": (ops.Softmax(2, log=True), (2, 7, 3), []),
    "add": (ops.Binary("add", RELU), (2, 4, 3, 3), [constant(4, 1, 1)]),
    "prelu": (ops.PRelu(), (2, 4, 3, 3), [constant(4, 1, 1)]),
    "max pool": (ops.Pool("max", (3, 2), (2, 1), (1, 0, 0, 1), (1, 2), True), (1, 2, 8, 8), []),
    "average pool": (ops.Pool("average", (3, 3), (2, 2), (1, 1, 1, 1), count_include_pad=True), (1, 2, 8, 8), []),
    "adaptive pool": (ops.AdaptivePool("average", (3, 2)), (1, 2, 8, 7), []),
    "mean": (ops.Reduce("mean", (2, 3), False), (2, 3, 4, 5), []),
    "l2": (ops.Reduce("l2", (1,)), (2, 3, 4), []),
    "concat": (ops.Concat(1), (2, 3, 4), [constant(2, 2, 4)]),
    "slice": (ops.Slice((1, 2), (1, 3), (ops.END, -ops.END - 1), (1, -2)), (2, 5, 4), []),
    "pad": (ops.Pad((0, 0, 1, 2), (0, 1, 0, 1), value=3.0), (1, 2, 4, 4), []),
    "pad reflect": (ops.Pad((0, 0, 1, 2), (0, 0, 0, 1), "reflect"), (1, 2, 4, 4), []),
    "pad edge": (ops.Pad((0, 0, 1, 2), (0, 0, 0, 1), "edge"), (1, 2, 4, 4), []),
    "reshape": (ops.Reshape((0, 2, -1)), (3, 4, 5), []),
    "transpose": (ops.Transpose((0, 2, 1)), (3, 4, 5), []),
    "expand": (ops.Expand((2, 1, 1, 4)), (3, 1), []),
    "resize nearest": (
        ops.Resize("nearest", scale=(2.0, 1.5), coordinates="asymmetric", rounding="floor"),
        (1, 2, 4, 4),
        [],
    ),
    "resize linear": (ops.Resize("linear", size=(7, 9)), (1, 2, 4, 4), []),
    "resize corners": (ops.Resize("linear", size=(7, 9), coordinates="align_corners"), (1, 2, 4, 4), []),
    "resize cubic": (ops.Resize("cubic", size=(7, 9)), (1, 2, 4, 4), []),
    **{kind: (ops.Unary(Activation(kind)), (2, 9), []) for kind in ("hard_swish", "silu", "gelu", "gelu_tanh", "mish")},
    **{
        kind: (ops.Unary(Activation(kind, params)), (2, 9), [])
        for kind, params in {
            "hard_sigmoid": (0.2, 0.5),
            "selu": (1.67, 1.05),
            "elu": (0.7,),
            "leaky_relu": (0.1,),
        }.items()
    },
}


def graph_of(op: ops.Op, shape: tuple[int, ...], constants: list[np.ndarray]) -> Graph:
    named = {f"c{i}": value for i, value in enumerate(constants)}
    node = Node("node", op, ("x", *named), ("y",))
    return Graph("test", ["x"], ["y"], [node], {"x": shape}, named).infer()


@pytest.mark.parametrize("case", CASES)
def test_the_torch_peer_computes(case: str) -> None:
    torch = pytest.importorskip("torch")
    from waterline.bench.peers.torch_graph import GraphModule

    graph = graph_of(*CASES[case])
    x = np.random.default_rng(3).standard_normal(graph.shapes["x"], np.float32)
    with torch.inference_mode():
        (y,) = GraphModule(graph)(torch.from_numpy(x))
    np.testing.assert_allclose(y.numpy(), run(graph, {"x": x})["y"], rtol=1e-4, atol=1e-5)


def test_the_torch_peer_covers_every_operation() -> None:
    pytest.importorskip("torch")
    from waterline.bench.peers.torch_graph import _FUNCTIONS

    every = {value for value in vars(ops).values() if isinstance(value, type) and issubclass(value, ops.Op)}
    assert set(_FUNCTIONS) == every - {ops.Op}


@pytest.mark.parametrize(
    "op",
    [ops.Pool("lp", (2, 2)), ops.Pool("average", (3, 3), pad=(0, 0, 1, 1)), ops.Resize("nearest", size=(8, 8))],
    ids=["lp pool", "uneven pads", "rounding"],
)
def test_what_the_torch_peer_cannot_compute_is_an_error(op: ops.Op) -> None:
    torch = pytest.importorskip("torch")
    from waterline.bench.peers.torch_graph import GraphModule

    with pytest.raises(UnsupportedOperator):
        GraphModule(graph_of(op, (1, 2, 6, 6), []))(torch.zeros(1, 2, 6, 6))


def test_onnx_runtimes_kernels_are_metered() -> None:
    pytest.importorskip("onnxruntime")
    spec = ConvSpec(1, 64, 28, 28, 64, 1, 1)
    workload = Workload.layer(spec)
    meter = peers.meter("onnxruntime", Task(workload.model, workload.inputs(1), 1))
    assert meter is not None
    for _ in range(7):
        meter.run()
    times = meter.kernel_ns()
    assert len(times) == 7
    assert all(1e3 < time < 1e9 for time in times)


def test_a_peer_without_a_meter() -> None:
    pytest.importorskip("openvino")
    assert peers.meter("openvino", Task(None, {}, 1)) is None
