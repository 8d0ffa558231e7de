"""The ways to compute a convolution, one folder each. `REGISTRY` is the only list of them, the last resort last."""

from waterline.algorithms.base import Algorithm, Cost, Implementation, Refusal, Views
from waterline.algorithms.depthwise import DEPTHWISE
from waterline.algorithms.direct_gemm import DIRECT_GEMM
from waterline.algorithms.grouped import GROUPED
from waterline.algorithms.im2col import IM2COL
from waterline.algorithms.indirect import INDIRECT
from waterline.algorithms.naive import NAIVE

REGISTRY: tuple[Algorithm, ...] = (DIRECT_GEMM, INDIRECT, DEPTHWISE, GROUPED, IM2COL, NAIVE)

__all__ = ["REGISTRY", "Algorithm", "Cost", "Implementation", "Refusal", "Views"]
