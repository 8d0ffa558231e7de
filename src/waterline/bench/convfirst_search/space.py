"""Which ConvFirst networks are compared, and what each has to compute: operations, parameters, data of every kernel.

The shapes are those of the literature on networks that were trained: stages at 1/4, 1/8, 1/16 and 1/32 of the image,
channels that grow by 1.5 to 2.5 times a stage, most blocks in the third stage and few in the first and the last
(ConvNeXt 3:3:9:3, Swin 2:2:6:2, RegNetX-800MF 1:3:7:5). Within them the efficiency decides; outside them it would
choose three wide layers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from waterline.models import ConvFirstConfig

IMAGE_SIZE, CLASSES = 224, 1000

# Multiples of 32: whole vectors on every machine.
WIDTHS = (
    (64, 96, 128),
    (128, 160, 192, 256),
    (256, 320, 384, 512),
    (384, 512, 640, 768, 1024),
)
GROWTH = (1.5, 2.5)
DEPTHS = ((1, 2, 3), (2, 3, 4), range(4, 19), (1, 2, 3))
THIRD_STAGE = (0.4, 0.7)  # its part of the blocks
GROUP_WIDTHS, EXPANSIONS, KERNELS, STEM_STRIDES = (8, 16), (3, 4, 6), (3, 5), (4, 2)


@dataclass(frozen=True)
class Size:
    """A member of the family: what its networks may cost.

    Attributes:
        macs, parameters: least and most. least_blocks: a network of few wide blocks is efficient, but not what trains
            well. head_width: see `ConvFirstConfig`.
    """

    macs: tuple[float, float]
    parameters: tuple[float, float]
    least_blocks: int
    head_width: int


# A quarter of ConvNeXt-T's 4.47e9 multiply-adds, half of it, and all of it with as many parameters or more (28.6e6).
SIZES: dict[str, Size] = {
    "convfirst_tiny": Size((1.08e9, 1.18e9), (7e6, 16e6), 12, 1024),
    "convfirst_small": Size((2.1e9, 2.4e9), (12e6, 26e6), 16, 1024),
    "convfirst_base": Size((4.2e9, 4.7e9), (20e6, 50e6), 18, 1024),
}


@dataclass(frozen=True)
class Work:
    """What one kernel (the stem, a block, the head) does for an image, as if nothing inside it went to memory.

    Attributes:
        macs: multiply-adds; grouped_macs: those of the grouped convolution. parameters: BatchNorm's among them.
        in_elems, out_elems: of the activations. silu_elems: values that go through the activation.
    """

    macs: int
    grouped_macs: int
    parameters: int
    in_elems: int
    out_elems: int
    silu_elems: int


def works(config: ConvFirstConfig, image_size: int = IMAGE_SIZE) -> list[Work]:
    """Of every kernel of a network with 1000 classes, in order."""
    width, taps = config.widths[0], config.stem_kernel**2
    size = (image_size + 2 * config.stem_pad - config.stem_kernel) // config.stem_stride + 1
    weights = 3 * taps * width
    found = [Work(size**2 * weights, 0, weights + 2 * width, 3 * image_size**2, size**2 * width, 0)]
    for block in config.blocks():
        entering = size**2 * block.c
        size = -(-size // block.stride)
        grouped = block.kernel**2 * block.c * block.c // block.groups
        weights = grouped + block.hidden * (block.c + block.k)
        norms = 2 * (block.c + block.hidden + block.k)
        hidden = size**2 * block.hidden
        found.append(Work(size**2 * weights, size**2 * grouped, weights + norms, entering, size**2 * block.k, hidden))
    c, width = config.widths[-1], config.head_width
    linear = width * CLASSES
    head = Work(
        size**2 * c * width + linear,
        0,
        c * width + 2 * width + linear + CLASSES,
        size**2 * c,
        CLASSES,
        size**2 * width,
    )
    return [*found, head]


def complexity(config: ConvFirstConfig, image_size: int = IMAGE_SIZE) -> tuple[int, int]:
    """Multiply-adds of an image, and learnable parameters."""
    found = works(config, image_size)
    return sum(work.macs for work in found), sum(work.parameters for work in found)


def grouped_share(config: ConvFirstConfig) -> float:
    """The grouped convolutions' part of the multiply-adds."""
    found = works(config)
    return sum(work.grouped_macs for work in found) / sum(work.macs for work in found)


def candidates(size: Size) -> Iterator[ConvFirstConfig]:
    """Every network of the space that costs what `size` allows."""
    depths = list(_depths(size.least_blocks))
    kinds = itertools.product(GROUP_WIDTHS, EXPANSIONS, KERNELS, STEM_STRIDES)
    for kind, widths in itertools.product(kinds, list(_widths())):
        least = ConvFirstConfig((1, 1, 1, 1), widths, *kind, size.head_width)
        for found in _affordable(least, depths, size):
            yield replace(least, depths=found)


def _affordable(least: ConvFirstConfig, depths: Sequence[tuple[int, ...]], size: Size) -> Iterator[tuple[int, ...]]:
    """Depths that cost what `size` allows: complexity is linear in them, as all but a stage's first block are equal."""
    base = complexity(least)
    one_more = [complexity(replace(least, depths=tuple(1 + (i == stage) for i in range(4)))) for stage in range(4)]
    for found in depths:
        macs, parameters = (
            base[what]
            + sum((depth - 1) * (more[what] - base[what]) for depth, more in zip(found, one_more, strict=True))
            for what in (0, 1)
        )
        if size.macs[0] <= macs <= size.macs[1] and size.parameters[0] <= parameters <= size.parameters[1]:
            yield found


def _widths() -> Iterator[tuple[int, ...]]:
    for widths in itertools.product(*WIDTHS):
        if all(GROWTH[0] * a <= b <= GROWTH[1] * a for a, b in itertools.pairwise(widths)):
            yield widths


def _depths(least: int) -> Iterator[tuple[int, ...]]:
    for depths in itertools.product(*DEPTHS):
        share = depths[2] / sum(depths)
        if sum(depths) >= least and depths[0] <= depths[1] and THIRD_STAGE[0] <= share <= THIRD_STAGE[1]:
            yield depths
