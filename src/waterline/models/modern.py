"""ConvNeXt (Liu et al. 2022), and ConvFirst (Lavin 2024): blocks made for the machine."""

from __future__ import annotations

from waterline.models.convfirst_family import BlockShape, ConvFirstConfig
from waterline.models.network import Network, Tensor


def convnext(net: Network, depths: tuple[int, ...], widths: tuple[int, ...]) -> Tensor:
    x = net.conv(net.input, "features.0.0", widths[0], 4, stride=4, bias=True)
    x = _channel_norm(net, x, "features.0.1")
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        if stage:
            name = f"features.{2 * stage}"
            x = net.conv(_channel_norm(net, x, f"{name}.0"), f"{name}.1", width, 2, stride=2, bias=True)
        for block in range(depth):
            x = convnext_block(net, x, f"features.{2 * stage + 1}.{block}")
    x = _channel_norm(net, net.global_average_pool(x), "classifier.0")
    return net.linear(net.flatten(x), "classifier.2", 1000)


def _channel_norm(net: Network, x: Tensor, name: str) -> Tensor:
    return net.transpose(net.layer_norm(net.transpose(x, (1, 2, 0)), name), (2, 0, 1))


def convnext_block(net: Network, x: Tensor, name: str) -> Tensor:
    c = x.channels
    y = net.conv(x, f"{name}.block.0", c, 7, pad=3, groups=c, bias=True)
    y = net.layer_norm(net.transpose(y, (1, 2, 0)), f"{name}.block.2")
    y = net.gelu(net.matmul(y, f"{name}.block.3", 4 * c))
    y = net.transpose(net.matmul(y, f"{name}.block.5", c), (2, 0, 1))
    return net.add(net.scale(y, f"{name}.layer_scale", 0.5), x)


def convfirst(net: Network, config: ConvFirstConfig) -> Tensor:
    """As `waterline.models.convfirst.ConvFirst`, with 1000 classes."""
    kernel, stride, pad = config.stem_kernel, config.stem_stride, config.stem_pad
    x = net.batch_norm(net.conv(net.input, "stem.conv", config.widths[0], kernel, stride=stride, pad=pad), "stem.norm")
    for block in config.blocks():
        x = convfirst_block(net, x, block)
    x = net.silu(net.batch_norm(net.conv(x, "head.conv", config.head_width, 1), "head.norm"))
    return net.linear(net.flatten(net.global_average_pool(x)), "head.fc", 1000)


def convfirst_block(net: Network, x: Tensor, block: BlockShape) -> Tensor:
    y = net.conv(
        x,
        f"{block.name}.conv",
        block.c,
        block.kernel,
        stride=block.stride,
        pad=block.kernel // 2,
        groups=block.groups,
    )
    y = net.batch_norm(y, f"{block.name}.conv_norm")
    y = net.batch_norm(net.conv(y, f"{block.name}.expand", block.hidden, 1), f"{block.name}.expand_norm")
    y = net.batch_norm(net.conv(net.silu(y), f"{block.name}.project", block.k, 1), f"{block.name}.project_norm")
    return net.add(y, x) if block.has_shortcut else y
