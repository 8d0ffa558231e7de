"""The ConvFirst family, defined once: the PyTorch module and the zoo's ONNX models are made from it. No torch here.

The block is of Lavin, "On the Efficiency of Convolutional Neural Networks" (2024). The paper's table of widths and
depths was not at hand: these are our own, chosen with the efficiency formula (docs/convfirst.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from waterline.errors import InvalidArgument


@dataclass(frozen=True)
class BlockShape:
    """One block: a grouped convolution c -> c, a pointwise one to `hidden`, SiLU, a pointwise one to k.

    Attributes:
        name: of the block in the network, the prefix of its parameters: "stages.0.1".
        c, hidden, k: channels that enter, in the middle, and that leave.
        kernel: height and width of the grouped convolution's filters; its padding is `kernel // 2`.
        groups: of the grouped convolution. stride: of the same.
    """

    name: str
    c: int
    hidden: int
    k: int
    kernel: int
    groups: int
    stride: int

    @property
    def has_shortcut(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.c == self.k


@dataclass(frozen=True)
class ConvFirstConfig:
    """A network of ConvFirst blocks: stem, stages, a pointwise head.

    The first stage works at a quarter of the image's height and width; the first block of each later one halves them
    and changes the channels.

    Attributes:
        depths: blocks of each stage.
        widths: channels of each stage, multiples of `group_width`.
        group_width: channels in a group of the grouped convolutions. kernel: their height and width, odd.
        expansion: hidden channels of a block, as a multiple of those that enter it.
        stem_stride: 4, a convolution of 4x4 patches; or 2, a 3x3 one, and the first block halves the image too.
        head_width: channels of the pointwise convolution before pooling.

    Raises:
        InvalidArgument: a value that makes no network.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    group_width: int = 8
    expansion: int = 4
    kernel: int = 3
    stem_stride: int = 4
    head_width: int = 1024

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.widths) or not self.depths:
            raise InvalidArgument(
                f"ConvFirst was given {len(self.depths)} depths and {len(self.widths)} widths",
                "give one of each for every stage",
            )
        sizes = (*self.depths, *self.widths, self.group_width, self.expansion, self.head_width)
        if min(sizes) < 1:
            raise InvalidArgument(f"ConvFirst was given a size of {min(sizes)}", "every depth and width is at least 1")
        uneven = [width for width in self.widths if width % self.group_width]
        if uneven:
            raise InvalidArgument(
                f"ConvFirst's width {uneven[0]} is no multiple of its group width {self.group_width}",
                f"use {-(-uneven[0] // self.group_width) * self.group_width}",
            )
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise InvalidArgument(f"ConvFirst's kernel is {self.kernel}", "use an odd number, such as 3 or 5")
        if self.stem_stride not in (2, 4):
            raise InvalidArgument(f"ConvFirst's stem_stride is {self.stem_stride}", "use 2 or 4")

    @property
    def stem_kernel(self) -> int:
        """Height and width of the stem's filters: patches at stride 4, overlapping ones at stride 2."""
        return 4 if self.stem_stride == 4 else 3

    @property
    def stem_pad(self) -> int:
        return 0 if self.stem_stride == 4 else 1

    def blocks(self) -> Iterator[BlockShape]:
        """Every block, in order."""
        c = self.widths[0]
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            for block in range(depth):
                is_halving = block == 0 and (stage > 0 or self.stem_stride == 2)
                yield BlockShape(
                    name=f"stages.{stage}.{block}",
                    c=c,
                    hidden=self.expansion * c,
                    k=width,
                    kernel=self.kernel,
                    groups=c // self.group_width,
                    stride=2 if is_halving else 1,
                )
                c = width


FAMILY: dict[str, ConvFirstConfig] = {
    "convfirst_tiny": ConvFirstConfig((1, 2, 6, 3), (64, 128, 256, 512)),
    "convfirst_small": ConvFirstConfig((1, 2, 10, 3), (64, 128, 320, 640)),
    "convfirst_base": ConvFirstConfig((1, 2, 14, 3), (96, 192, 384, 768)),
}
