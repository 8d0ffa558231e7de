"""Networks by name: ConvFirst of `waterline.models`, and torchvision's ConvNeXt to compare it with."""

from __future__ import annotations

import difflib
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from waterline.errors import InvalidArgument
from waterline.models.convfirst import ConvFirst, ConvFirstConfig
from waterline.models.convfirst_family import FAMILY
from waterline.train import vision
from waterline.train.randomness import seeded

CHANNELS = 3  # of an image; those with one are given three


@dataclass(frozen=True)
class Architecture:
    """A network's shape, from which it can be made again: what a file of weights needs beside them.

    Attributes:
        name: "convfirst_tiny", "_small", "_base", or "convnext_tiny", "_small", "_base", "_large".
        depths, widths: blocks and channels of each stage. stem_stride: the first layer's.
        group_width, expansion, kernel, head_width: of ConvFirst; None: its own. ConvNeXt has none of them.
    """

    name: str
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stem_stride: int = 4
    group_width: int | None = None
    expansion: int | None = None
    kernel: int | None = None
    head_width: int | None = None

    @property
    def least_image_size(self) -> int:
        """Height and width that the strides leave one pixel of."""
        return self.stem_stride * 2 ** (len(self.depths) - 1) * (2 if self._halves_early else 1)

    @property
    def _halves_early(self) -> bool:
        return self.name.startswith("convfirst") and self.stem_stride == 2

    def check_image_size(self, image_size: int) -> None:
        """Raises InvalidArgument: images so small that the last stages would see nothing of them."""
        if image_size < self.least_image_size:
            raise InvalidArgument(
                f"images of {image_size}x{image_size} are too small for {self.name}",
                f"use --image-size {self.least_image_size} or more, or fewer stages",
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Architecture:
        return cls(**values)

    def build(self, num_classes: int, drop_path_rate: float = 0.0, seed: int = 0) -> nn.Module:
        """The network with random weights, which follow from the seed.

        x (n, 3, h, w) -> scores (n, num_classes).

        Raises:
            InvalidArgument: sizes that make no network; torchvision is not installed (ConvNeXt).
        """
        with seeded(seed):
            if self.name.startswith("convfirst"):
                return ConvFirst(self._convfirst(), num_classes, CHANNELS, drop_path_rate)
            return self._convnext(num_classes, drop_path_rate)

    def _convfirst(self) -> ConvFirstConfig:
        own = {
            key: value
            for key in ("group_width", "expansion", "kernel", "head_width")
            if (value := getattr(self, key)) is not None
        }
        return ConvFirstConfig(depths=self.depths, widths=self.widths, stem_stride=self.stem_stride, **own)

    def _convnext(self, num_classes: int, drop_path_rate: float) -> nn.Module:
        if len(self.depths) != len(self.widths) or not self.depths or min(*self.depths, *self.widths) < 1:
            raise InvalidArgument(
                f"ConvNeXt was given {len(self.depths)} depths and {len(self.widths)} widths",
                "give one of each for every stage, from 1 on",
            )
        for key in ("group_width", "expansion", "kernel", "head_width"):
            if getattr(self, key) is not None:
                raise InvalidArgument(f"ConvNeXt has no {key}", "it is ConvFirst's")
        convnext = vision.module("torchvision.models.convnext")
        following = (*self.widths[1:], None)
        stages = [convnext.CNBlockConfig(*each) for each in zip(self.widths, following, self.depths, strict=True)]
        network: nn.Module = convnext.ConvNeXt(stages, stochastic_depth_prob=drop_path_rate, num_classes=num_classes)
        if self.stem_stride != 4:  # torchvision has patches of 4x4 written in
            stem = nn.Conv2d(CHANNELS, self.widths[0], self.stem_stride, self.stem_stride)
            nn.init.trunc_normal_(stem.weight, std=0.02)
            nn.init.zeros_(stem.bias)
            network.features[0][0] = stem
        return network


_CONVNEXT = {
    "convnext_tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "convnext_base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "convnext_large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
}
_CONVFIRST = {
    name: Architecture(
        name, own.depths, own.widths, own.stem_stride, own.group_width, own.expansion, own.kernel, own.head_width
    )
    for name, own in FAMILY.items()
}
_KNOWN: dict[str, Architecture] = {**_CONVFIRST, **{name: Architecture(name, *own) for name, own in _CONVNEXT.items()}}
_SHORT = {"convfirst": "convfirst_tiny", "convnext": "convnext_tiny"}


def names() -> tuple[str, ...]:
    """What `architecture` accepts."""
    return (*_SHORT, *_KNOWN)


def architecture(name: str, **changes: Any) -> Architecture:
    """A known network's shape, with other depths, widths or whatever else `Architecture` has.

    Raises:
        InvalidArgument: an unknown name.
    """
    known = _KNOWN.get(_SHORT.get(name, name))
    if known is None:
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"networks to train are {', '.join(names())}"
        raise InvalidArgument(f"there is no network to train named {name!r}", hint)
    return replace(known, **changes)


def build_model(
    name: str, num_classes: int, *, drop_path_rate: float = 0.0, seed: int = 0, **changes: Any
) -> nn.Module:
    """A network to train, by name: `build_model("convfirst", 10, depths=(1, 1), widths=(16, 32))`.

    Raises:
        InvalidArgument: an unknown name, or sizes that make no network.
    """
    return architecture(name, **changes).build(num_classes, drop_path_rate, seed)


def describe(model: nn.Module) -> dict[str, Any]:
    """What a checkpoint knows its network by: the class, and every tensor's name and shape."""
    return {
        "model": type(model).__name__,
        "parameters": sum(each.numel() for each in model.parameters()),
        "tensors": [f"{name} {tuple(each.shape)}" for name, each in model.state_dict().items()],
    }


def check_image_size(model: nn.Module, image_size: int, num_classes: int) -> None:
    """Try one pass, before an hour of loading.

    Raises:
        InvalidArgument: the network cannot take images of that size, or gives other than `num_classes` scores.
    """
    was_training, like = model.training, next(model.parameters())
    try:
        with torch.inference_mode():
            scores = model.eval()(torch.zeros(1, CHANNELS, image_size, image_size, device=like.device))
    except RuntimeError as error:
        raise InvalidArgument(
            f"{type(model).__name__} cannot take images of {image_size}x{image_size}: {error}", "larger ones may do"
        ) from error
    finally:
        model.train(was_training)
    if tuple(scores.shape) != (1, num_classes):
        raise InvalidArgument(
            f"{type(model).__name__} gives {tuple(scores.shape)} for an image, and there are {num_classes} classes",
            "give it num_classes, and a flat output",
        )
