"""The ways to compute a convolution on a GPU, in one literal tuple, the last resort last."""

from __future__ import annotations

from waterline.algorithms.block_fusion.gpu import BLOCK_FUSION_GPU, GpuBlock
from waterline.algorithms.block_fusion.gpu_inverted import BLOCK_FUSION_INVERTED_GPU
from waterline.algorithms.block_fusion.gpu_inverted_tiles import GpuInverted
from waterline.algorithms.depthwise.gpu import DEPTHWISE_GPU, GpuStrip
from waterline.algorithms.direct_gemm.gpu import DIRECT_GEMM_GPU, GpuTile
from waterline.algorithms.gpu import GpuAlgorithm, GpuBlockAlgorithm
from waterline.algorithms.grouped.gpu import GROUPED_GPU, GpuWindows
from waterline.algorithms.indirect.gpu import INDIRECT_GPU, IndirectConfig
from waterline.algorithms.library.gpu import LIBRARY_GPU
from waterline.algorithms.winograd.gpu import WINOGRAD_F2X2_GPU, WINOGRAD_F4X4_GPU

GPU_REGISTRY: tuple[GpuAlgorithm, ...] = (
    DIRECT_GEMM_GPU,
    INDIRECT_GPU,
    WINOGRAD_F2X2_GPU,
    WINOGRAD_F4X4_GPU,
    GROUPED_GPU,
    DEPTHWISE_GPU,
    LIBRARY_GPU,
)
# Those of several layers, for blocks.
GPU_BLOCK_REGISTRY: tuple[GpuBlockAlgorithm, ...] = (BLOCK_FUSION_GPU, BLOCK_FUSION_INVERTED_GPU)
# The types of their configs.
GPU_CONFIGS: tuple[type, ...] = (GpuTile, IndirectConfig, GpuWindows, GpuStrip, GpuBlock, GpuInverted)

__all__ = ["GPU_BLOCK_REGISTRY", "GPU_CONFIGS", "GPU_REGISTRY"]
