"""A `Graph` as a PyTorch module: every op by the function of `torch.nn.functional` that a PyTorch user would call."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from waterline.errors import UnsupportedOperator
from waterline.graph import Graph, ops
from waterline.graph.ir import Node
from waterline.spec import Activation, Epilogue

Arguments = Sequence[Tensor]

_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "clip": torch.clamp,
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": lambda x, alpha, beta: torch.clamp(alpha * x + beta, 0, 1),
    "hard_swish": F.hardswish,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "tanh": torch.tanh,
    "elu": F.elu,
    "selu": lambda x, alpha, gamma: gamma * F.elu(x, alpha),
    "softplus": F.softplus,
    "softsign": F.softsign,
    "mish": F.mish,
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "erf": torch.erf,
    "abs": torch.abs,
    "neg": torch.neg,
    "reciprocal": torch.reciprocal,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "square": torch.square,
}

_BINARIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "max": torch.maximum,
    "min": torch.minimum,
    "pow": torch.pow,
}


class GraphModule(torch.nn.Module):
    """Runs the nodes in order.

    Raises:
        UnsupportedOperator: a node's operation has no function here (all of them are named).
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        unknown = sorted({node.op.name for node in graph.nodes if type(node.op) not in _FUNCTIONS})
        if unknown:
            raise UnsupportedOperator(f"the PyTorch peer does not run {', '.join(unknown)}", "leave it out of --vs")
        self._nodes: list[Node] = graph.nodes
        self._inputs, self._outputs = graph.inputs, graph.outputs
        self._buffer_names = {name: f"constant_{i}" for i, name in enumerate(graph.constants)}
        for name, value in graph.constants.items():
            tensor = torch.from_numpy(value.copy())
            if tensor.ndim == 4:
                tensor = tensor.contiguous(memory_format=torch.channels_last)
            self.register_buffer(self._buffer_names[name], tensor)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        values = dict(zip(self._inputs, inputs, strict=True))
        values |= {name: getattr(self, buffer) for name, buffer in self._buffer_names.items()}
        for node in self._nodes:
            values[node.output] = _FUNCTIONS[type(node.op)](node.op, *(values[name] for name in node.inputs))
        return [values[name] for name in self._outputs]


def _activate(function: Activation | None, x: Tensor) -> Tensor:
    return x if function is None else _ACTIVATIONS[function.kind](x, *function.params)


def _finish(epilogue: Epilogue, y: Tensor, rest: Arguments) -> Tensor:
    y = _activate(epilogue.before, y)
    return _activate(epilogue.after, y + rest[-1] if epilogue.residual else y)


def _spatial_pad(x: Tensor, pad: tuple[int, int, int, int], value: float = 0.0) -> tuple[Tensor, tuple[int, int]]:
    """PyTorch pads both sides equally; what it cannot say is padded beforehand."""
    top, left, bottom, right = pad
    if (top, left) == (bottom, right) and min(pad) >= 0:
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom), value=value), (0, 0)


