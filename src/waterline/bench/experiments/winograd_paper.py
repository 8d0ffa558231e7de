"""What Lavin and Gray published: "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308).

Accuracy: maximum absolute element error, inputs and filters uniform in [-1, 1], against direct convolution summed in
float64. Speed: the convolutions of VGG-E (39.02 GFLOP an image) on a Titan X, in float32, against cuDNN v3. Operations:
floating-point instructions of the transforms of one tile, in two dimensions (section 4 and the supplement).
"""

from __future__ import annotations

from dataclasses import dataclass

from waterline.spec import ConvSpec


@dataclass(frozen=True)
class Accuracy:
    """Of one layer: ours are measured on `spec`, the paper's errors are of direct summation and of two variants."""

    spec: ConvSpec
    direct: float
    f2x2: float
    f4x4: float


@dataclass(frozen=True)
class Speed:
    """Of one batch: milliseconds of all convolutions."""

    cudnn_ms: float
    f2x2_ms: float

    @property
    def speedup(self) -> float:
        return self.cudnn_ms / self.f2x2_ms


def _vgg(c: int, size: int, k: int) -> ConvSpec:
    return ConvSpec(1, c, size, size, k, 3, 3, pad=(1, 1, 1, 1))


ACCURACY: dict[str, Accuracy] = {
    "1.2": Accuracy(_vgg(64, 224, 64), 4.01e-5, 1.53e-5, 2.84e-4),
    "2.2": Accuracy(_vgg(128, 112, 128), 8.01e-5, 2.86e-5, 5.41e-4),
    "3.2": Accuracy(_vgg(256, 56, 256), 1.53e-4, 5.34e-5, 9.06e-4),
    "4.2": Accuracy(_vgg(512, 28, 512), 3.20e-4, 5.34e-5, 1.04e-3),
    "5": Accuracy(_vgg(512, 14, 512), 3.43e-4, 4.20e-5, 1.08e-3),
}

# The rates published for batches 4 to 16 of cuDNN are low: it chose its FFT there.
SPEED: dict[int, Speed] = {
    1: Speed(12.52, 5.55),
    2: Speed(20.36, 9.89),
    4: Speed(104.70, 17.72),
    8: Speed(241.21, 33.11),
    16: Speed(203.09, 65.79),
    32: Speed(237.05, 132.36),
    64: Speed(394.05, 266.48),
}
NETWORK = "vgg19"
FLOPS_PER_IMAGE = 39.02e9
PEAK_FLOPS_PER_S = 6.96e12

# F(m x m, r x r) -> instructions of the transforms of data, filter and inverse.
OPERATIONS: dict[tuple[int, int], tuple[int, int, int]] = {
    (2, 3): (32, 28, 24),
    (3, 3): (90, 56, 56),
    (4, 3): (156, 72, 100),
    (6, 3): (416, 143, 280),
}
# The points of its F(4x4,3x3).
POINTS_F4 = (0, 1, -1, 2, -2)
