"""Moving explicit padding into the layer that reads it."""

from __future__ import annotations

from dataclasses import replace

from waterline.graph.ir import Graph
from waterline.graph.ops import AdaptivePool, Binary, Conv, Op, Pad, Pool, Unary
from waterline.graph.passes.rewriting import Rewriting
from waterline.spec import Activation

Sides = tuple[int, int, int, int]  # top, left, bottom, right
NOT_NEGATIVE = ("relu", "sigmoid", "hard_sigmoid", "exp", "sqrt", "abs", "square", "softplus")


def merge_pads(graph: Graph) -> Graph:
    """Let convolutions and pooling pad by themselves, where that gives the same values."""
    rewriting = Rewriting(graph)
    for node in rewriting.nodes():
        pad = rewriting.producer(node.inputs[0]) if isinstance(node.op, (Conv, Pool)) else None
        if pad is None or not isinstance(pad.op, Pad):
            continue
        sides = spatial_sides(pad.op)
        op = None if sides is None else merged(node.op, sides, pad.op.value, is_not_negative(rewriting, pad.inputs[0]))
        if op is not None:
            # Other readers keep the Pad; without any it is dead and goes.
            rewriting.replace([node], replace(node, op=op, inputs=(pad.inputs[0], *node.inputs[1:])))
            if not rewriting.readers(pad.output) and not rewriting.is_output(pad.output):
                rewriting.remove(pad)
    return rewriting.finish()


def spatial_sides(pad: Pad) -> Sides | None:
    """The padding of H and W, if it is constant and there is no other."""
    if pad.mode != "constant" or len(pad.before) != 4 or any((*pad.before[:2], *pad.after[:2])):
        return None
    return pad.before[2], pad.before[3], pad.after[2], pad.after[3]


def merged(op: Op, sides: Sides, value: float, is_input_not_negative: bool) -> Conv | Pool | None:
    """`op` with its input's padding of `value` included; None where its values would change."""
    if not isinstance(op, (Conv, Pool)):
        return None
    # Cropping and then padding with zeros is not the sum of both; every other order of signs is.
    if any(outer < 0 < inner for outer, inner in zip(sides, op.pad, strict=True)):
        return None
    (top, left, bottom, right), inner = sides, op.pad
    total = (top + inner[0], left + inner[1], bottom + inner[2], right + inner[3])
    if isinstance(op, Conv):
        return replace(op, pad=total) if value == 0 else None
    # Pooling has rules of its own for the last window (ceil_mode) and for pads (not negative, below the window).
    reach = [op.dilation[i] * (op.kernel[i] - 1) + 1 for i in (0, 1)]
    if op.ceil_mode or min(total) < 0 or any(total[i] >= reach[i % 2] for i in range(4)):
        return None
    if op.kind == "average" and value == 0 and (op.count_include_pad or not any(op.pad)):
        return replace(op, pad=total, count_include_pad=True)
    if op.kind == "lp" and value == 0:
        return replace(op, pad=total)
    # Without dilation every window sees a real element, which a pad of zero never exceeds if none is negative. Dilated
    # windows may step over a small image altogether.
    is_neutral = value == float("-inf") or (value == 0 and is_input_not_negative and op.dilation == (1, 1))
    return replace(op, pad=total) if op.kind == "max" and is_neutral else None


def is_not_negative(rewriting: Rewriting, tensor: str) -> bool:
    """Whether the node that writes `tensor` cannot give a negative number."""
    node = rewriting.producer(tensor)
    match node.op if node else None:
        case Unary(function=function):
            return is_function_not_negative(function)
        case Conv(epilogue=epilogue):
            return epilogue.after is not None and is_function_not_negative(epilogue.after)
        case Binary(after=after):
            return after is not None and is_function_not_negative(after)
        case Pool(kind="max" | "average") | AdaptivePool():
            assert node is not None
            return is_not_negative(rewriting, node.inputs[0])
    return False


def is_function_not_negative(function: Activation) -> bool:
    return function.kind in NOT_NEGATIVE or (
        function.kind == "clip" and function.params[0] >= 0 and function.params[1] >= 0
    )