def _conv(op: ops.Conv, x: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
    x, pad = _spatial_pad(x, op.pad)
    bias = rest[0] if op.epilogue.bias else None
    return _finish(op.epilogue, F.conv2d(x, weight, bias, op.stride, pad, op.dilation, op.groups), rest)


def _conv_transpose(op: ops.ConvTranspose, x: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
    bias = rest[0] if op.bias else None
    y = F.conv_transpose2d(x, weight, None, op.stride, 0, 0, op.groups, op.dilation)
    top, left, bottom, right = op.pad
    y = F.pad(y, (-left, op.output_pad[1] - right, -top, op.output_pad[0] - bottom))
    return y if bias is None else y + bias[:, None, None]


def _linear(op: ops.Linear, x: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
    return _finish(op.epilogue, F.linear(x, weight, rest[0] if op.epilogue.bias else None), rest)


def _batch_norm(op: ops.BatchNorm, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, op.epsilon)


def _layer_norm(op: ops.LayerNorm, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.layer_norm(x, x.shape[op.axis :], scale, bias, op.epsilon)


def _local_response_norm(op: ops.LocalResponseNorm, x: Tensor) -> Tensor:
    before = (op.size - 1) // 2
    squares = F.pad(x.square().flatten(2), (0, 0, before, op.size - 1 - before))
    total = squares.unfold(1, op.size, 1).sum(-1).reshape(x.shape)
    return x / (op.bias + op.alpha / op.size * total) ** op.beta


def _pool(op: ops.Pool, x: Tensor) -> Tensor:
    if op.kind == "max":
        x, pad = _spatial_pad(x, op.pad, -math.inf)
        return F.max_pool2d(x, op.kernel, op.stride, pad, op.dilation, op.ceil_mode)
    top, left, bottom, right = op.pad
    if op.kind == "lp" or (top, left) != (bottom, right) or op.dilation != (1, 1):
        raise UnsupportedOperator(f"the PyTorch peer does not run {op}", "leave it out of --vs")
    return F.avg_pool2d(x, op.kernel, op.stride, (top, left), op.ceil_mode, op.count_include_pad)


def _adaptive_pool(op: ops.AdaptivePool, x: Tensor) -> Tensor:
    return (F.adaptive_max_pool2d if op.kind == "max" else F.adaptive_avg_pool2d)(x, op.size)


def _reduce(op: ops.Reduce, x: Tensor) -> Tensor:
    if op.kind == "l2":
        return torch.linalg.vector_norm(x, 2, op.axes, op.keepdims)
    function = {"mean": torch.mean, "sum": torch.sum, "max": torch.amax, "min": torch.amin}[op.kind]
    return function(x, op.axes, keepdim=op.keepdims)


def _slice(op: ops.Slice, x: Tensor) -> Tensor:
    for axis, kept in enumerate(op.ranges(tuple(x.shape))):
        if kept != range(x.shape[axis]):
            if kept.step < 0:
                indices = torch.tensor(list(kept), dtype=torch.int64)
                x = x.index_select(axis, indices)
            else:
                x = x[(slice(None),) * axis + (slice(kept.start, kept.stop, kept.step),)]
    return x


def _pad(op: ops.Pad, x: Tensor) -> Tensor:
    pads = [amount for pair in zip(reversed(op.before), reversed(op.after), strict=True) for amount in pair]
    if op.mode == "constant":
        return F.pad(x, pads, value=op.value)
    if any(pads[4:]):
        raise UnsupportedOperator(f"the PyTorch peer does not run {op}", "leave it out of --vs")
    return F.pad(x, pads[:4], mode={"reflect": "reflect", "edge": "replicate"}[op.mode])


def _reshape(op: ops.Reshape, x: Tensor) -> Tensor:
    return x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(op.shape)])


def _resize(op: ops.Resize, x: Tensor) -> Tensor:
    is_plain = op.mode == "nearest" and (op.coordinates, op.rounding) == ("asymmetric", "floor")
    is_smooth = op.mode != "nearest" and op.coordinates != "asymmetric" and op.cubic_coefficient == -0.75
    if not is_plain and not is_smooth:
        raise UnsupportedOperator(f"the PyTorch peer does not run {op}", "leave it out of --vs")
    mode = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}[op.mode]
    align = None if op.mode == "nearest" else op.coordinates == "align_corners"
    return F.interpolate(x, op.size, op.scale, mode, align, recompute_scale_factor=False if op.scale else None)


_FUNCTIONS: dict[type[ops.Op], Callable[..., Tensor]] = {
    ops.Conv: _conv,
    ops.ConvTranspose: _conv_transpose,
    ops.Linear: _linear,
    ops.MatMul: lambda op, a, b: torch.matmul(a, b),
    ops.BatchNorm: _batch_norm,
    ops.LayerNorm: _layer_norm,
    ops.GroupNorm: lambda op, x, scale, bias: F.group_norm(x, op.groups, scale, bias, op.epsilon),
    ops.LocalResponseNorm: _local_response_norm,
    ops.Softmax: lambda op, x: (F.log_softmax if op.log else F.softmax)(x, op.axis),
    ops.Unary: lambda op, x: _activate(op.function, x),
    ops.Binary: lambda op, a, b: _activate(op.after, _BINARIES[op.kind](a, b)),
    ops.PRelu: lambda op, x, slope: torch.where(x > 0, x, slope * x),
    ops.Pool: _pool,
    ops.AdaptivePool: _adaptive_pool,
    ops.Reduce: _reduce,
    ops.Concat: lambda op, *tensors: torch.cat(tensors, op.axis),
    ops.Slice: _slice,
    ops.Pad: _pad,
    ops.Reshape: _reshape,
    ops.Transpose: lambda op, x: x.permute(op.perm),
    ops.Expand: lambda op, x: x.expand(ops.broadcast(tuple(x.shape), op.shape)),
    ops.Resize: _resize,
}
