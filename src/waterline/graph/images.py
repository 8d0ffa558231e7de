"""`takes_images_alone`: whether a network computes every image by itself, so that any number may run together."""

from __future__ import annotations

from collections.abc import Sequence

from waterline.errors import Error
from waterline.graph import ops
from waterline.graph.ir import Graph, Node
from waterline.graph.rules import Shape

# Images: no size of a network that has anything else to do with axis 0 is likely to be as many, and nothing that takes
# the first few of them is likely to take all. Only shapes are made of them.
PROBED = 1_000_003


def takes_images_alone(graph: Graph) -> bool:
    """Whether axis 0 of all inputs and outputs counts images, and no image's result depends on another image."""
    if not graph.inputs or any(not graph.shapes[name] for name in graph.inputs):
        return False
    try:
        graph = graph.with_shapes({name: (PROBED, *graph.shapes[name][1:]) for name in graph.inputs})
    except Error:
        return False
    images = set(graph.inputs)
    for node in graph.nodes:
        if not images & set(node.inputs):
            continue
        if not _keeps_images(node, graph, images):
            return False
        images |= set(node.outputs)
    return images >= set(graph.outputs)


def _keeps_images(node: Node, graph: Graph, images: set[str]) -> bool:
    """Whether axis 0 of what it writes counts the images that axis 0 of what it reads does, each by itself."""
    op = node.op
    shapes = [graph.shapes[name] for name in node.inputs]
    is_image = [name in images for name in node.inputs]
    out = graph.shapes[node.outputs[0]]
    if any(graph.shapes[name][:1] != (PROBED,) for name in node.outputs):
        return False
    match op:
        case ops.Conv() | ops.Linear():
            return is_image[0] and not any(is_image[1:2]) and len(shapes[0]) > 1
        case ops.ConvTranspose() | ops.Pool() | ops.AdaptivePool() | ops.Resize() | ops.LocalResponseNorm():
            return is_image[0] and not any(is_image[1:])
        case ops.Unary() | ops.GroupNorm() | ops.BatchNorm():
            return is_image[0] and not any(is_image[1:])
        case ops.LayerNorm() | ops.Softmax():
            return is_image[0] and not any(is_image[1:]) and op.axis % len(shapes[0]) != 0
        case ops.Binary() | ops.PRelu():
            return _broadcasts(shapes, is_image, out)
        case ops.MatMul():
            is_rows = is_image == [True, False] and len(shapes[0]) >= 2 and len(shapes[1]) == 2
            return is_rows or (all(is_image) and len(shapes[0]) == len(shapes[1]) >= 3)
        case ops.Reduce():
            return all(axis % len(shapes[0]) != 0 for axis in op.axes)
        case ops.Concat():
            return all(is_image) and op.axis % len(out) != 0
        case ops.Slice():
            return op.ranges(shapes[0])[0] == range(PROBED)
        case ops.Pad():
            return op.before[0] == op.after[0] == 0
        case ops.Transpose():
            return op.perm[0] == 0
        case ops.Reshape() | ops.Expand():
            return shapes[0][0] == PROBED
    return False


def _broadcasts(shapes: Sequence[Shape], is_image: Sequence[bool], out: Shape) -> bool:
    """Whether images have their axis 0 in the result's, and everything else is the same for all of them."""
    return all(
        len(shape) == len(out) if each else len(shape) < len(out) or shape[0] == 1
        for shape, each in zip(shapes, is_image, strict=True)
    )


__all__ = ["takes_images_alone"]
