"""ConvFirst in PyTorch: residual blocks in an order that one kernel computes with little traffic.

After Lavin, "On the Efficiency of Convolutional Neural Networks" (2024): a grouped convolution first, at the narrow
width, then two pointwise ones around the only activation. There is no squeeze-and-excite, which would need the whole
image in the middle of a block. Every BatchNorm stands behind a convolution, so that all are folded when the network is
compiled. Widths and depths are our own: docs/convfirst.md.

    model = convfirst_tiny(num_classes=10).to(memory_format=torch.channels_last)
    net = waterline.compile(model.eval(), torch.randn(1, 3, 224, 224))

Parameters have the names of the zoo's ONNX models: `waterline.models.build("convfirst_tiny")` is the same network.
"""

from __future__ import annotations

from itertools import groupby

from waterline.errors import InvalidArgument
from waterline.models.convfirst_family import FAMILY, BlockShape, ConvFirstConfig

try:
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise InvalidArgument(
        "waterline.models.convfirst is a PyTorch module, and torch is not installed",
        "pip install 'waterline[torch]', or use the ONNX model: waterline.models.build('convfirst_tiny')",
    ) from error

__all__ = [
    "ConvFirst",
    "ConvFirstBlock",
    "ConvFirstConfig",
    "DropPath",
    "convfirst_base",
    "convfirst_small",
    "convfirst_tiny",
]


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, leaves the branch of a sample out with probability `rate`.

    x (n, ...) -> the same shape; what is kept is divided by `1 - rate`, so the mean stays. Nothing in evaluation.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * keep / (1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


class ConvFirstBlock(nn.Module):
    """x (n, c, h, w) -> (n, k, h / stride, w / stride), rounded up.

    Grouped kernel x kernel -> BN -> 1x1 to `hidden` -> BN -> SiLU -> 1x1 to k -> BN, plus x where shapes allow it.
    """

    def __init__(self, shape: BlockShape, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            shape.c, shape.c, shape.kernel, shape.stride, shape.kernel // 2, groups=shape.groups, bias=False
        )
        self.conv_norm = nn.BatchNorm2d(shape.c)
        self.expand = nn.Conv2d(shape.c, shape.hidden, 1, bias=False)
        self.expand_norm = nn.BatchNorm2d(shape.hidden)
        self.activation = nn.SiLU()
        self.project = nn.Conv2d(shape.hidden, shape.k, 1, bias=False)
        self.project_norm = nn.BatchNorm2d(shape.k)
        self.has_shortcut = shape.has_shortcut
        self.drop_path = DropPath(drop_path_rate if shape.has_shortcut else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_norm(self.conv(x))
        y = self.activation(self.expand_norm(self.expand(y)))
        y = self.project_norm(self.project(y))
        return x + self.drop_path(y) if self.has_shortcut else y


class ConvFirstHead(nn.Module):
    """x (n, c, h, w) -> (n, num_classes): 1x1 convolution -> BN -> SiLU -> mean over the image -> fully connected."""

    def __init__(self, c: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, width, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.activation = nn.SiLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.activation(self.norm(self.conv(x))))
        return self.fc(x.flatten(1))


class ConvFirst(nn.Module):
    """A network of ConvFirst blocks: images (n, in_channels, h, w) -> logits (n, num_classes), any h and w from 32 on.

    Args:
        config: widths, depths and the rest; `convfirst_tiny`, `_small` and `_base` have the family's.
        num_classes: of the logits. in_channels: of the images.
        drop_path_rate: of the last block, in [0, 1); it rises from 0 in the first, linearly with depth.

    Raises:
        InvalidArgument: a number of classes or channels below 1, or a rate outside [0, 1).
    """

    def __init__(
        self, config: ConvFirstConfig, num_classes: int = 1000, in_channels: int = 3, drop_path_rate: float = 0.0
    ) -> None:
        super().__init__()
        if num_classes < 1 or in_channels < 1:
            raise InvalidArgument(
                f"ConvFirst was given num_classes={num_classes} and in_channels={in_channels}", "both are at least 1"
            )
        if not 0 <= drop_path_rate < 1:
            raise InvalidArgument(f"drop_path_rate is {drop_path_rate}", "it is a probability below 1")
        self.config = config
        self.stem = nn.Sequential()
        kernel, stride, pad = config.stem_kernel, config.stem_stride, config.stem_pad
        self.stem.add_module("conv", nn.Conv2d(in_channels, config.widths[0], kernel, stride, pad, bias=False))
        self.stem.add_module("norm", nn.BatchNorm2d(config.widths[0]))
        shapes = list(config.blocks())
        last = max(1, len(shapes) - 1)
        blocks = [(s, ConvFirstBlock(s, drop_path_rate * i / last)) for i, s in enumerate(shapes)]
        by_stage = groupby(blocks, key=lambda each: each[0].name.split(".")[1])
        self.stages = nn.Sequential(*(nn.Sequential(*(block for _, block in stage)) for _, stage in by_stage))
        self.head = ConvFirstHead(config.widths[-1], config.head_width, num_classes)
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(self.stem(x)))

    def _initialise(self) -> None:
        """He's for convolutions (fan-out of a group), small for the classifier; each residual branch begins at zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                r, s = module.kernel_size
                fan_out = r * s * module.out_channels // module.groups
                nn.init.normal_(module.weight, 0.0, (2.0 / fan_out) ** 0.5)
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, ConvFirstBlock) and module.has_shortcut:
                nn.init.zeros_(module.project_norm.weight)


def convfirst_tiny(num_classes: int = 1000, in_channels: int = 3, drop_path_rate: float = 0.0) -> ConvFirst:
    """The smallest of the family, with random weights. Arguments and errors are those of `ConvFirst`."""
    return ConvFirst(FAMILY["convfirst_tiny"], num_classes, in_channels, drop_path_rate)


def convfirst_small(num_classes: int = 1000, in_channels: int = 3, drop_path_rate: float = 0.0) -> ConvFirst:
    """About twice the operations of `convfirst_tiny`, with random weights. Arguments are those of `ConvFirst`."""
    return ConvFirst(FAMILY["convfirst_small"], num_classes, in_channels, drop_path_rate)


def convfirst_base(num_classes: int = 1000, in_channels: int = 3, drop_path_rate: float = 0.0) -> ConvFirst:
    """About four times the operations of `convfirst_tiny`, with random weights. Arguments are those of `ConvFirst`."""
    return ConvFirst(FAMILY["convfirst_base"], num_classes, in_channels, drop_path_rate)
