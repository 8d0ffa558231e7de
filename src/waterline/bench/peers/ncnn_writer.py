"""A `Graph` as a network of ncnn.

ncnn's arrays have no batch axis and at most channels, rows and columns, so every tensor is written without its first
axis, which must be one. A pooled tensor (1, C, 1, 1) is an array of one axis there ("flat"): ncnn multiplies it as a
vector, and broadcasts it over the channels of an image.

The graph should be simplified (`waterline.graph.passes.simplify`): batch normalisations are folded into the weights
and activations into the layers that can apply them, as ncnn's own converter does. Residual sums are written as layers.
The numbers of layers' parameters are those of ncnn's docs/developer-guide/operators.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from waterline.bench.engine import CannotServe
from waterline.bench.peers.ncnn_format import Blob, Layer, Network, Parameter, sizes, text_of
from waterline.graph import Graph, ops
from waterline.graph.ir import Node
from waterline.graph.ops import Shape
from waterline.spec import Activation, Epilogue

LEAVE_OUT = "leave ncnn out of --vs"
_FLOAT32 = b"\0\0\0\0"  # before weights that could also be stored with fewer bits

_BINARIES = {"add": 0, "sub": 1, "mul": 2, "div": 3, "max": 4, "min": 5, "pow": 6}
_REVERSED = {"add": 0, "sub": 7, "mul": 2, "div": 8, "max": 4, "min": 5, "pow": 9}
_UNARIES = {"abs": 0, "neg": 1, "floor": 2, "ceil": 3, "square": 4, "sqrt": 5, "exp": 7, "log": 8, "reciprocal": 15}
_PERMUTATIONS = {(0, 1, 2): 0, (0, 2, 1): 1, (1, 0, 2): 2, (1, 2, 0): 3, (2, 0, 1): 4, (2, 1, 0): 5}


def write(graph: Graph) -> Network:
    """The network in ncnn's format.

    Raises:
        CannotServe: a batch other than one, or an operation (with its node) that is not written.
    """
    for name in graph.inputs:
        if graph.shapes[name][:1] != (1,):
            raise CannotServe(
                f"ncnn takes one image at a time, input {name!r} is {graph.shapes[name]}", "use --batch 1"
            )
    writer = _Writer(graph)
    for node in graph.nodes:
        writer.node(node)
    return writer.finish()


class _Writer:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.layers: list[Layer] = []
        self.weights: list[bytes] = []
        self.blobs: dict[str, Blob] = {}
        self._names = 0
        for name in graph.inputs:
            shape = graph.shapes[name][1:]
            self.blobs[name] = self.layer("Input", [], shape, sizes(shape))

    # ---- pieces -----------------------------------------------------------------------------------------------------
    def layer(
        self, kind: str, inputs: Sequence[Blob], shape: Shape, parameters: dict[int, Parameter] | None = None
    ) -> Blob:
        self._names += 1
        output = Blob(f"b{self._names}", shape)
        self.layers.append(Layer(kind, [blob.name for blob in inputs], [output], parameters or {}))
        return output

    def weight(self, name: str, may_be_compressed: bool = False) -> None:
        self.weights.append(_FLOAT32 * may_be_compressed + self._constant(name).tobytes())

    def _constant(self, name: str) -> np.ndarray:
        if name not in self.graph.constants:
            raise CannotServe(f"ncnn takes constant weights only, {name!r} is computed", LEAVE_OUT)
        return np.ascontiguousarray(self.graph.constants[name], np.float32)

    def blob(self, name: str) -> Blob:
        """An activation as it is, or a constant without a leading one for the batch."""
        if name not in self.blobs:
            value = self._constant(name)
            shape = value.shape[1:] if value.shape[:1] == (1,) else value.shape
            if len(shape) > 3:
                raise CannotServe(f"ncnn has no constants of shape {value.shape}", LEAVE_OUT)
            self.blobs[name] = self.layer("MemoryData", [], shape, sizes(shape))
            self.weight(name)
        return self.blobs[name]

    def whole(self, name: str) -> Blob:
        """The tensor with all its axes, even if they are one."""
        return self.reshape(self.blob(name), self.graph.shapes[name][1:])

    def reshape(self, x: Blob, shape: Shape) -> Blob:
        if x.shape == shape:
            return x
        if len(shape) == 1:
            return self.layer("Flatten", [x], shape)
        if not 1 <= len(shape) <= 3:
            raise CannotServe(f"ncnn has no arrays of shape {shape}", LEAVE_OUT)
        return self.layer("Reshape", [x], shape, sizes(shape))

    def activate(self, x: Blob, function: Activation | None) -> Blob:
        if function is None:
            return x
        kind, values = _activation_layer(function)
        return self.layer(kind, [x], x.shape, values)

    def add(self, x: Blob, residual: str) -> Blob:
        return self.layer("BinaryOp", [x, self.reshape(self.blob(residual), x.shape)], x.shape, {0: _BINARIES["add"]})

    def finish_layer(self, x: Blob, epilogue: Epilogue, inputs: Sequence[str]) -> Blob:
        """What follows a layer that has applied its first activation, if it could."""
        _, rest = _fusable(epilogue)
        x = self.activate(x, rest.before)
        if rest.residual:
            x = self.add(x, inputs[-1])
        return self.activate(x, rest.after)

    # ---- the whole --------------------------------------------------------------------------------------------------
    def node(self, node: Node) -> None:
        write = _WRITERS.get(type(node.op))
        result = write(self, node, node.op) if write else None
        if result is None:
            raise CannotServe(f"ncnn is not given {node.op} (node {node.name!r})", LEAVE_OUT)
        self.blobs[node.output] = result

    def finish(self) -> Network:
        text, outputs = text_of(self.layers, [self.blob(name).name for name in self.graph.outputs])
        inputs = tuple(self.blobs[name].name for name in self.graph.inputs)
        return Network(text, b"".join(self.weights), inputs, outputs)


# ---- activations ----------------------------------------------------------------------------------------------------
_FUSED = {"relu": 1, "leaky_relu": 2, "clip": 3, "sigmoid": 4, "mish": 5, "hard_swish": 6}
_HARD_SWISH = (1 / 6, 0.5)


def _fusable(epilogue: Epilogue) -> tuple[dict[int, Parameter], Epilogue]:
    """The parameters by which a layer applies its first activation itself, and the epilogue that is left."""
    first = epilogue.before or (None if epilogue.residual else epilogue.after)
    if first is None or first.kind not in _FUSED:
        return {}, epilogue
    values = _HARD_SWISH if first.kind == "hard_swish" else first.params
    parameters: dict[int, Parameter] = {9: _FUSED[first.kind]}
    if values:
        parameters[10] = [float(value) for value in values]
    after = epilogue.after if epilogue.before or epilogue.residual else None
    return parameters, Epilogue(epilogue.bias, None, epilogue.residual, after)


def _activation_layer(function: Activation) -> tuple[str, dict[int, Parameter]]:
    values = [float(value) for value in function.params]
    if function.kind in _UNARIES:
        return "UnaryOp", {0: _UNARIES[function.kind]}
    kinds = {
        "relu": "ReLU",
        "leaky_relu": "ReLU",
        "clip": "Clip",
        "sigmoid": "Sigmoid",
        "hard_sigmoid": "HardSigmoid",
        "hard_swish": "HardSwish",
        "silu": "Swish",
        "gelu": "GELU",
        "gelu_tanh": "GELU",
        "tanh": "TanH",
        "elu": "ELU",
        "selu": "SELU",
        "softplus": "Softplus",
        "mish": "Mish",
        "erf": "Erf",
    }
    if function.kind not in kinds:
        raise CannotServe(f"ncnn is not given the activation {function}", LEAVE_OUT)
    if function.kind == "gelu_tanh":
        return "GELU", {0: 1}
    if function.kind == "hard_swish":
        values = list(_HARD_SWISH)
    return kinds[function.kind], dict(enumerate(values))


# ---- operations: (writer, node, op) -> its output, or None if ncnn has nothing like it ------------------------------
def _conv(writer: _Writer, node: Node, op: ops.Conv) -> Blob | None:
    weight = writer.graph.shapes[node.inputs[1]]
    k, _, r, s = weight
    if min(op.pad) < 0:
        return None
    if len(writer.blob(node.inputs[0]).shape) == 1 and (r, s, op.groups, max(op.pad)) == (1, 1, 1, 0):
        return _vector_product(writer, node, op.epilogue)
    top, left, bottom, right = op.pad
    parameters: dict[int, Parameter] = {0: k, 1: s, 11: r, 2: op.dilation[1], 12: op.dilation[0]}
    parameters |= {3: op.stride[1], 13: op.stride[0], 4: left, 14: top, 15: right, 16: bottom}
    parameters |= {5: int(op.epilogue.bias), 6: math.prod(weight), **_fusable(op.epilogue)[0]}
    if op.groups > 1:
        parameters[7] = op.groups
    x, shape = writer.whole(node.inputs[0]), writer.graph.shapes[node.output][1:]
    y = writer.layer("Convolution" if op.groups == 1 else "ConvolutionDepthWise", [x], shape, parameters)
    _weights(writer, node, op.epilogue)
    return writer.finish_layer(y, op.epilogue, node.inputs)


def _linear(writer: _Writer, node: Node, op: ops.Linear) -> Blob:
    k, c = writer.graph.shapes[node.inputs[1]]
    x = writer.blob(node.inputs[0])
    rows = math.prod(x.shape) // c
    if rows == 1:
        return _vector_product(writer, node, op.epilogue)
    # As its converter does: InnerProduct also takes rows, but computes them up to eight times as slowly.
    bias: dict[int, Parameter] = {6: 1, 10: 4} if op.epilogue.bias else {6: 1, 10: -1}
    y = writer.layer("Gemm", [writer.reshape(x, (rows, c))], (rows, k), {3: 1, 5: 1, 8: k, 9: c, **bias})
    _weights(writer, node, op.epilogue, may_be_compressed=True)
    y = writer.activate(y, op.epilogue.before)
    if op.epilogue.residual:
        y = writer.add(y, node.inputs[-1])
    y = writer.activate(y, op.epilogue.after)
    return writer.reshape(y, writer.graph.shapes[node.output][1:])


def _vector_product(writer: _Writer, node: Node, epilogue: Epilogue) -> Blob:
    """Of a flat tensor: the weight is (k, c), or (k, c, 1, 1)."""
    k, c = writer.graph.shapes[node.inputs[1]][:2]
    x = writer.reshape(writer.blob(node.inputs[0]), (c,))
    parameters: dict[int, Parameter] = {0: k, 1: int(epilogue.bias), 2: k * c, **_fusable(epilogue)[0]}
    y = writer.layer("InnerProduct", [x], (k,), parameters)
    _weights(writer, node, epilogue)
    return writer.finish_layer(y, epilogue, node.inputs)


def _weights(writer: _Writer, node: Node, epilogue: Epilogue, may_be_compressed: bool = False) -> None:
    writer.weight(node.inputs[1], may_be_compressed=True)
    if epilogue.bias:
        writer.weight(node.inputs[2], may_be_compressed)


def _batch_norm(writer: _Writer, node: Node, op: ops.BatchNorm) -> Blob:
    x = writer.blob(node.inputs[0])
    channels = writer.graph.shapes[node.inputs[1]][0]
    scale, bias, mean, variance = node.inputs[1:]
    for name in (scale, mean, variance, bias):
        writer.weight(name)
    return writer.layer("BatchNorm", [x], x.shape, {0: channels, 1: op.epsilon})


def _layer_norm(writer: _Writer, node: Node, op: ops.LayerNorm) -> Blob | None:
    if op.axis != len(writer.graph.shapes[node.inputs[0]]) - 1 or not op.bias:
        return None
    x = writer.blob(node.inputs[0])
    for name in node.inputs[1:]:
        writer.weight(name)
    return writer.layer("LayerNorm", [x], x.shape, {0: x.shape[-1], 1: op.epsilon, 2: 1})


def _local_response_norm(writer: _Writer, node: Node, op: ops.LocalResponseNorm) -> Blob | None:
    if op.size % 2 == 0:  # ncnn's window lies evenly around the channel
        return None
    x = writer.whole(node.inputs[0])
    return writer.layer("LRN", [x], x.shape, {0: 0, 1: op.size, 2: op.alpha, 3: op.beta, 4: op.bias})


def _softmax(writer: _Writer, node: Node, op: ops.Softmax) -> Blob | None:
    if op.log or op.axis == 0:
        return None
    x = writer.whole(node.inputs[0])
    return writer.layer("Softmax", [x], x.shape, {0: op.axis - 1, 1: 1})


def _binary(writer: _Writer, node: Node, op: ops.Binary) -> Blob | None:
    for at, name in enumerate(node.inputs):
        value = writer.graph.constants.get(name)
        if value is not None and value.size == 1:
            other = writer.blob(node.inputs[1 - at])
            kind = (_REVERSED if at == 0 else _BINARIES)[op.kind]
            y = writer.layer("BinaryOp", [other], other.shape, {0: kind, 1: 1, 2: float(value.reshape(()))})
            return writer.activate(y, op.after)
    a, b = (writer.blob(name) for name in node.inputs)
    if a.shape != b.shape and not (_is_gate(writer, node.inputs[0], b) or _is_gate(writer, node.inputs[1], a)):
        rank = len(writer.graph.shapes[node.output]) - 1
        a, b = (_aligned(writer, name, rank) for name in node.inputs)
    shape = a.shape if a.shape == b.shape else writer.graph.shapes[node.output][1:]
    return writer.activate(writer.layer("BinaryOp", [a, b], shape, {0: _BINARIES[op.kind]}), op.after)


def _is_gate(writer: _Writer, name: str, image: Blob) -> bool:
    """A flat tensor of as many channels as the image: ncnn broadcasts it over them by itself."""
    flat = writer.blob(name).shape
    is_channels = writer.graph.shapes[name][1:] == (*flat, 1, 1)
    return is_channels and len(image.shape) == 3 and image.shape[:1] == flat


def _aligned(writer: _Writer, name: str, rank: int) -> Blob:
    """With as many axes as the result, ones in front, as NumPy broadcasts."""
    shape = writer.graph.shapes[name]
    inner = shape if name in writer.graph.constants and len(shape) <= rank else shape[1:]
    return writer.reshape(writer.blob(name), (1,) * (rank - len(inner)) + tuple(inner))


def _pool(writer: _Writer, node: Node, op: ops.Pool) -> Blob | None:
    if op.kind == "lp" or op.dilation != (1, 1):
        return None
    x = writer.whole(node.inputs[0])
    shape = writer.graph.shapes[node.output][1:]
    top, left, bottom, right = op.pad
    if op.ceil_mode:
        sums = [x.shape[1] + top + bottom, x.shape[2] + left + right]
        sizes = tuple(-(-(total - op.kernel[i]) // op.stride[i]) + 1 for i, total in enumerate(sums))
        if sizes != shape[1:] or op.count_include_pad:  # ncnn keeps a last window that starts in the padding
            return None
    parameters: dict[int, Parameter] = {0: int(op.kind == "average"), 1: op.kernel[1], 11: op.kernel[0]}
    parameters |= {2: op.stride[1], 12: op.stride[0], 3: left, 13: top, 14: right, 15: bottom}
    parameters |= {5: 0 if op.ceil_mode else 1, 6: int(op.count_include_pad)}
    return writer.layer("Pooling", [x], shape, parameters)


def _adaptive_pool(writer: _Writer, node: Node, op: ops.AdaptivePool) -> Blob:
    x = writer.whole(node.inputs[0])
    average = int(op.kind == "average")
    if op.size == (1, 1):
        return writer.layer("Pooling", [x], x.shape[:1], {0: average, 4: 1})
    shape = (x.shape[0], *op.size)
    return writer.layer("Pooling", [x], shape, {0: average, 7: 1, 8: op.size[1], 18: op.size[0]})


def _reduce(writer: _Writer, node: Node, op: ops.Reduce) -> Blob | None:
    if op.kind not in ("mean", "max") or op.axes != (2, 3):
        return None
    x = writer.whole(node.inputs[0])
    return writer.layer("Pooling", [x], x.shape[:1], {0: int(op.kind == "mean"), 4: 1})


def _concat(writer: _Writer, node: Node, op: ops.Concat) -> Blob | None:
    if op.axis == 0:
        return None
    shape = writer.graph.shapes[node.output][1:]
    return writer.layer("Concat", [writer.whole(name) for name in node.inputs], shape, {0: op.axis - 1})


def _slice(writer: _Writer, node: Node, op: ops.Slice) -> Blob | None:
    x = writer.graph.shapes[node.inputs[0]]
    ranges = op.ranges(x)
    if any(kept.step != 1 for kept in ranges) or ranges[0] != range(1) or len(x) > 4:
        return None
    axes = [axis for axis, kept in enumerate(ranges) if kept != range(x[axis])]
    parameters: dict[int, Parameter] = {
        9: [ranges[axis].start for axis in axes],
        10: [ranges[axis].stop for axis in axes],
        11: [axis - 1 for axis in axes],
    }
    return writer.layer("Crop", [writer.whole(node.inputs[0])], writer.graph.shapes[node.output][1:], parameters)


def _reshape(writer: _Writer, node: Node, op: ops.Reshape) -> Blob | None:
    shape = writer.graph.shapes[node.output]
    x = writer.blob(node.inputs[0])
    if shape[:1] != (1,):
        return None
    if _is_flat(shape[1:]) and len(x.shape) == 1:
        return x
    if len(shape) == 5 and shape[3:] == writer.graph.shapes[node.inputs[0]][2:]:
        return x  # groups of channels: only a shuffle of them is written, see _transpose
    return writer.reshape(x, shape[1:]) if len(shape) in (2, 3, 4) else None


def _transpose(writer: _Writer, node: Node, op: ops.Transpose) -> Blob | None:
    x = writer.blob(node.inputs[0])
    before = writer.graph.shapes[node.inputs[0]]
    if len(x.shape) == 1 and _is_flat(before[1:]):
        return x
    if op.perm == (0, 2, 1, 3, 4):
        return writer.layer("ShuffleChannel", [x], x.shape, {0: before[1]})
    if op.perm[0] != 0 or len(op.perm) not in (3, 4):
        return None
    order = tuple(axis - 1 for axis in op.perm[1:])
    kind = _PERMUTATIONS[order] if len(order) == 3 else int(order == (1, 0))
    return writer.layer("Permute", [writer.whole(node.inputs[0])], writer.graph.shapes[node.output][1:], {0: kind})


def _is_flat(shape: Shape) -> bool:
    return sum(size != 1 for size in shape) <= 1


_WRITERS: dict[type[ops.Op], Callable[..., Blob | None]] = {
    ops.Conv: _conv,
    ops.Linear: _linear,
    ops.BatchNorm: _batch_norm,
    ops.LayerNorm: _layer_norm,
    ops.LocalResponseNorm: _local_response_norm,
    ops.Softmax: _softmax,
    ops.Unary: lambda writer, node, op: writer.activate(writer.blob(node.inputs[0]), op.function),
    ops.Binary: _binary,
    ops.Pool: _pool,
    ops.AdaptivePool: _adaptive_pool,
    ops.Reduce: _reduce,
    ops.Concat: _concat,
    ops.Slice: _slice,
    ops.Reshape: _reshape,
    ops.Transpose: _transpose,
}
