"""Networks that concatenate: DenseNet (Huang et al. 2016), GoogLeNet (Szegedy et al. 2014, with BatchNorm as in
torchvision) and Inception v3 (Szegedy et al. 2015). The auxiliary classifiers serve training only and are left out.
"""

from __future__ import annotations

from waterline.models.network import Network, Tensor


def densenet(net: Network, depths: tuple[int, ...], growth: int = 32, bottleneck: int = 4) -> Tensor:
    x = net.conv(net.input, "features.conv0", 64, 7, stride=2, pad=3)
    x = net.max_pool(net.relu(net.batch_norm(x, "features.norm0")), 3, 2, 1)
    for block, depth in enumerate(depths, 1):
        features = [x]
        for layer in range(1, depth + 1):
            name = f"features.denseblock{block}.denselayer{layer}"
            y = net.concat(features, f"{name}.concat") if len(features) > 1 else x
            y = net.relu(net.batch_norm(y, f"{name}.norm1"))
            y = net.conv(y, f"{name}.conv1", bottleneck * growth, 1)
            y = net.relu(net.batch_norm(y, f"{name}.norm2"))
            features.append(net.conv(y, f"{name}.conv2", growth, 3, pad=1))
        x = net.concat(features, f"features.denseblock{block}.concat")
        if block < len(depths):
            name = f"features.transition{block}"
            x = net.relu(net.batch_norm(x, f"{name}.norm"))
            x = net.average_pool(net.conv(x, f"{name}.conv", x.channels // 2, 1), 2, 2)
    x = net.relu(net.batch_norm(x, "features.norm5"))
    return net.linear(net.flatten(net.global_average_pool(x)), "classifier", 1000)


def _unit(
    net: Network, x: Tensor, name: str, k: int, kernel: int | tuple[int, int], stride: int = 1, padded: bool = True
) -> Tensor:
    """Convolution, BatchNorm, ReLU; padded to keep the size unless told otherwise."""
    r, s = (kernel, kernel) if isinstance(kernel, int) else kernel
    pad = (r // 2, s // 2) if padded else (0, 0)
    x = net.conv(x, f"{name}.conv", k, (r, s), stride=stride, pad=pad)
    return net.relu(net.batch_norm(x, f"{name}.bn", 1e-3))


# Channels: 1x1, reduced and 3x3, reduced and 5x5 (really 3x3, as in torchvision), after pooling. None: a pooling layer.
_GOOGLENET = (
    ("3a", 64, 96, 128, 16, 32, 32),
    ("3b", 128, 128, 192, 32, 96, 64),
    None,
    ("4a", 192, 96, 208, 16, 48, 64),
    ("4b", 160, 112, 224, 24, 64, 64),
    ("4c", 128, 128, 256, 24, 64, 64),
    ("4d", 112, 144, 288, 32, 64, 64),
    ("4e", 256, 160, 320, 32, 128, 128),
    None,
    ("5a", 256, 160, 320, 32, 128, 128),
    ("5b", 384, 192, 384, 48, 128, 128),
)


def googlenet(net: Network) -> Tensor:
    x = net.max_pool(_unit(net, net.input, "conv1", 64, 7, 2), 3, 2, ceil_mode=True)
    x = _unit(net, _unit(net, x, "conv2", 64, 1), "conv3", 192, 3)
    x = net.max_pool(x, 3, 2, ceil_mode=True)
    pooling = iter((3, 2))  # the windows of the two pooling layers between the stages
    for module in _GOOGLENET:
        if module is None:
            x = net.max_pool(x, next(pooling), 2, ceil_mode=True)
            continue
        suffix, *widths = module
        name = f"inception{suffix}"
        branches = [
            _unit(net, x, f"{name}.branch1", widths[0], 1),
            _unit(net, _unit(net, x, f"{name}.branch2.0", widths[1], 1), f"{name}.branch2.1", widths[2], 3),
            _unit(net, _unit(net, x, f"{name}.branch3.0", widths[3], 1), f"{name}.branch3.1", widths[4], 3),
            _unit(net, net.max_pool(x, 3, 1, 1, ceil_mode=True), f"{name}.branch4.1", widths[5], 1),
        ]
        x = net.concat(branches, f"{name}.concat")
    return net.linear(net.flatten(net.global_average_pool(x)), "fc", 1000)


def inception_v3(net: Network) -> Tensor:
    """299x299."""
    x = _unit(net, net.input, "Conv2d_1a_3x3", 32, 3, 2, padded=False)
    x = _unit(net, x, "Conv2d_2a_3x3", 32, 3, padded=False)
    x = _unit(net, x, "Conv2d_2b_3x3", 64, 3)
    x = net.max_pool(x, 3, 2)
    x = _unit(net, x, "Conv2d_3b_1x1", 80, 1)
    x = _unit(net, x, "Conv2d_4a_3x3", 192, 3, padded=False)
    x = net.max_pool(x, 3, 2)
    for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        x = _inception_a(net, x, name, pooled)
    x = _reduction_b(net, x, "Mixed_6a")
    for name, middle in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        x = _inception_c(net, x, name, middle)
    x = _reduction_d(net, x, "Mixed_7a")
    x = _inception_e(net, x, "Mixed_7b")
    x = _inception_e(net, x, "Mixed_7c")
    return net.linear(net.flatten(net.global_average_pool(x)), "fc", 1000)


def _chain(net: Network, x: Tensor, name: str, layers: tuple[tuple[str, int, int | tuple[int, int]], ...]) -> Tensor:
    for suffix, k, kernel in layers:
        x = _unit(net, x, f"{name}.{suffix}", k, kernel)
    return x


def _inception_a(net: Network, x: Tensor, name: str, pooled: int) -> Tensor:
    branches = [
        _chain(net, x, name, (("branch1x1", 64, 1),)),
        _chain(net, x, name, (("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5))),
        _chain(net, x, name, (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3))),
        _chain(net, net.average_pool(x, 3, 1, 1), name, (("branch_pool", pooled, 1),)),
    ]
    return net.concat(branches, f"{name}.concat")


def _reduction_b(net: Network, x: Tensor, name: str) -> Tensor:
    double = _chain(net, x, name, (("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3)))
    branches = [
        _unit(net, x, f"{name}.branch3x3", 384, 3, 2, padded=False),
        _unit(net, double, f"{name}.branch3x3dbl_3", 96, 3, 2, padded=False),
        net.max_pool(x, 3, 2),
    ]
    return net.concat(branches, f"{name}.concat")


def _inception_c(net: Network, x: Tensor, name: str, middle: int) -> Tensor:
    row, column = (1, 7), (7, 1)
    double = (
        ("branch7x7dbl_1", middle, 1),
        ("branch7x7dbl_2", middle, column),
        ("branch7x7dbl_3", middle, row),
        ("branch7x7dbl_4", middle, column),
        ("branch7x7dbl_5", 192, row),
    )
    branches = [
        _chain(net, x, name, (("branch1x1", 192, 1),)),
        _chain(net, x, name, (("branch7x7_1", middle, 1), ("branch7x7_2", middle, row), ("branch7x7_3", 192, column))),
        _chain(net, x, name, double),
        _chain(net, net.average_pool(x, 3, 1, 1), name, (("branch_pool", 192, 1),)),
    ]
    return net.concat(branches, f"{name}.concat")


def _reduction_d(net: Network, x: Tensor, name: str) -> Tensor:
    narrow = _chain(net, x, name, (("branch3x3_1", 192, 1),))
    wide = (("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1)))
    branches = [
        _unit(net, narrow, f"{name}.branch3x3_2", 320, 3, 2, padded=False),
        _unit(net, _chain(net, x, name, wide), f"{name}.branch7x7x3_4", 192, 3, 2, padded=False),
        net.max_pool(x, 3, 2),
    ]
    return net.concat(branches, f"{name}.concat")


def _inception_e(net: Network, x: Tensor, name: str) -> Tensor:
    row, column = (1, 3), (3, 1)
    single = _chain(net, x, name, (("branch3x3_1", 384, 1),))
    double = _chain(net, x, name, (("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3)))
    branches = [
        _chain(net, x, name, (("branch1x1", 320, 1),)),
        _unit(net, single, f"{name}.branch3x3_2a", 384, row),
        _unit(net, single, f"{name}.branch3x3_2b", 384, column),
        _unit(net, double, f"{name}.branch3x3dbl_3a", 384, row),
        _unit(net, double, f"{name}.branch3x3dbl_3b", 384, column),
        _chain(net, net.average_pool(x, 3, 1, 1), name, (("branch_pool", 192, 1),)),
    ]
    return net.concat(branches, f"{name}.concat")
