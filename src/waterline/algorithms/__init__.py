"""The ways to compute a convolution, one folder each. `REGISTRY` is the only list of them, the last resort last."""

from typing import Any

from waterline.algorithms.base import Algorithm, Cost, Implementation, Refusal, Views
from waterline.algorithms.block_fusion import BLOCK_FUSION
from waterline.algorithms.block_fusion.model import BlockConfig, BlockFusion
from waterline.algorithms.blocking import GemmConfig
from waterline.algorithms.depthwise import DEPTHWISE
from waterline.algorithms.depthwise.model import DepthwiseConfig
from waterline.algorithms.direct_gemm import DIRECT_GEMM
from waterline.algorithms.fft import FFT
from waterline.algorithms.fft.model import FftConfig
from waterline.algorithms.grouped import GROUPED
from waterline.algorithms.grouped.model import ColumnConfig
from waterline.algorithms.im2col import IM2COL
from waterline.algorithms.indirect import INDIRECT
from waterline.algorithms.naive import NAIVE
from waterline.algorithms.naive.model import NaiveConfig
from waterline.algorithms.winograd import WINOGRAD
from waterline.algorithms.winograd.model import WinogradConfig

REGISTRY: tuple[Algorithm, ...] = (DIRECT_GEMM, INDIRECT, DEPTHWISE, GROUPED, WINOGRAD, FFT, IM2COL, NAIVE)
# The classes of their configs, for writing plans down.
REGISTRY_CONFIGS: tuple[type, ...] = (
    GemmConfig,
    DepthwiseConfig,
    ColumnConfig,
    WinogradConfig,
    FftConfig,
    NaiveConfig,
    BlockConfig,
)


# What computes several layers as one.
BLOCK_REGISTRY: tuple[BlockFusion, ...] = (BLOCK_FUSION,)


def by_name(name: str) -> Algorithm[Any, Any]:
    """The algorithm called `name`. Raises KeyError."""
    return _by_name[name]


_by_name: dict[str, Algorithm[Any, Any]] = {algorithm.name: algorithm for algorithm in (*REGISTRY, *BLOCK_REGISTRY)}


__all__ = [
    "BLOCK_REGISTRY",
    "REGISTRY",
    "REGISTRY_CONFIGS",
    "Algorithm",
    "Cost",
    "Implementation",
    "Refusal",
    "Views",
    "by_name",
]
