"""ResNet (He et al. 2015) with the stride in the 3x3 layer, ResNeXt (Xie et al. 2016), RegNetY (Radosavovic et al.
2020).
"""

from __future__ import annotations

from waterline.models.network import Network, Tensor


def resnet(
    net: Network, depths: tuple[int, ...], *, bottleneck: bool, groups: int = 1, group_width: int = 64
) -> Tensor:
    """Logits. A bottleneck's middle has `groups` groups of `group_width` channels at the first stage."""
    x = net.conv(net.input, "conv1", 64, 7, stride=2, pad=3)
    x = net.relu(net.batch_norm(x, "bn1"))
    x = net.max_pool(x, 3, 2, 1)
    for stage, depth in enumerate(depths):
        width = 64 << stage
        for block in range(depth):
            name = f"layer{stage + 1}.{block}"
            stride = 2 if stage and not block else 1
            if bottleneck:
                x = _bottleneck(net, x, name, width, stride, groups, width * group_width // 64 * groups)
            else:
                x = _basic(net, x, name, width, stride)
    return net.linear(net.flatten(net.global_average_pool(x)), "fc", 1000)


def _basic(net: Network, x: Tensor, name: str, width: int, stride: int) -> Tensor:
    y = net.conv(x, f"{name}.conv1", width, 3, stride=stride, pad=1)
    y = net.relu(net.batch_norm(y, f"{name}.bn1"))
    y = net.conv(y, f"{name}.conv2", width, 3, pad=1)
    y = net.batch_norm(y, f"{name}.bn2")
    return net.relu(net.add(y, _shortcut(net, x, name, width, stride)))


def _bottleneck(net: Network, x: Tensor, name: str, width: int, stride: int, groups: int, middle: int) -> Tensor:
    y = net.conv(x, f"{name}.conv1", middle, 1)
    y = net.relu(net.batch_norm(y, f"{name}.bn1"))
    y = net.conv(y, f"{name}.conv2", middle, 3, stride=stride, pad=1, groups=groups)
    y = net.relu(net.batch_norm(y, f"{name}.bn2"))
    y = net.conv(y, f"{name}.conv3", 4 * width, 1)
    y = net.batch_norm(y, f"{name}.bn3")
    return net.relu(net.add(y, _shortcut(net, x, name, 4 * width, stride)))


def _shortcut(net: Network, x: Tensor, name: str, channels: int, stride: int) -> Tensor:
    if stride == 1 and x.channels == channels:
        return x
    y = net.conv(x, f"{name}.downsample.0", channels, 1, stride=stride)
    return net.batch_norm(y, f"{name}.downsample.1")


def regnet_y(net: Network, depths: tuple[int, ...], widths: tuple[int, ...], group_width: int) -> Tensor:
    """Logits. Bottlenecks of constant width with squeeze-and-excitation of a quarter of the block's input."""
    x = net.conv(net.input, "stem.0", 32, 3, stride=2, pad=1)
    x = net.relu(net.batch_norm(x, "stem.1"))
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
        for block in range(depth):
            x = _y_block(
                net, x, f"trunk_output.block{stage}.block{stage}-{block}", width, 1 if block else 2, group_width
            )
    return net.linear(net.flatten(net.global_average_pool(x)), "fc", 1000)


def _y_block(net: Network, x: Tensor, name: str, width: int, stride: int, group_width: int) -> Tensor:
    shortcut = x
    if stride != 1 or x.channels != width:
        shortcut = net.batch_norm(net.conv(x, f"{name}.proj.0", width, 1, stride=stride), f"{name}.proj.1")
    y = net.conv(x, f"{name}.f.a.0", width, 1)
    y = net.relu(net.batch_norm(y, f"{name}.f.a.1"))
    y = net.conv(y, f"{name}.f.b.0", width, 3, stride=stride, pad=1, groups=width // group_width)
    y = net.relu(net.batch_norm(y, f"{name}.f.b.1"))
    gate = net.conv(net.global_average_pool(y), f"{name}.f.se.fc1", round(0.25 * x.channels), 1, bias=True)
    gate = net.conv(net.relu(gate), f"{name}.f.se.fc2", width, 1, bias=True)
    y = net.mul(y, net.sigmoid(gate))
    y = net.batch_norm(net.conv(y, f"{name}.f.c.0", width, 1), f"{name}.f.c.1")
    return net.relu(net.add(shortcut, y))
