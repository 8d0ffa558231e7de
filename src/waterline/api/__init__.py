"""The only public door: `compile`, `Session`, `conv2d`, `algorithms`, and the backend of torch.compile."""

from waterline.api.compiling import compile
from waterline.api.functional import algorithms, conv2d
from waterline.api.network import CompiledNetwork
from waterline.api.session import Session

__all__ = ["CompiledNetwork", "Session", "algorithms", "compile", "conv2d"]
