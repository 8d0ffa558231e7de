"""What is published of the efficiency of whole networks: Lavin (2024), and timm's measurements in its place.

"On the Efficiency of Convolutional Neural Networks" (2024, arXiv 2404.03617): only the abstract's figures are used, as
its tables could not be read. For ConvNeXt, EfficientNet and ResNet there are throughputs of PyTorch 2.4 on two GPUs in
timm's own results (float16 with AMP, channels-last, 224x224, large batches), from which efficiencies follow.
"""

from __future__ import annotations

from dataclasses import dataclass

# The paper's ConvFirst network with block-fusion kernels against ConvNeXt, on a GPU: "approximately 4x as fast".
CONVFIRST_SPEEDUP = 4.0


@dataclass(frozen=True)
class Gpu:
    """`peak_flops_per_s`: float16 tensor cores with float32 sums."""

    name: str
    peak_flops_per_s: float


RTX_3090 = Gpu("RTX 3090", 71e12)
RTX_4090 = Gpu("RTX 4090", 165e12)
GPUS = (RTX_3090, RTX_4090)


@dataclass(frozen=True)
class Throughput:
    """Of a network on a GPU."""

    gpu: Gpu
    images_per_s: float
    macs: float

    @property
    def computational_efficiency(self) -> float:
        """As a share of the GPU's peak; two operations a multiply-add."""
        return 2 * self.macs * self.images_per_s / self.gpu.peak_flops_per_s


THROUGHPUTS: dict[str, tuple[Throughput, ...]] = {
    "convnext_tiny": (Throughput(RTX_3090, 3120, 4.47e9), Throughput(RTX_4090, 4845, 4.47e9)),
    "efficientnet_b0": (Throughput(RTX_3090, 8241, 0.40e9), Throughput(RTX_4090, 9832, 0.40e9)),
    "resnet50": (Throughput(RTX_3090, 3730, 4.11e9), Throughput(RTX_4090, 5088, 4.11e9)),
}


def published(network: str) -> dict[str, float]:
    """GPU -> computational efficiency; empty where nothing is published."""
    return {each.gpu.name: each.computational_efficiency for each in THROUGHPUTS.get(network, ())}
