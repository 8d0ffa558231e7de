"""Inverted residuals: MobileNetV2 (Sandler et al. 2018), MobileNetV3 (Howard et al. 2019), EfficientNet (Tan and Le
2019); and ShuffleNetV2 (Ma et al. 2018).
"""

from __future__ import annotations

from waterline.models.network import Network, Tensor


def round_channels(value: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, at least `divisor` and at least 90 % of `value`."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def _conv_norm(
    net: Network,
    x: Tensor,
    name: str,
    k: int,
    kernel: int,
    activation: str | None,
    stride: int = 1,
    groups: int = 1,
    epsilon: float = 1e-5,
) -> Tensor:
    x = net.conv(x, f"{name}.0", k, kernel, stride=stride, pad=kernel // 2, groups=groups)
    x = net.batch_norm(x, f"{name}.1", epsilon)
    return net.activation(x, activation) if activation else x


# expansion, channels, repeats, stride of the first
_MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(net: Network) -> Tensor:
    x = _conv_norm(net, net.input, "features.0", 32, 3, "relu6", stride=2)
    index = 1
    for expansion, k, repeats, first_stride in _MOBILENET_V2:
        for repeat in range(repeats):
            x = inverted_residual(net, x, f"features.{index}.conv", expansion, k, 1 if repeat else first_stride)
            index += 1
    x = _conv_norm(net, x, "features.18", 1280, 1, "relu6")
    return net.linear(net.flatten(net.global_average_pool(x)), "classifier.1", 1000)


def inverted_residual(net: Network, x: Tensor, name: str, expansion: int, k: int, stride: int) -> Tensor:
    y, part = x, 0
    if expansion != 1:
        y = _conv_norm(net, y, f"{name}.0", x.channels * expansion, 1, "relu6")
        part = 1
    y = _conv_norm(net, y, f"{name}.{part}", y.channels, 3, "relu6", stride, y.channels)
    y = net.batch_norm(net.conv(y, f"{name}.{part + 1}", k, 1), f"{name}.{part + 2}")
    return net.add(x, y) if stride == 1 and x.channels == k else y


# kernel, expanded channels, channels, squeeze-and-excitation, activation, stride
_MOBILENET_V3_LARGE = (
    (3, 16, 16, False, "relu", 1),
    (3, 64, 24, False, "relu", 2),
    (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2),
    (5, 120, 40, True, "relu", 1),
    (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "hard_swish", 2),
    (3, 200, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 480, 112, True, "hard_swish", 1),
    (3, 672, 112, True, "hard_swish", 1),
    (5, 672, 160, True, "hard_swish", 2),
    (5, 960, 160, True, "hard_swish", 1),
    (5, 960, 160, True, "hard_swish", 1),
)


def mobilenet_v3_large(net: Network) -> Tensor:
    x = _conv_norm(net, net.input, "features.0", 16, 3, "hard_swish", stride=2, epsilon=1e-3)
    for index, (kernel, expanded, k, excite, activation, stride) in enumerate(_MOBILENET_V3_LARGE, 1):
        name = f"features.{index}.block"
        y, part = x, 0
        if expanded != x.channels:
            y = _conv_norm(net, y, f"{name}.0", expanded, 1, activation, epsilon=1e-3)
            part = 1
        y = _conv_norm(net, y, f"{name}.{part}", expanded, kernel, activation, stride, expanded, epsilon=1e-3)
        if excite:
            part += 1
            y = _excite(net, y, f"{name}.{part}", round_channels(expanded // 4), "relu", "hard_sigmoid")
        y = _conv_norm(net, y, f"{name}.{part + 1}", k, 1, None, epsilon=1e-3)
        x = net.add(y, x) if stride == 1 and x.channels == k else y
    x = _conv_norm(net, x, "features.16", 960, 1, "hard_swish", epsilon=1e-3)
    x = net.linear(net.flatten(net.global_average_pool(x)), "classifier.0", 1280)
    return net.linear(net.hard_swish(x), "classifier.3", 1000)


def _excite(net: Network, x: Tensor, name: str, squeezed: int, activation: str, gate: str) -> Tensor:
    y = net.conv(net.global_average_pool(x), f"{name}.fc1", squeezed, 1, bias=True)
    y = net.conv(net.activation(y, activation), f"{name}.fc2", x.channels, 1, bias=True)
    return net.mul(x, net.activation(y, gate))


# expansion, kernel, stride of the first, channels, repeats
_EFFICIENTNET_B0 = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


def efficientnet_b0(net: Network) -> Tensor:
    x = _conv_norm(net, net.input, "features.0", 32, 3, "silu", stride=2)
    for stage, (expansion, kernel, first_stride, k, repeats) in enumerate(_EFFICIENTNET_B0, 1):
        for repeat in range(repeats):
            stride = 1 if repeat else first_stride
            x = _mbconv(net, x, f"features.{stage}.{repeat}.block", expansion, kernel, k, stride)
    x = _conv_norm(net, x, "features.8", 1280, 1, "silu")
    return net.linear(net.flatten(net.global_average_pool(x)), "classifier.1", 1000)


def _mbconv(net: Network, x: Tensor, name: str, expansion: int, kernel: int, k: int, stride: int) -> Tensor:
    y, part = x, 0
    if expansion != 1:
        y = _conv_norm(net, y, f"{name}.0", x.channels * expansion, 1, "silu")
        part = 1
    y = _conv_norm(net, y, f"{name}.{part}", y.channels, kernel, "silu", stride, y.channels)
    y = _excite(net, y, f"{name}.{part + 1}", max(1, x.channels // 4), "silu", "sigmoid")
    y = _conv_norm(net, y, f"{name}.{part + 2}", k, 1, None)
    return net.add(y, x) if stride == 1 and x.channels == k else y


def shufflenet_v2(net: Network, repeats: tuple[int, ...], widths: tuple[int, ...]) -> Tensor:
    """Logits. `widths`: channels of the stem, the three stages and the last layer."""
    x = _conv_norm(net, net.input, "conv1", widths[0], 3, "relu", stride=2)
    x = net.max_pool(x, 3, 2, 1)
    for stage, (count, width) in enumerate(zip(repeats, widths[1:-1], strict=True), 2):
        for index in range(count):
            x = _shuffle_block(net, x, f"stage{stage}.{index}", width // 2, 1 if index else 2)
    x = _conv_norm(net, x, "conv5", widths[-1], 1, "relu")
    return net.linear(net.mean(x), "fc", 1000)


def _shuffle_block(net: Network, x: Tensor, name: str, half: int, stride: int) -> Tensor:
    if stride == 1:
        left, right = net.halves(x)
    else:
        left = right = x
        left = net.conv(left, f"{name}.branch1.0", x.channels, 3, stride=stride, pad=1, groups=x.channels)
        left = net.batch_norm(left, f"{name}.branch1.1")
        left = net.conv(left, f"{name}.branch1.2", half, 1)
        left = net.relu(net.batch_norm(left, f"{name}.branch1.3"))
    right = net.conv(right, f"{name}.branch2.0", half, 1)
    right = net.relu(net.batch_norm(right, f"{name}.branch2.1"))
    right = net.conv(right, f"{name}.branch2.3", half, 3, stride=stride, pad=1, groups=half)
    right = net.batch_norm(right, f"{name}.branch2.4")
    right = net.conv(right, f"{name}.branch2.5", half, 1)
    right = net.relu(net.batch_norm(right, f"{name}.branch2.6"))
    return net.channel_shuffle(net.concat([left, right], f"{name}.concat"), 2)
