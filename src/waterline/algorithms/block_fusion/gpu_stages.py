"""Which layer of a block is what to the kernel of `block_fusion` on GPUs; what readings of blocks share."""

from __future__ import annotations

from dataclasses import dataclass

from waterline.algorithms.base import Refusal
from waterline.codegen.gpu.epilogue import has_activations
from waterline.graph.block import BlockLayer, BlockSpec
from waterline.graph.ops import Binary, LayerNorm, Unary
from waterline.spec import Activation, ConvSpec, Epilogue


@dataclass(frozen=True)
class Stages:
    """Layers by what they do, with their numbers in the block (-1 for what there is not), and names of tensors ("" for
    what there is not).

    Attributes:
        x, input: the tensor that enters, and its channels, rows and columns.
        front: a convolution before the two products. norm: over channels, before them and behind `front`.
        scale, added, last: behind the second product and its epilogue.
    """

    x: str
    input: tuple[int, int, int]
    expand: ConvSpec
    expand_number: int
    project: ConvSpec
    project_number: int
    residual: str = ""
    front: ConvSpec | None = None
    front_number: int = -1
    norm: LayerNorm | None = None
    norm_scale: str = ""
    norm_bias: str = ""
    scale: str = ""
    added: str = ""
    last: Activation | None = None

    def weight(self, number: int) -> str:
        return weight_name(number)

    def bias(self, number: int) -> str:
        specs = {self.front_number: self.front, self.expand_number: self.expand, self.project_number: self.project}
        return bias_name(number, specs.get(number))


def weight_name(number: int) -> str:
    """Of a layer's weight among a launch's tensors; "" if there is no such layer."""
    return f"weight{number}" if number >= 0 else ""


def bias_name(number: int, spec: ConvSpec | None) -> str:
    return f"bias{number}" if spec is not None and spec.epilogue.bias else ""


class UnfitError(Exception):
    """Carries the sentence of a refusal."""


def stages_of(block: BlockSpec) -> Stages | Refusal:
    """The stages of a block, or why the kernel has none for it."""
    try:
        return _ProductsReading(block).stages()
    except UnfitError as reason:
        return Refusal(str(reason))


class Reading:
    """Takes a block's layers one after the other."""

    def __init__(self, block: BlockSpec) -> None:
        self.block = block
        self.first = len(block.inputs)
        self.at = 0

    def _check(self) -> None:
        """Layers are a chain, and their epilogues are known."""
        if len(self._shape(self.block.layers[0].inputs[0])) != 4 or self.block.layers[0].inputs[0] >= self.first:
            raise UnfitError("what it is given is not an image")
        for number, layer in enumerate(self.block.layers):
            inside = [each for each in layer.inputs if each >= self.first]
            previous = [self.first + number - 1] if number else []
            # Of a sum or a product either operand may be the one from inside.
            if inside != previous or (inside and layer.inputs[0] != inside[0] and not isinstance(layer.op, Binary)):
                raise UnfitError(f"{layer.label} reads something else than what the layer before it makes")
            spec = layer.spec
            if spec is None:
                continue
            if spec.upsample != (1, 1):
                raise UnfitError(f"{layer.label} inserts {spec.upsample} zeros between its inputs")
            if not has_activations(spec.epilogue):
                raise UnfitError(f"the epilogue of {layer.label} is {spec.epilogue}")

    # ---- layers -------------------------------------------------------------------------------------------------
    def _convolution(self, place: str) -> tuple[ConvSpec, int]:
        layer, number = self.block.layers[self.at], self.at
        assert layer.spec is not None
        if layer.spec.epilogue.residual:
            raise UnfitError(f"{layer.label}, {place}, adds a residual inside the block")
        self.at += 1
        return layer.spec, number

    def _product(self, which: str) -> tuple[ConvSpec, int]:
        layers, number = self.block.layers, self.at
        spec = layers[number].spec if number < len(layers) else None
        if spec is None or not is_product(spec):
            found = layers[number].label if number < len(layers) else "nothing"
            raise UnfitError(f"where its {which} 1x1 convolution should be is {found}")
        if which == "first":
            return self._convolution("the first 1x1 convolution")
        self.at += 1
        return spec, number

    def _behind(self, spec: ConvSpec, number: int) -> tuple[str, str, str, Activation | None]:
        """What the last convolution, with its number, and the layers behind it take: residual, scale, tensor to add,
        activation."""
        layers = self.block.layers
        residual = self._outside(layers[number].inputs[-1], layers[number]) if spec.epilogue.residual else ""
        scale = self._operand("mul", spec.k)
        added = self._operand("add", 0)
        last = self._last()
        if self.at < len(layers):
            raise UnfitError(f"behind its convolutions is {layers[self.at].label}: the kernel has no such layer")
        return residual, scale, added, last

    def _operand(self, kind: str, channels: int) -> str:
        """The name of what the next layer multiplies by, one value a channel, or adds; "" if it is another layer.

        Args:
            channels: of the vector; 0: the operand is an image like the result.
        """
        layer = self.block.layers[self.at] if self.at < len(self.block.layers) else None
        if layer is None or not isinstance(layer.op, Binary) or layer.op.kind != kind:
            return ""
        others = [each for each in layer.inputs if each < self.first]
        shape = self._shape(others[0]) if others else ()
        wanted = layer.output if not channels else (*(1,) * (len(shape) - 3), channels, 1, 1)
        if shape != wanted:
            raise UnfitError(f"{layer.label} takes {shape} where the kernel has {wanted}")
        self.at += 1
        return str(others[0])

    def _last(self) -> Activation | None:
        layer = self.block.layers[self.at] if self.at < len(self.block.layers) else None
        if layer is None or not isinstance(layer.op, Unary):
            return None
        if not has_activations(Epilogue(after=layer.op.function)):
            raise UnfitError(f"the kernel does not know {layer.op.function}")
        self.at += 1
        return layer.op.function

    # ---- tensors ------------------------------------------------------------------------------------------------
    def _shape(self, number: int) -> tuple[int, ...]:
        return self.block.inputs[number] if number < self.first else self.block.layers[number - self.first].output

    def _outside(self, number: int, layer: BlockLayer) -> str:
        if number >= self.first:
            raise UnfitError(f"{layer.label} takes from inside the block what should be given to it")
        return str(number)


