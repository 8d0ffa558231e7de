"""`BlockSpec`: several layers that are computed as one, without their data.

Source: Lavin, "On the Efficiency of Convolutional Neural Networks" (2024): a kernel that computes a whole residual
block. It lies beside the operations, not with `ConvSpec`, because some of its layers are no convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from waterline.graph.ops import Binary, LayerNorm, Op, Pool, PRelu, Unary
from waterline.spec import ConvSpec

Shape = tuple[int, ...]


@dataclass(frozen=True)
class BlockLayer:
    """One layer of a block.

    Attributes:
        op: what is computed; `spec` says more of a convolution (or of a fully connected layer, pixel by pixel).
        inputs: numbers of the tensors it reads, those of the block first: inputs of the block, then results of its
            layers in order. Weights and biases of convolutions are not among them.
        output: (N, C, H, W).
    """

    op: Op
    inputs: tuple[int, ...]
    output: Shape
    spec: ConvSpec | None = None

    @property
    def label(self) -> str:
        """In a few words, for tables."""
        spec = self.spec
        if spec is None:
            return self.op.name
        kind = "depthwise " if spec.is_depthwise else "grouped " if spec.groups > 1 else ""
        stride = "" if spec.stride == (1, 1) else f"/{spec.stride[0]}"
        return f"{kind}{spec.r}x{spec.s}{stride}" + ("" if spec.k == spec.c else f" -> {spec.k}")


@dataclass(frozen=True)
class BlockSpec:
    """Layers in order, each reading what the block is given or what layers before it have computed; the last one's
    result is the block's. Every image goes through by itself.

    Attributes:
        inputs: shapes of what the block is given: images (N, C, H, W), one value a channel (N, C, 1, 1), constants.
    """

    inputs: tuple[Shape, ...]
    layers: tuple[BlockLayer, ...]

    @property
    def n(self) -> int:
        return self.layers[-1].output[0]

    @property
    def output(self) -> Shape:
        """(N, C, H, W)."""
        return self.layers[-1].output

    @property
    def convolutions(self) -> tuple[ConvSpec, ...]:
        return tuple(layer.spec for layer in self.layers if layer.spec is not None)

    # ---- counts -------------------------------------------------------------------------------------------------
    @property
    def macs(self) -> int:
        return sum(spec.macs for spec in self.convolutions)

    @property
    def flops(self) -> int:
        """Operations of the direct algorithms of its convolutions."""
        return 2 * self.macs

    @property
    def elem_bytes(self) -> int:
        return next(spec.elem_bytes for spec in self.convolutions)

    @property
    def weight_bytes(self) -> int:
        return sum(spec.weight_bytes for spec in self.convolutions)

    @property
    def input_bytes(self) -> int:
        return self.elem_bytes * sum(_elems(shape) for shape in self.inputs)

    @property
    def output_bytes(self) -> int:
        return self.elem_bytes * _elems(self.output)

    @property
    def inner_bytes(self) -> int:
        """Of what stays inside: the results of all layers but the last."""
        return self.elem_bytes * sum(_elems(layer.output) for layer in self.layers[:-1])

    @property
    def least_bytes(self) -> int:
        """What enters, the weights and the result, each moved once."""
        return self.input_bytes + self.weight_bytes + self.output_bytes

    # ---- identity -----------------------------------------------------------------------------------------------
    @property
    def id(self) -> str:
        """The image that enters and the layers, for example `24x56x56: 1x1 -> 144, depthwise 3x3, 1x1 -> 24`."""
        n, *image = max((shape for shape in self.inputs if len(shape) == 4), key=_elems, default=self.output)
        batch = "" if n == 1 else f"{n}x"
        return f"{batch}{'x'.join(map(str, image))}: " + ", ".join(layer.label for layer in self.layers)

    def with_batch(self, n: int) -> BlockSpec:
        old = self.n

        def shape(of: Shape) -> Shape:
            return (n, *of[1:]) if len(of) == 4 and of[0] == old and of[0] != 1 else of

        layers = tuple(
            replace(layer, output=(n, *layer.output[1:]), spec=layer.spec.with_batch(n) if layer.spec else None)
            for layer in self.layers
        )
        return BlockSpec(tuple(shape(each) for each in self.inputs), layers)


# What a block may hold beside convolutions.
LOCAL_OPS: tuple[type[Op], ...] = (Unary, Binary, PRelu, LayerNorm, Pool)


def _elems(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total


__all__ = ["LOCAL_OPS", "BlockLayer", "BlockSpec"]
