"""ncnn is given what the graph says: the text and the weights, and every operation against the reference."""

from __future__ import annotations

import numpy as np
import pytest

from waterline.bench import peers
from waterline.bench.comparison import difference
from waterline.bench.engine import CannotServe, Task
from waterline.bench.peers.ncnn_writer import write
from waterline.bench.workload import Workload
from waterline.graph import Graph, Node, ops
from waterline.reference import run
from waterline.spec import Activation, ConvSpec, Epilogue

RANDOM = np.random.default_rng(17)


def constant(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape, np.float32)


def graph_of(nodes: list[Node], shapes: dict[str, tuple[int, ...]], constants: dict[str, np.ndarray]) -> Graph:
    return Graph("test", list(shapes), [nodes[-1].output], nodes, dict(shapes), constants).infer()


def one_node(op: ops.Op, shape: tuple[int, ...], constants: list[np.ndarray]) -> Graph:
    named = {f"c{i}": value for i, value in enumerate(constants)}
    return graph_of([Node("node", op, ("x", *named), ("y",))], {"x": shape}, named)


RELU = Activation("relu")
RESIDUAL = Epilogue(bias=True, before=RELU, residual=True, after=Activation("clip", (-0.5, 0.5)))


# ---- what is written ------------------------------------------------------------------------------------------------
def test_the_text_and_the_weights() -> None:
    weight, bias = constant(4, 2, 3, 1), constant(4)
    op = ops.Conv((2, 1), (1, 0, 2, 3), (1, 2), epilogue=Epilogue(bias=True, after=RELU))
    network = write(one_node(op, (1, 2, 9, 8), [weight, bias]))
    assert network.parameters == (
        "7767517\n"
        "2 2\n"
        "Input layer0 0 1 b1 0=8 1=9 2=2 -23330=4,3,8,9,2\n"
        "Convolution layer1 1 1 b1 b2 0=4 1=1 11=3 2=2 12=1 3=1 13=2 4=0 14=1 15=3 16=2 5=1 6=24 9=1 "
        "-23330=4,3,11,5,4\n"
    )
    assert network.weights == b"\0\0\0\0" + weight.tobytes() + bias.tobytes()
    assert (network.inputs, network.outputs) == (("b1",), ("b2",))


def test_what_is_read_twice_is_split() -> None:
    nodes = [Node("a", ops.Unary(RELU), ("x",), ("a",)), Node("b", ops.Binary("add"), ("a", "a"), ("y",))]
    lines = write(graph_of(nodes, {"x": (1, 2, 3, 4)}, {})).parameters.splitlines()
    assert lines[1] == "4 5"
    assert lines[4].startswith("Split layer2 1 2 b2 b2_1 b2_2 ")
    assert lines[5].startswith("BinaryOp layer3 2 1 b2_1 b2_2 b3 0=0 ")