class _ProductsReading(Reading):
    """Of a block whose products follow each other."""

    def stages(self) -> Stages:
        self._check()
        layers = self.block.layers
        _, *size = self._shape(layers[0].inputs[0])
        c, h, w = size
        front, front_number = None, -1
        if layers[0].spec is not None and not is_product(layers[0].spec):
            front, front_number = self._convolution("in front")
        norm, norm_scale, norm_bias = self._norm()
        expand, expand_number = self._product("first")
        if self.at < len(layers) and layers[self.at].spec is not None:
            self._refuse_inner(layers[self.at])
        project, project_number = self._product("second")
        residual, scale, added, last = self._behind(project, project_number)
        return Stages(
            str(layers[0].inputs[0]),
            (c, h, w),
            expand,
            expand_number,
            project,
            project_number,
            residual,
            front,
            front_number,
            norm,
            norm_scale,
            norm_bias,
            scale,
            added,
            last,
        )

    def _refuse_inner(self, layer: BlockLayer) -> None:
        """An inverted residual: its filter reads hidden channels of neighbouring pixels."""
        spec = layer.spec
        if spec is not None and not is_product(spec):
            raise UnfitError(
                f"{layer.label} with {spec.r}x{spec.s} taps reads {spec.c} hidden channels of neighbouring pixels: "
                f"without memory between the two they would be computed {spec.taps} times"
            )

    def _norm(self) -> tuple[LayerNorm | None, str, str]:
        layer = self.block.layers[self.at] if self.at < len(self.block.layers) else None
        if layer is None or not isinstance(layer.op, LayerNorm):
            return None, "", ""
        c = layer.output[1]
        vectors = layer.inputs[1:]
        if layer.op.axis != 3 or any(self._shape(each) != (c,) for each in vectors):
            raise UnfitError(f"its LayerNorm is not over {c} channels alone")
        self.at += 1
        names = [self._outside(each, layer) for each in vectors]
        return layer.op, names[0], names[1] if layer.op.bias else ""


def is_product(spec: ConvSpec) -> bool:
    """Whether it is a matrix product on pixels as they lie."""
    return spec.is_pointwise and spec.groups == 1


__all__ = ["Reading", "Stages", "UnfitError", "bias_name", "is_product", "stages_of", "weight_name"]
