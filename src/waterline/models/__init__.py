"""The zoo: networks of the papers and of torchvision as ONNX models with random weights. One definition each.

`waterline.models.convfirst` has the ConvFirst family as PyTorch modules too; nothing else here needs torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from onnx import ModelProto

from waterline.errors import InvalidArgument
from waterline.models import modern
from waterline.models.block import BLOCKS, build_block
from waterline.models.branched import densenet, googlenet, inception_v3
from waterline.models.convfirst_family import FAMILY, ConvFirstConfig
from waterline.models.layer import build_layer
from waterline.models.mobile import efficientnet_b0, mobilenet_v2, mobilenet_v3_large, shufflenet_v2
from waterline.models.network import Network, Tensor
from waterline.models.plain import alexnet, overfeat, squeezenet, vgg
from waterline.models.resnet import regnet_y, resnet
from waterline.spec import ConvSpec

__all__ = [
    "BLOCKS",
    "ConvFirstConfig",
    "build",
    "build_block",
    "build_convfirst",
    "build_layer",
    "convolutions",
    "default_image_size",
    "names",
]


@dataclass(frozen=True)
class _Entry:
    body: Callable[[Network], Tensor]
    image_size: int = 224
    least_image_size: int = 32


_ZOO: dict[str, _Entry] = {
    "resnet18": _Entry(lambda net: resnet(net, (2, 2, 2, 2), bottleneck=False)),
    "resnet34": _Entry(lambda net: resnet(net, (3, 4, 6, 3), bottleneck=False)),
    "resnet50": _Entry(lambda net: resnet(net, (3, 4, 6, 3), bottleneck=True)),
    "resnet101": _Entry(lambda net: resnet(net, (3, 4, 23, 3), bottleneck=True)),
    "resnext50_32x4d": _Entry(lambda net: resnet(net, (3, 4, 6, 3), bottleneck=True, groups=32, group_width=4)),
    "regnet_y_400mf": _Entry(lambda net: regnet_y(net, (1, 3, 6, 6), (48, 104, 208, 440), 8)),
    "vgg11": _Entry(lambda net: vgg(net, (1, 1, 2, 2, 2))),
    "vgg16": _Entry(lambda net: vgg(net, (2, 2, 3, 3, 3))),
    "vgg19": _Entry(lambda net: vgg(net, (2, 2, 4, 4, 4))),
    "alexnet": _Entry(alexnet, least_image_size=63),
    "overfeat": _Entry(overfeat, image_size=231, least_image_size=231),
    "squeezenet1_0": _Entry(lambda net: squeezenet(net, "1_0")),
    "squeezenet1_1": _Entry(lambda net: squeezenet(net, "1_1")),
    "mobilenet_v2": _Entry(mobilenet_v2),
    "mobilenet_v3_large": _Entry(mobilenet_v3_large),
    "efficientnet_b0": _Entry(efficientnet_b0),
    "shufflenet_v2_x1_0": _Entry(lambda net: shufflenet_v2(net, (4, 8, 4), (24, 116, 232, 464, 1024))),
    "convnext_tiny": _Entry(lambda net: modern.convnext(net, (3, 3, 9, 3), (96, 192, 384, 768))),
    "densenet121": _Entry(lambda net: densenet(net, (6, 12, 24, 16))),
    "googlenet": _Entry(googlenet),
    "inception_v3": _Entry(inception_v3, image_size=299, least_image_size=75),
    **{name: _Entry(partial(modern.convfirst, config=config)) for name, config in FAMILY.items()},
}


def names() -> tuple[str, ...]:
    """The names that `build` accepts."""
    return tuple(_ZOO)


def default_image_size(name: str) -> int:
    """Height and width of the image that the network was designed for."""
    return _entry(name).image_size


def build(name: str, image_size: int | None = None, seed: int | None = 0) -> ModelProto:
    """A network as an ONNX model, input `input` (N, 3, image_size, image_size), output `output` (N, 1000).

    Args:
        name: one of `names()`.
        image_size: height and width; None is the network's own.
        seed: of the weights, which are random and scaled so that activations stay near one. None leaves them out: the
            model has names and shapes only.

    Raises:
        InvalidArgument: an unknown name, or a size that the network's strides reduce to nothing.
    """
    network = _network(name, image_size, seed)
    return network.finish(_ZOO[name].body(network))


def build_convfirst(config: ConvFirstConfig, image_size: int = 224, seed: int | None = 0) -> ModelProto:
    """As `build`, for a ConvFirst of any configuration."""
    network = Network("convfirst", image_size, seed)
    return network.finish(modern.convfirst(network, config))


def convolutions(name: str, image_size: int | None = None) -> list[tuple[str, ConvSpec]]:
    """Name and spec of every convolution of a network, for one image, in execution order."""
    network = _network(name, image_size, None)
    _ZOO[name].body(network)
    return network.convolutions


def _network(name: str, image_size: int | None, seed: int | None) -> Network:
    entry = _entry(name)
    size = entry.image_size if image_size is None else image_size
    if size < entry.least_image_size:
        raise InvalidArgument(
            f"{name} takes images of at least {entry.least_image_size}x{entry.least_image_size}, got {size}x{size}",
            f"its own size is {entry.image_size}",
        )
    return Network(name, size, seed)


def _entry(name: str) -> _Entry:
    entry = _ZOO.get(name)
    if entry is None:
        close = difflib.get_close_matches(name, _ZOO, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the zoo has {', '.join(_ZOO)}"
        raise InvalidArgument(f"there is no network named {name!r}", hint)
    return entry
