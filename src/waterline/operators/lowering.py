"""From an operation to the kernel calls that compute it: one table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from waterline.codegen.cpu.kernel import Call
from waterline.graph import ops
from waterline.machine import Machine
from waterline.operators import (
    elementwise,
    matmul,
    movement,
    normalisation,
    pooling,
    reduction,
    resize,
    response,
    softmax,
)
from waterline.spec import TensorView

_LOWERINGS: dict[type[ops.Op], Callable[..., list[Call]]] = {
    ops.Unary: elementwise.lower_unary,
    ops.Binary: elementwise.lower_binary,
    ops.PRelu: elementwise.lower_prelu,
    ops.Pool: pooling.lower_pool,
    ops.AdaptivePool: pooling.lower_adaptive_pool,
    ops.Reduce: reduction.lower_reduce,
    ops.Concat: movement.lower_concat,
    ops.Slice: movement.lower_slice,
    ops.Pad: movement.lower_pad,
    ops.Expand: movement.lower_expand,
    ops.Transpose: movement.lower_transpose,
    ops.Reshape: movement.lower_reshape,
    ops.Resize: resize.lower_resize,
    ops.LayerNorm: normalisation.lower_layer_norm,
    ops.GroupNorm: normalisation.lower_group_norm,
    ops.LocalResponseNorm: response.lower_response_norm,
    ops.Softmax: softmax.lower_softmax,
    ops.MatMul: matmul.lower_matmul,
}


def lower(op: ops.Op, inputs: Sequence[TensorView], outputs: Sequence[TensorView], machine: Machine) -> list[Call]:
    """The calls that compute `op`, in order; none where there is nothing to compute.

    Args:
        inputs, outputs: where the operation's float32 tensors lie. Any strides are right; those of NHWC storage (for
            rank 4) and dense ones (for other ranks) are fast.

    The kernels do not depend on the size of axis 0 where it is the outermost in memory, and an item computes the same
    bits whatever the batch and the number of threads.
    """
    if outputs[0].elems == 0:
        return []
    return _LOWERINGS[type(op)](op, inputs, outputs, machine)
