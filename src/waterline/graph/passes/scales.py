"""Passes that fold multiplications and additions by constants into the layer before them.

Factors and shifts are derived in float64; each new weight is the float64 product rounded to float32 once.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from waterline.graph.ir import Graph, Node
from waterline.graph.ops import BatchNorm, Binary, Conv, ConvTranspose, GroupNorm, LayerNorm, Linear
from waterline.graph.passes.rewriting import Rewriting
from waterline.spec import Epilogue

Array = np.ndarray


def fold_batchnorm(graph: Graph) -> Graph:
    """Fold every BatchNorm of constant parameters into the layer before it, or turn it into `x * factor + shift`."""
    rewriting = Rewriting(graph)
    for node in rewriting.nodes():
        if not isinstance(node.op, BatchNorm) or not all(map(graph.is_constant, node.inputs[1:])):
            continue
        scale, bias, mean, variance = (graph.constants[name].astype(np.float64) for name in node.inputs[1:])
        with np.errstate(all="ignore"):  # a negative variance makes NaN here as it does in the layer
            factor = scale / np.sqrt(variance + node.op.epsilon)
            shift = bias - mean * factor
        rank = len(graph.shapes[node.inputs[0]])
        if channel_axis(rewriting, node.inputs[0]) == 1 and fold(rewriting, node, node.inputs[0], factor, shift):
            continue
        shape = (-1, *(1,) * (rank - 2))
        scaled = rewriting.fresh(f"{node.output}.scaled")
        rewriting.replace(
            [node],
            Node(
                f"{node.name}.scale",
                Binary("mul"),
                (node.inputs[0], rewriting.constant(factor.reshape(shape), f"{node.name}.factor")),
                (scaled,),
            ),
            Node(
                node.name,
                Binary("add"),
                (scaled, rewriting.constant(shift.reshape(shape), f"{node.name}.shift")),
                node.outputs,
            ),
        )
    return rewriting.finish()


def fold_scales(graph: Graph) -> Graph:
    """Fold `+ - * /` by constants of one value per channel into the convolution, linear layer or norm before them."""
    rewriting = Rewriting(graph)
    for node in rewriting.nodes():
        if not isinstance(node.op, Binary) or node.op.after is not None:
            continue
        for constant, other in ((1, 0), (0, 1)):
            tensor, value = node.inputs[other], rewriting.constants.get(node.inputs[constant])
            axis = channel_axis(rewriting, tensor)
            if value is None or axis is None or rewriting.shapes[node.output] != rewriting.shapes[tensor]:
                continue
            values = per_channel(value, rewriting.shapes[tensor], axis)
            terms = None if values is None else affine(node.op.kind, values, is_first=constant == 0)
            if terms is not None and fold(rewriting, node, tensor, *terms):
                break
    return rewriting.finish()


def affine(kind: str, values: Array, is_first: bool) -> tuple[Array, Array] | None:
    """Factor and shift of `x kind values` (of `values kind x` where the constant comes first); None for other kinds."""
    one, zero = np.ones_like(values), np.zeros_like(values)
    if kind == "add":
        return one, values
    if kind == "sub":
        return (-one, values) if is_first else (one, -values)
    if kind == "mul":
        return values, zero
    if kind == "div" and not is_first:
        with np.errstate(divide="ignore"):
            return one / values, zero
    return None


def per_channel(value: Array, shape: tuple[int, ...], axis: int) -> Array | None:
    """A constant that varies along `axis` of `shape` only, as (shape[axis],) in float64; None if it is another."""
    if value.ndim > len(shape):
        return None
    aligned = (1,) * (len(shape) - value.ndim) + value.shape
    if any(d != 1 for i, d in enumerate(aligned) if i != axis) or aligned[axis] not in (1, shape[axis]):
        return None
    return np.broadcast_to(value.reshape(-1).astype(np.float64), (shape[axis],))


def channel_axis(rewriting: Rewriting, tensor: str) -> int | None:
    """The axis along which the layer that writes `tensor` has its own weights; None if no such layer writes it."""
    node = rewriting.producer(tensor)
    last = len(rewriting.shapes[tensor]) - 1
    match node.op if node else None:
        case Conv() | ConvTranspose() | GroupNorm():
            return 1
        case Linear():
            return last
        case LayerNorm(axis=axis):
            return last if axis == last else None
    return None


def fold(rewriting: Rewriting, node: Node, tensor: str, factor: Array, shift: Array) -> bool:
    """Let the layer that writes `tensor` compute `node`'s output, `tensor * factor + shift`; False if it cannot."""
    layer = rewriting.producer(tensor)
    if layer is None or not rewriting.is_private(tensor) or not has_room(layer):
        return False
    parameters = [rewriting.constants.get(name) for name in layer.inputs[1:]]
    if not all(parameter is not None for parameter in parameters):
        return False
    if not (np.isfinite(factor).all() and np.isfinite(shift).all()):
        return False
    weight, bias = parameters[0], parameters[1] if len(parameters) > 1 else None
    assert weight is not None
    inputs = list(layer.inputs[:2])
    if (factor != 1).any():
        inputs[1] = rewriting.constant(scaled_weight(layer, weight, factor), f"{layer.name}.weight")
    if bias is not None or shift.any():
        old = np.zeros_like(shift) if bias is None else bias.astype(np.float64)
        inputs.append(rewriting.constant(old * factor + shift, f"{layer.name}.bias"))
    folded = replace(layer, op=with_bias(layer, len(inputs) > 2), inputs=tuple(inputs), outputs=node.outputs)
    rewriting.replace([layer, node], folded)
    return True


def has_room(layer: Node) -> bool:
    """Whether nothing happens in the layer after its bias."""
    return not isinstance(layer.op, (Conv, Linear)) or layer.op.epilogue in (Epilogue(), Epilogue(bias=True))


def with_bias(layer: Node, bias: bool) -> Conv | Linear | ConvTranspose | LayerNorm | GroupNorm:
    match layer.op:
        case Conv() | Linear() as op:
            return replace(op, epilogue=Epilogue(bias=bias))
        case ConvTranspose() | LayerNorm() as op:
            return replace(op, bias=bias)
        case GroupNorm() as op:
            return op
    raise TypeError(f"{layer.op.name} has no weights")


def scaled_weight(layer: Node, weight: Array, factor: Array) -> Array:
    """The weight whose layer gives `factor` times as much in every output channel."""
    if isinstance(layer.op, ConvTranspose):  # (C, K/g, R, S): the groups of K lie along C
        groups = layer.op.groups
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        return scale_rows(grouped, factor.reshape(groups, 1, -1, 1, 1)).reshape(weight.shape)
    return scale_rows(weight, factor.reshape(-1, *(1,) * (weight.ndim - 1)))


def scale_rows(weight: Array, factor: Array) -> Array:
    """The product in float64, rounded to float32 once, without a float64 copy of the weights."""
    return np.multiply(weight, factor, out=np.empty(weight.shape, np.float32), dtype=np.float64, casting="same_kind")
