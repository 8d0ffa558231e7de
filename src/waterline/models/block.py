"""A single residual block as a model, for measurements of one block."""

from __future__ import annotations

from collections.abc import Callable

from onnx import ModelProto

from waterline.errors import InvalidArgument
from waterline.models.convfirst_family import BlockShape
from waterline.models.mobile import inverted_residual
from waterline.models.modern import convfirst_block, convnext_block
from waterline.models.network import Network, Tensor

GROUP_WIDTH = 8  # of ConvFirst
EXPANSION = {"convfirst": 4, "inverted_residual": 6}


def _convfirst(net: Network, x: Tensor) -> Tensor:
    c = x.channels
    hidden = EXPANSION["convfirst"] * c
    return convfirst_block(net, x, BlockShape("block", c, hidden, c, 3, c // GROUP_WIDTH, 1))


# kind -> how it is written
BLOCKS: dict[str, Callable[[Network, Tensor], Tensor]] = {
    "convfirst": _convfirst,
    "convnext": lambda net, x: convnext_block(net, x, "block"),
    "inverted_residual": lambda net, x: inverted_residual(
        net, x, "block", EXPANSION["inverted_residual"], x.channels, 1
    ),
}


def build_block(kind: str, channels: int, size: int, seed: int = 0) -> ModelProto:
    """A network of one block with a shortcut: input `input` (N, channels, size, size), output `output` alike.

    Raises:
        InvalidArgument: there is no such block.
    """
    if kind not in BLOCKS:
        raise InvalidArgument(f"there is no block {kind!r}", f"blocks are {', '.join(BLOCKS)}")
    net = Network(f"{kind} block", size, seed)
    net.input = Tensor("input", (channels, size, size))
    return net.finish(BLOCKS[kind](net, net.input))


__all__ = ["BLOCKS", "build_block"]
