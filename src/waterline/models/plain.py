"""Networks without branches: VGG (Simonyan and Zisserman 2014), AlexNet (Krizhevsky 2014, one tower), OverFeat's fast
model (Sermanet et al. 2013, table 1), SqueezeNet (Iandola et al. 2016), whose fire modules only fork and join.
"""

from __future__ import annotations

from waterline.models.network import Network, Tensor


def vgg(net: Network, depths: tuple[int, ...]) -> Tensor:
    """Logits. `depths`: 3x3 layers in each of the five stages."""
    x = net.input
    index = 0  # of torchvision's nn.Sequential, where activations and pooling count
    for stage, depth in enumerate(depths):
        for _ in range(depth):
            x = net.relu(net.conv(x, f"features.{index}", min(64 << stage, 512), 3, pad=1, bias=True))
            index += 2
        x = net.max_pool(x, 2, 2)
        index += 1
    x = net.flatten(net.adaptive_average_pool(x, 7))
    x = net.relu(net.linear(x, "classifier.0", 4096))
    x = net.relu(net.linear(x, "classifier.3", 4096))
    return net.linear(x, "classifier.6", 1000)


def alexnet(net: Network) -> Tensor:
    x = net.relu(net.conv(net.input, "features.0", 64, 11, stride=4, pad=2, bias=True))
    x = net.max_pool(x, 3, 2)
    x = net.relu(net.conv(x, "features.3", 192, 5, pad=2, bias=True))
    x = net.max_pool(x, 3, 2)
    x = net.relu(net.conv(x, "features.6", 384, 3, pad=1, bias=True))
    x = net.relu(net.conv(x, "features.8", 256, 3, pad=1, bias=True))
    x = net.relu(net.conv(x, "features.10", 256, 3, pad=1, bias=True))
    x = net.max_pool(x, 3, 2)
    x = net.flatten(net.adaptive_average_pool(x, 6))
    x = net.relu(net.linear(x, "classifier.1", 4096))
    x = net.relu(net.linear(x, "classifier.4", 4096))
    return net.linear(x, "classifier.6", 1000)


def overfeat(net: Network) -> Tensor:
    """231x231. The table's 24x24 of layer 2 is the size of its result: 28x28 enter, as the strides say."""
    x = net.max_pool(net.relu(net.conv(net.input, "features.0", 96, 11, stride=4, bias=True)), 2, 2)
    x = net.max_pool(net.relu(net.conv(x, "features.3", 256, 5, bias=True)), 2, 2)
    x = net.relu(net.conv(x, "features.6", 512, 3, pad=1, bias=True))
    x = net.relu(net.conv(x, "features.8", 1024, 3, pad=1, bias=True))
    x = net.relu(net.conv(x, "features.10", 1024, 3, pad=1, bias=True))
    x = net.flatten(net.max_pool(x, 2, 2))
    x = net.relu(net.linear(x, "classifier.0", 3072))
    x = net.relu(net.linear(x, "classifier.2", 4096))
    return net.linear(x, "classifier.4", 1000)


# (index in torchvision's nn.Sequential, squeeze, expand) of the fire modules; None is a pooling layer.
_FIRES_1_0 = (
    (3, 16, 64),
    (4, 16, 64),
    (5, 32, 128),
    None,
    (7, 32, 128),
    (8, 48, 192),
    (9, 48, 192),
    (10, 64, 256),
    None,
    (12, 64, 256),
)
_FIRES_1_1 = (
    (3, 16, 64),
    (4, 16, 64),
    None,
    (6, 32, 128),
    (7, 32, 128),
    None,
    (9, 48, 192),
    (10, 48, 192),
    (11, 64, 256),
    (12, 64, 256),
)


def squeezenet(net: Network, version: str) -> Tensor:
    if version == "1_0":
        x = net.conv(net.input, "features.0", 96, 7, stride=2, bias=True)
    else:
        x = net.conv(net.input, "features.0", 64, 3, stride=2, bias=True)
    x = net.max_pool(net.relu(x), 3, 2, ceil_mode=True)
    for fire in _FIRES_1_0 if version == "1_0" else _FIRES_1_1:
        if fire is None:
            x = net.max_pool(x, 3, 2, ceil_mode=True)
        else:
            x = _fire(net, x, f"features.{fire[0]}", *fire[1:])
    x = net.relu(net.conv(x, "classifier.1", 1000, 1, bias=True))
    return net.flatten(net.global_average_pool(x))


def _fire(net: Network, x: Tensor, name: str, squeeze: int, expand: int) -> Tensor:
    x = net.relu(net.conv(x, f"{name}.squeeze", squeeze, 1, bias=True))
    left = net.relu(net.conv(x, f"{name}.expand1x1", expand, 1, bias=True))
    right = net.relu(net.conv(x, f"{name}.expand3x3", expand, 3, pad=1, bias=True))
    return net.concat([left, right], f"{name}.concat")
