"""One function for every operation, and the walk through a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from waterline.errors import InvalidArgument
from waterline.graph import Graph, Node, ops
from waterline.reference import convolution, elementwise, movement, normalisation, windows

FUNCTIONS: dict[type[ops.Op], Callable[..., np.ndarray]] = {
    ops.Conv: convolution.conv,
    ops.ConvTranspose: convolution.conv_transpose,
    ops.Linear: convolution.linear,
    ops.MatMul: convolution.matmul,
    ops.BatchNorm: normalisation.batch_norm,
    ops.LayerNorm: normalisation.layer_norm,
    ops.GroupNorm: normalisation.group_norm,
    ops.LocalResponseNorm: normalisation.local_response_norm,
    ops.Softmax: normalisation.softmax,
    ops.Unary: elementwise.unary,
    ops.Binary: elementwise.binary,
    ops.PRelu: elementwise.prelu,
    ops.Pool: windows.pool,
    ops.AdaptivePool: windows.adaptive_pool,
    ops.Reduce: windows.reduce,
    ops.Concat: movement.concat,
    ops.Slice: movement.slice_,
    ops.Pad: movement.pad,
    ops.Reshape: movement.reshape,
    ops.Transpose: movement.transpose,
    ops.Expand: movement.expand,
    ops.Resize: movement.resize,
}


def evaluate(op: ops.Op, inputs: list[np.ndarray]) -> np.ndarray:
    """One operation on float64 arrays."""
    with np.errstate(all="ignore"):  # NaN and infinity are results here, not accidents
        return FUNCTIONS[type(op)](op, *inputs)


def run(graph: Graph, inputs: Mapping[str, np.ndarray], keep: Iterable[str] | None = ()) -> dict[str, np.ndarray]:
    """The values of a graph's outputs, in float64.

    Args:
        graph: any graph, simplified or not.
        inputs: an array for every input, of the shape that the graph says.
        keep: names of tensors to return besides the outputs; None keeps every tensor. What is not kept is freed as soon
            as its last reader has run.

    Raises:
        InvalidArgument: an input is absent, unknown or of another shape; `keep` names an unknown tensor.
    """
    return walk(graph, inputs, keep, lambda node, values: evaluate(node.op, values))


def walk(
    graph: Graph,
    inputs: Mapping[str, np.ndarray],
    keep: Iterable[str] | None,
    compute: Callable[[Node, list[np.ndarray]], np.ndarray],
) -> dict[str, np.ndarray]:
    """`run` with a function of the caller's for each node."""
    check_inputs(graph, inputs)
    last_reader = {name: position for position, node in enumerate(graph.nodes) for name in node.inputs}
    kept = set(graph.shapes) if keep is None else {*graph.outputs, *keep}
    unknown = sorted(kept - set(graph.shapes))
    if unknown:
        raise InvalidArgument(f"the graph {graph.name!r} has no tensor {unknown[0]!r}")
    values = {name: np.asarray(inputs[name], np.float64) for name in graph.inputs}
    for name in kept & set(graph.constants):
        values[name] = graph.constants[name].astype(np.float64)
    for position, node in enumerate(graph.nodes):
        # A constant is widened where it is read: all of them at once would take twice the model's size.
        arrays = [values[name] if name in values else graph.constants[name].astype(np.float64) for name in node.inputs]
        values[node.output] = compute(node, arrays)
        for name in {*node.inputs, node.output} - kept:
            if last_reader.get(name, position) == position:
                values.pop(name, None)
    return {name: values[name] for name in values if name in kept}


def check_inputs(graph: Graph, inputs: Mapping[str, np.ndarray]) -> None:
    missing, unknown = sorted(set(graph.inputs) - set(inputs)), sorted(set(inputs) - set(graph.inputs))
    if missing or unknown:
        raise InvalidArgument(
            f"the inputs are {', '.join(graph.inputs)}: "
            + "; ".join(
                f"{what} {', '.join(names)}" for what, names in (("missing", missing), ("unknown", unknown)) if names
            )
        )
    for name in graph.inputs:
        if np.shape(inputs[name]) != graph.shapes[name]:
            raise InvalidArgument(
                f"input {name!r} has the shape {np.shape(inputs[name])}, the graph takes {graph.shapes[name]}",
                "derive the graph of another shape with graph.with_shapes",
            )
