"""ConvNeXt (Liu et al. 2022), and ConvFirst (Lavin 2024): blocks made for the machine.

ConvFirst's block is the paper's. Its network here is our own: the paper's table of widths and depths was not at hand.
"""

from __future__ import annotations

from waterline.models.network import Network, Tensor

GROUP_WIDTH = 8


def convnext(net: Network, depths: tuple[int, ...], widths: tuple[int, ...]) -> Tensor:
    x = net.conv(net.input, "features.0.0", widths[0], 4, stride=4, bias=True)
    x = _channel_norm(net, x, "features.0.1")
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        if stage:
            name = f"features.{2 * stage}"
            x = net.conv(_channel_norm(net, x, f"{name}.0"), f"{name}.1", width, 2, stride=2, bias=True)
        for block in range(depth):
            x = _convnext_block(net, x, f"features.{2 * stage + 1}.{block}")
    x = _channel_norm(net, net.global_average_pool(x), "classifier.0")
    return net.linear(net.flatten(x), "classifier.2", 1000)


def _channel_norm(net: Network, x: Tensor, name: str) -> Tensor:
    return net.transpose(net.layer_norm(net.transpose(x, (1, 2, 0)), name), (2, 0, 1))


def _convnext_block(net: Network, x: Tensor, name: str) -> Tensor:
    c = x.channels
    y = net.conv(x, f"{name}.block.0", c, 7, pad=3, groups=c, bias=True)
    y = net.layer_norm(net.transpose(y, (1, 2, 0)), f"{name}.block.2")
    y = net.gelu(net.matmul(y, f"{name}.block.3", 4 * c))
    y = net.transpose(net.matmul(y, f"{name}.block.5", c), (2, 0, 1))
    return net.add(net.scale(y, f"{name}.layer_scale", 0.5), x)


def convfirst(net: Network, depths: tuple[int, ...], widths: tuple[int, ...], expansion: int = 4) -> Tensor:
    """A 4x4 stem at stride 4, stages of ConvFirst blocks; the first block of a later stage halves the image."""
    x = net.batch_norm(net.conv(net.input, "stem.conv", widths[0], 4, stride=4), "stem.norm")
    for stage, depth in enumerate(depths):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            x = _convfirst_block(net, x, f"stages.{stage}.{block}", widths[stage], stride, expansion)
    x = net.silu(net.batch_norm(x, "head.norm"))
    return net.linear(net.flatten(net.global_average_pool(x)), "head.fc", 1000)


def _convfirst_block(net: Network, x: Tensor, name: str, k: int, stride: int, expansion: int) -> Tensor:
    c = x.channels
    y = net.conv(x, f"{name}.conv", c, 3, stride=stride, pad=1, groups=c // GROUP_WIDTH)
    y = net.batch_norm(y, f"{name}.conv_norm")
    y = net.batch_norm(net.conv(y, f"{name}.expand", expansion * c, 1), f"{name}.expand_norm")
    y = net.batch_norm(net.conv(net.silu(y), f"{name}.project", k, 1), f"{name}.project_norm")
    return net.add(y, x) if stride == 1 and c == k else y
