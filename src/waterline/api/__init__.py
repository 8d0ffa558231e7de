"""The only public door: `compile`, `analyse`, `Session`, `conv2d`, `algorithms`, and the backend of torch.compile."""

from waterline.api.analysing import analyse
from waterline.api.compiling import compile
from waterline.api.functional import algorithms, conv2d
from waterline.api.network import CompiledNetwork
from waterline.api.session import Session

__all__ = ["CompiledNetwork", "Session", "algorithms", "analyse", "compile", "conv2d"]
