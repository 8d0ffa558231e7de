"""Small networks, each a block of layers that becomes one kernel. Every function takes the batch and the image."""

from __future__ import annotations

from collections.abc import Callable

from algorithms.blocks import GELU, RELU, SILU, Net
from waterline.graph import Graph
from waterline.graph.ops import AdaptivePool, Concat, Slice
from waterline.spec import Activation

Make = Callable[[int, int, int], Graph]
HARD_SWISH, CLIP = Activation("hard_swish"), Activation("clip", (-0.5, 1.0))


def conv_first(n: int, h: int, w: int, *, group: int = 8, c: int = 16) -> Graph:
    b = Net(x=(n, c, h, w))
    y = b.layer("x", c, 3, groups=c // group)
    y = b.layer(y, 3 * c, act=SILU)
    return b.done(b.layer(y, c, add="x"))


def conv_first_16(n: int, h: int, w: int) -> Graph:
    return conv_first(n, h, w, group=16, c=32)


def inverted_residual(n: int, h: int, w: int, *, c: int = 6, size: int = 3, act: Activation = CLIP) -> Graph:
    b = Net(x=(n, c, h, w))
    y = b.layer("x", 3 * c, act=act)
    y = b.depthwise(y, size, act=act)
    return b.done(b.layer(y, c, add="x"))


def inverted_down(n: int, h: int, w: int, *, size: int = 5) -> Graph:
    b = Net(x=(n, 5, h, w))
    y = b.layer("x", 17, act=SILU)
    y = b.depthwise(y, size, stride=2, act=SILU)
    return b.done(b.layer(y, 9))


def inverted_grouped(n: int, h: int, w: int) -> Graph:
    b = Net(x=(n, 8, h, w))
    y = b.layer("x", 32, act=RELU)
    y = b.layer(y, 32, 3, groups=4, stride=2, act=RELU)
    return b.done(b.layer(y, 8))


def excited(n: int, h: int, w: int) -> Graph:
    """Squeeze-and-excite: the image must be whole before its channels can be weighed, so there are two blocks."""
    b = Net(x=(n, 7, h, w))
    y = b.depthwise(b.layer("x", 18, act=SILU), act=SILU)
    gate = b.put("mean", AdaptivePool("average"), y)
    gate = b.layer(b.layer(gate, 4, act=SILU), 18, act=Activation("sigmoid"))
    return b.done(b.layer(b.binary("mul", y, gate), 7, add="x"))


def conv_next(n: int, h: int, w: int) -> Graph:
    b = Net(x=(n, 12, h, w))
    y = b.norm(b.depthwise("x", 7))
    y = b.layer(y, 40, act=GELU)
    return b.done(b.layer(y, 12, add="x"))


def conv_next_scale(n: int, h: int, w: int) -> Graph:
    """With a scale that cannot be folded into the weights before it, and a sum of its own."""
    b = Net(x=(n, 12, h, w))
    first = b.depthwise("x", 7)
    y = b.layer(b.norm(first), 40, act=GELU)
    y = b.layer(y, 12, act=Activation("abs"))
    y = b.binary("mul", y, b.weights("scale", 1, 12, 1, 1))
    return b.done(b.binary("add", y, first))


def basic(n: int, h: int, w: int) -> Graph:
    b = Net(x=(n, 7, h, w))
    y = b.layer("x", 7, 3, act=RELU)
    return b.done(b.layer(y, 7, 3, add="x", act=RELU))


def bottleneck(n: int, h: int, w: int) -> Graph:
    """With a strided convolution on its shortcut."""
    b = Net(x=(n, 10, h, w))
    y = b.layer("x", 6, act=RELU)
    y = b.layer(y, 6, 3, stride=2, act=RELU)
    shortcut = b.layer("x", 20, stride=2)
    return b.done(b.layer(y, 20, add=shortcut, act=RELU))


def bottleneck_first(n: int, h: int, w: int) -> Graph:
    """The shortcut's convolution comes first and its result is read last."""
    b = Net(x=(n, 10, h, w))
    shortcut = b.layer("x", 20, stride=2)
    y = b.layer("x", 6, act=RELU)
    y = b.layer(y, 6, 3, stride=2, act=RELU)
    return b.done(b.layer(y, 20, add=shortcut, act=RELU))


def separable(n: int, h: int, w: int) -> Graph:
    b = Net(x=(n, 9, h, w))
    y = b.layer(b.depthwise("x", act=RELU), 17, act=RELU)
    return b.done(b.layer(b.depthwise(y, stride=2, act=RELU), 15, act=RELU))


def stem(n: int, h: int, w: int, *, size: int = 3, stride: int = 2, kind: str = "max", pool: int = 3) -> Graph:
    b = Net(x=(n, 3, h, w))
    y = b.layer("x", 16, size, stride=stride, pad=(size // 2,) * 4 if size % 2 else (0,) * 4, act=RELU)
    return b.done(b.pool(y, kind, pool, 2, pool // 2))


def stem_7x7(n: int, h: int, w: int) -> Graph:
    return stem(n, h, w, size=7)


def stem_average(n: int, h: int, w: int) -> Graph:
    return stem(n, h, w, kind="average", pool=2)


def stem_patches(n: int, h: int, w: int) -> Graph:
    return stem(n, 2 * h, 2 * w, size=4, stride=4, kind="average")


def operators(n: int, h: int, w: int) -> Graph:
    """Layers without weights between convolutions, each a layer of its own: both see the tensor before them twice."""
    b = Net(x=(n, 5, h, w))
    y = b.prelu(b.layer("x", 19, 3))
    y = b.binary("mul", y, b.unary(y, Activation("abs")))
    return b.done(b.layer(y, 6, 3))


def readers(n: int, h: int, w: int) -> Graph:
    """One tensor inside is read through windows of three sizes, and is a residual too."""
    b = Net(x=(n, 8, h, w))
    a = b.layer("x", 16, act=RELU)
    wide = b.layer(a, 16, 5)
    tall = b.layer(a, 16, (3, 1), add=wide)
    return b.done(b.depthwise(tall, 3, add=a, act=SILU))


def inner_residual(n: int, h: int, w: int) -> Graph:
    b = Net(x=(n, 4, h, w))
    a = b.layer("x", 11, 3, act=RELU)
    y = b.layer(a, 11, 3, act=RELU)
    return b.done(b.layer(y, 11, 3, add=a))


def dilated(n: int, h: int, w: int) -> Graph:
    b = Net(x=(n, 6, h, w))
    y = b.layer("x", 10, 3, dilation=2, act=RELU)
    y = b.depthwise(y, 3, dilation=(3, 1), act=RELU)
    return b.done(b.layer(y, 5, 3, dilation=(1, 2)))


def uneven(n: int, h: int, w: int) -> Graph:
    """Filters of even size, padding on one side more than on the other, and more of it than a filter reaches."""
    b = Net(x=(n, 6, h, w))
    y = b.layer("x", 10, (2, 4), pad=(1, 0, 0, 3), act=RELU)
    y = b.depthwise(y, (4, 2), pad=(0, 1, 4, 0))
    return b.done(b.layer(y, 7, 3, pad=(3, 0, 2, 1)))


def skipping(n: int, h: int, w: int) -> Graph:
    """Strides larger than the filters: rows of the tensor inside that nobody reads."""
    b = Net(x=(n, 6, h, w))
    y = b.layer("x", 12, 3, act=RELU)
    y = b.depthwise(y, 2, stride=3, pad=(0, 0, 0, 0))
    return b.done(b.layer(y, 5, 1, stride=(1, 2)))


def in_concat(n: int, h: int, w: int) -> Graph:
    """What enters is a part of wider pixels, and so is what leaves; neighbours are written before and after."""
    b = Net(x=(n, 12, h, w))
    before = b.layer("x", 8, act=RELU)
    beside = b.layer("x", 5)
    both = b.put("both", Concat(1), beside, before, b.layer(beside, 6))
    part = b.put("part", Slice((1,), (5,), (13,), (1,)), both)
    y = b.layer(part, 24, act=RELU)
    y = b.depthwise(y, act=RELU)
    y = b.layer(y, 8, add=part)
    last = b.layer(part, 4)
    return b.done(b.put("wide", Concat(1), beside, y, last))


# name -> the network, and how many layers its last block has
NETWORKS: dict[str, tuple[Make, int]] = {
    "conv_first": (conv_first, 3),
    "conv_first_16": (conv_first_16, 3),
    "inverted_residual": (inverted_residual, 3),
    "inverted_down": (inverted_down, 3),
    "inverted_grouped": (inverted_grouped, 3),
    "excited": (excited, 2),
    "conv_next": (conv_next, 4),
    "conv_next_scale": (conv_next_scale, 6),
    "basic": (basic, 2),
    "bottleneck": (bottleneck, 4),
    "bottleneck_first": (bottleneck_first, 4),
    "separable": (separable, 4),
    "stem": (stem, 2),
    "stem_7x7": (stem_7x7, 2),
    "stem_average": (stem_average, 2),
    "stem_patches": (stem_patches, 2),
    "operators": (operators, 5),
    "readers": (readers, 4),
    "inner_residual": (inner_residual, 3),
    "dilated": (dilated, 3),
    "uneven": (uneven, 3),
    "skipping": (skipping, 3),
    "in_concat": (in_concat, 3),
}