@pytest.mark.parametrize(
    ("op", "shape", "constants"),
    [
        (ops.ConvTranspose(), (1, 4, 5, 5), [constant(4, 3, 3, 3)]),
        (ops.MatMul(), (1, 2, 3), [constant(3, 4)]),
        (ops.Pool("lp", (2, 2)), (1, 2, 6, 6), []),
        (ops.Unary(Activation("softsign")), (1, 2, 6, 6), []),
        (ops.Conv(pad=(-1, 0, 0, 0)), (1, 2, 6, 6), [constant(2, 2, 3, 3)]),
        (ops.Reduce("mean", (1,)), (1, 2, 6, 6), []),
        (ops.LocalResponseNorm(4), (1, 6, 3, 3), []),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_cannot_be_written_is_named(op: ops.Op, shape: tuple[int, ...], constants: list[np.ndarray]) -> None:
    with pytest.raises(CannotServe, match=f"node|{op.name}") as raised:
        write(one_node(op, shape, constants))
    assert type(op).__name__ in raised.value.message or op.name in raised.value.message
    assert "--vs" in raised.value.hint


def test_a_batch_is_refused() -> None:
    with pytest.raises(CannotServe, match="one image at a time") as raised:
        write(one_node(ops.Unary(RELU), (2, 3, 4, 4), []))
    assert raised.value.hint == "use --batch 1"


# ---- what ncnn computes of it ---------------------------------------------------------------------------------------
CASES: dict[str, tuple[ops.Op, tuple[int, ...], list[np.ndarray]]] = {
    "conv": (ops.Conv((2, 1), (1, 0, 2, 1), (1, 2)), (1, 4, 9, 10), [constant(6, 4, 3, 2)]),
    "conv of 16": (ops.Conv(pad=(1, 1, 1, 1)), (1, 16, 14, 14), [constant(16, 16, 3, 3)]),
    "grouped": (ops.Conv(groups=2, epilogue=Epilogue(True)), (1, 8, 7, 5), [constant(8, 4, 3, 3), constant(8)]),
    "depthwise": (ops.Conv((1, 1), (3, 3, 3, 3), groups=8), (1, 8, 9, 9), [constant(8, 1, 7, 7)]),
    "linear": (ops.Linear(Epilogue(True, RELU)), (1, 12), [constant(7, 12), constant(7)]),
    "linear rows": (ops.Linear(Epilogue(True, after=RELU)), (1, 5, 12), [constant(7, 12), constant(7)]),
    "linear pixels": (ops.Linear(), (1, 4, 3, 12), [constant(7, 12)]),
    "batch norm": (
        ops.BatchNorm(1e-3),
        (1, 8, 5, 3),
        [constant(8), constant(8), constant(8), np.abs(constant(8)) + 0.5],
    ),
    "layer norm": (ops.LayerNorm(3), (1, 5, 4, 12), [constant(12), constant(12)]),
    "lrn": (ops.LocalResponseNorm(5, 0.1), (1, 7, 3, 3), []),
    "softmax": (ops.Softmax(1), (1, 11), []),
    "max pool": (ops.Pool("max", (3, 2), (2, 1), (1, 0, 0, 1)), (1, 4, 8, 9), []),
    "max pool ceil": (ops.Pool("max", (3, 3), (2, 2), ceil_mode=True), (1, 4, 8, 8), []),
    "average pool": (
        ops.Pool("average", (3, 3), (2, 2), (1, 1, 1, 1), count_include_pad=True),
        (1, 4, 8, 8),
        [],
    ),
    "average inside": (ops.Pool("average", (3, 3), (1, 1), (1, 1, 1, 1)), (1, 4, 8, 8), []),
    "global pool": (ops.AdaptivePool("average"), (1, 5, 8, 7), []),
    "adaptive pool": (ops.AdaptivePool("average", (3, 2)), (1, 5, 8, 7), []),
    "mean": (ops.Reduce("mean", (2, 3), False), (1, 5, 4, 5), []),
    "concat": (ops.Concat(1), (1, 3, 4, 5), [constant(1, 2, 4, 5)]),
    "slice": (ops.Slice((1, 3), (1, 2), (ops.END, ops.END), (1, 1)), (1, 5, 4, 6), []),
    "reshape": (ops.Reshape((0, -1)), (1, 3, 4, 5), []),
    "transpose": (ops.Transpose((0, 2, 3, 1)), (1, 3, 4, 5), []),
    "scalar first": (ops.Binary("sub"), (1, 3, 4, 5), [constant(1)]),
    "a channel": (ops.Binary("mul", RELU), (1, 3, 4, 5), [constant(3, 1, 1)]),
    "a column": (ops.Binary("add"), (1, 5, 4, 5), [constant(5)]),
    "a batch": (ops.Binary("max"), (1, 5, 4, 5), [constant(1, 5, 4, 5)]),
    **{
        kind: (ops.Unary(Activation(kind, params)), (1, 3, 2, 9), [])
        for kind, params in {
            "relu": (),
            "leaky_relu": (0.1,),
            "clip": (0.0, 6.0),
            "sigmoid": (),
            "hard_sigmoid": (0.2, 0.5),
            "hard_swish": (),
            "silu": (),
            "gelu": (),
            "gelu_tanh": (),
            "tanh": (),
            "elu": (0.7,),
            "selu": (1.67, 1.05),
            "softplus": (),
            "mish": (),
            "erf": (),
            "abs": (),
            "neg": (),
            "floor": (),
            "ceil": (),
            "square": (),
            "exp": (),
        }.items()
    },
    **{
        f"fused {kind}": (
            ops.Conv(epilogue=Epilogue(after=Activation(kind, params))),
            (1, 8, 5, 5),
            [constant(8, 8, 1, 1)],
        )
        for kind, params in {"leaky_relu": (0.1,), "clip": (-1.0, 1.0), "hard_swish": (), "gelu": ()}.items()
    },
}


def computed_by_ncnn(graph: Graph, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    ncnn = pytest.importorskip("ncnn")
    from waterline.bench.peers.ncnn_peer import load

    network = write(graph)
    extractor = load(network, 1).create_extractor()
    for blob, name in zip(network.inputs, graph.inputs, strict=True):
        extractor.input(blob, ncnn.Mat(inputs[name][0]).clone())
    results = [np.array(extractor.extract(blob)[1]) for blob in network.outputs]
    return [y.reshape(graph.shapes[name]) for y, name in zip(results, graph.outputs, strict=True)]


@pytest.mark.parametrize("case", CASES)
def test_ncnn_computes(case: str) -> None:
    graph = one_node(*CASES[case])
    x = np.random.default_rng(3).standard_normal(graph.shapes["x"], np.float32)
    (y,) = computed_by_ncnn(graph, {"x": x})
    np.testing.assert_allclose(y, run(graph, {"x": x})["y"], rtol=1e-4, atol=2e-5)


def test_ncnn_computes_residuals_and_gates() -> None:
    """Squeeze and excite, then a sum with the input: flat tensors are broadcast over channels, also where H is C."""
    constants = {"w1": constant(4, 8, 1, 1), "w2": constant(8, 4, 1, 1), "w3": constant(8, 8, 3, 3), "b": constant(8)}
    nodes = [
        Node("pool", ops.AdaptivePool("average"), ("x",), ("pooled",)),
        Node("squeeze", ops.Conv(epilogue=Epilogue(after=RELU)), ("pooled", "w1"), ("small",)),
        Node("excite", ops.Conv(epilogue=Epilogue(after=Activation("sigmoid"))), ("small", "w2"), ("gate",)),
        Node("scale", ops.Binary("mul"), ("gate", "x"), ("scaled",)),
        Node("conv", ops.Conv(pad=(1, 1, 1, 1), epilogue=RESIDUAL), ("scaled", "w3", "b", "x"), ("y",)),
    ]
    graph = graph_of(nodes, {"x": (1, 8, 8, 8)}, constants)
    x = constant(1, 8, 8, 8)
    (y,) = computed_by_ncnn(graph, {"x": x})
    np.testing.assert_allclose(y, run(graph, {"x": x})["y"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_large", "shufflenet_v2_x1_0", "convnext_tiny"])
def test_ncnn_runs_a_network(name: str) -> None:
    """Small images of one network of each kind: residuals, gates, shuffled channels, layer norms on pixels."""
    pytest.importorskip("ncnn")
    workload = Workload.named(name, 32)
    inputs = workload.inputs(1)
    engine = peers.prepare("ncnn", Task(workload.model, inputs, 1))
    before = {key: value.copy() for key, value in inputs.items()}
    graph = workload.graph(1)
    expected = run(graph, inputs)
    assert difference(engine.run(), [expected[output] for output in graph.outputs]) < 1e-4
    assert all(np.array_equal(inputs[key], before[key]) for key in before), "the inputs were overwritten"
    assert engine.version


def test_the_layer_of_a_spec_is_computed_on_two_threads() -> None:
    pytest.importorskip("ncnn")
    workload = Workload.layer(ConvSpec(1, 16, 12, 10, 24, 3, 3, stride=(1, 1), pad=(1, 1, 1, 1)))
    inputs = workload.inputs(1)
    graph = workload.graph(1)
    engine = peers.prepare("ncnn", Task(workload.model, inputs, 2))
    assert difference(engine.run(), [run(graph, inputs)[output] for output in graph.outputs]) < 1e-4
