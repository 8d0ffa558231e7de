"""The recipe: every number that decides what a training run does, in one frozen object.

The defaults are those of ConvNeXt on ImageNet (Liu et al., "A ConvNet for the 2020s", 2022, table 5), which are Swin's
and DeiT's: AdamW, warm-up and cosine, label smoothing, mixup and cutmix, RandAugment, random erasing, stochastic depth
and an average of the weights. `Recipe.small` is for a few thousand small images. No torch here.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from waterline.errors import InvalidArgument

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
KERNELS = ("torch", "grouped", "all")


def _number(default: Any, help: str, least: float = 0, most: float = math.inf) -> Any:
    return field(default=default, metadata={"help": help, "least": least, "most": most})


@dataclass(frozen=True)
class Recipe:
    """How to train. Two runs with equal recipes, data and number of processes do the same.

    Raises:
        InvalidArgument: a value that makes no sense.
    """

    epochs: int = _number(300, "passes over the training images", 1)
    batch_size: int = _number(1024, "images of a step, over all processes", 1)
    learning_rate: float = _number(1e-3, "of AdamW, at the end of the warm-up", 1e-12, 10)
    weight_decay: float = _number(0.05, "of AdamW; norms and biases have none", 0, 10)
    warmup_epochs: int = _number(20, "in which the learning rate rises; then it falls as a cosine")
    label_smoothing: float = _number(0.1, "share of the target that goes to all classes", 0, 0.999)
    mixup: float = _number(0.8, "alpha of mixup; 0: none", 0, 100)
    cutmix: float = _number(1.0, "alpha of cutmix; 0: none", 0, 100)
    mix_probability: float = _number(1.0, "of mixing a batch", 0, 1)
    randaugment_ops: int = _number(2, "operations of RandAugment; 0: none", 0, 10)
    randaugment_magnitude: int = _number(9, "of these operations, of 30", 0, 30)
    erasing: float = _number(0.25, "probability of erasing a part of an image", 0, 1)
    crop_scale: float = _number(0.08, "least part of an image's area that is cropped", 0.001, 1)
    flip: float = _number(0.5, "probability of mirroring an image", 0, 1)
    drop_path: float = _number(0.1, "stochastic depth: probability in the last block", 0, 0.999)
    ema_decay: float = _number(0.9999, "of the average of the weights; 0: none", 0, 0.999999)
    clip_norm: float = _number(0.0, "greatest norm of the gradients; 0: any")
    precision: str = field(
        default="auto",
        metadata={"help": "of the arithmetic, auto: mixed on a GPU, float32 on a CPU", "choices": PRECISIONS},
    )
    kernels: str = field(
        default="torch",
        metadata={
            "help": "of convolutions on a GPU: torch, or Waterline's for grouped ones, or for dense ones as well (all)",
            "choices": KERNELS,
        },
    )
    seed: int = _number(0, "of the order, the augmentation and stochastic depth", 0, 2**63 - 1)

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value, limits = getattr(self, each.name), each.metadata
            if "choices" in limits:
                if value not in limits["choices"]:
                    raise InvalidArgument(f"{each.name} is {value!r}", f"use {', '.join(limits['choices'])}")
            elif not limits["least"] <= value <= limits["most"]:  # false for NaN too
                raise InvalidArgument(f"{each.name} is {value}", _range(limits["least"], limits["most"]))
        if self.warmup_epochs >= self.epochs:
            raise InvalidArgument(
                f"warmup_epochs is {self.warmup_epochs} of {self.epochs} epochs",
                f"use at most {self.epochs - 1}, so that the learning rate falls too",
            )

    @classmethod
    def small(cls, **changes: Any) -> Recipe:
        """For small images, some thousands of them: fewer epochs and steps, milder augmentation, a shorter average."""
        values: dict[str, Any] = {
            "epochs": 20,
            "batch_size": 64,
            "learning_rate": 4e-3,
            "warmup_epochs": 2,
            "mixup": 0.2,
            "mix_probability": 0.5,
            "randaugment_magnitude": 5,
            "erasing": 0.0,
            "crop_scale": 0.6,
            "ema_decay": 0.99,
        }
        values.update(changes)
        values["warmup_epochs"] = changes.get("warmup_epochs", min(2, values["epochs"] - 1))
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _range(least: float, most: float) -> str:
    return f"use a value of {least:g} to {most:g}" if most < math.inf else f"use at least {least:g}"
