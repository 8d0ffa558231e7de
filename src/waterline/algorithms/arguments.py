"""The arguments that kernels of every algorithm take of a layer's tensors."""

from __future__ import annotations

from dataclasses import dataclass

from waterline.algorithms.base import Views
from waterline.codegen.cpu.kernel import Arg, Input, Number, Output, Packed
from waterline.spec import ConvSpec

ELEM_BYTES = 4


@dataclass(frozen=True)
class LayerArgs:
    """Arguments of one layer, the same whatever the algorithm.

    Attributes:
        bias, residual: their addresses; 0 where the layer has none.
        x_image, y_image, residual_image: bytes from one image to the next.
    """

    bias: Arg
    residual: Arg
    x_image: Number
    y_image: Number
    residual_image: Number

    @classmethod
    def of(cls, spec: ConvSpec, views: Views) -> LayerArgs:
        residual = views.residual
        return cls(
            bias=Packed("bias") if spec.epilogue.bias else Number(0),
            residual=Input(2 + spec.epilogue.bias) if residual else Number(0),
            x_image=Number(views.x.strides[0] * ELEM_BYTES),
            y_image=Number(views.y.strides[0] * ELEM_BYTES),
            residual_image=Number(residual.strides[0] * ELEM_BYTES if residual else 0),
        )

    @property
    def epilogue(self) -> tuple[Arg, ...]:
        """What a sum needs to become an output: the bias, where it goes, what is added."""
        return self.bias, Output(), self.residual

    @property
    def images(self) -> tuple[Arg, ...]:
        """The distances of images: of the input, the output and the residual."""
        return self.x_image, self.y_image, self.residual_image

    @property
    def stored(self) -> tuple[Arg, ...]:
        """Of a kernel that writes the output and does not read the input."""
        return *self.epilogue, self.y_image, self.residual_image
