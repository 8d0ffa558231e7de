"""What Lavin published: "maxDNN: An Efficient Convolution Kernel for Deep Learning with Maxwell GPUs" (2015).

Computational efficiency of forward convolutions in float32 on a GTX 980, 128 images: the direct algorithm's operations,
without any credit for work on padding, over what the device could have done in the kernel's time. Against cuDNN v2 RC1.
arXiv 1501.06633. The paper has no layers of VGG.
"""

from __future__ import annotations

from dataclasses import dataclass

BATCH = 128
# VGG-E has all the different layers of VGG-D as well.
NETWORKS = ("alexnet", "overfeat", "vgg19")


@dataclass(frozen=True)
class Efficiency:
    """Of one layer, as shares of the device's peak. `shape` is (c, p, k, r): channels, rows of the output, filters."""

    layer: str
    shape: tuple[int, int, int, int]
    cudnn: float
    maxdnn: float


# Network -> its convolutions in order.
LAYERS: dict[str, tuple[Efficiency, ...]] = {
    "alexnet": (
        Efficiency("conv1", (3, 55, 64, 11), 0.325, 0.934),
        Efficiency("conv2", (64, 27, 192, 5), 0.467, 0.955),
        Efficiency("conv3", (192, 13, 384, 3), 0.515, 0.951),
        Efficiency("conv4", (384, 13, 256, 3), 0.570, 0.950),
        Efficiency("conv5", (256, 13, 256, 3), 0.559, 0.946),
    ),
    "overfeat": (
        Efficiency("L1", (3, 56, 96, 11), 0.396, 0.703),
        Efficiency("L2", (96, 24, 256, 5), 0.740, 0.956),
        Efficiency("L3", (256, 12, 512, 3), 0.542, 0.944),
        Efficiency("L4", (512, 12, 1024, 3), 0.629, 0.962),
        Efficiency("L5", (1024, 12, 1024, 3), 0.632, 0.963),
    ),
}


def published(network: str, shape: tuple[int, int, int, int]) -> Efficiency | None:
    """The paper's figures of a layer, if it has it."""
    return next((layer for layer in LAYERS.get(network, ()) if layer.shape == shape), None)
