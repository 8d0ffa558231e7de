"""Which layers could be one block: what lies between them is read by them alone, and every tensor is an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from waterline.graph import ops
from waterline.graph.block import LOCAL_OPS, BlockLayer, BlockSpec
from waterline.planner.lower import Layer, Lowered
from waterline.planner.storage import Storage, has_linear_pixels, is_channels_last
from waterline.spec import ConvSpec, TensorView


@dataclass(frozen=True)
class Group:
    """Layers that could be one: their spec, where its tensors lie, and how each layer sees its own."""

    block: BlockSpec
    inputs: tuple[Storage, ...]
    output: Storage
    layers: tuple[Layer, ...]


def users_of(lowered: Lowered) -> dict[str, list[tuple[int, bool]]]:
    """Root -> the layers that touch it, and whether they write."""
    users: dict[str, list[tuple[int, bool]]] = {}
    for i, layer in enumerate(lowered.layers):
        for storage in layer.inputs:
            users.setdefault(storage.root, []).append((i, False))
        for storage in layer.outputs:
            users.setdefault(storage.root, []).append((i, True))
    return users


def may_join(layer: Layer) -> bool:
    return layer.spec is not None or isinstance(layer.op, LOCAL_OPS)


def group_of(lowered: Lowered, begin: int, end: int, users: dict[str, list[tuple[int, bool]]]) -> Group | None:
    """The layers [begin, end) as one, if what is between them is read by them alone and every tensor is an image."""
    layers = lowered.layers[begin:end]
    if not all(may_join(layer) for layer in layers) or not any(layer.spec for layer in layers):
        return None
    outside = lowered.inputs | lowered.outputs | lowered.constants
    for layer in layers[:-1]:
        root = layer.outputs[0].root
        touching = users[root]
        is_read = any(not writes for _, writes in touching)
        inside = all(begin <= i < end for i, _ in touching) and sum(writes for _, writes in touching) == 1
        if root in outside or not is_read or not inside:
            return None
    return _Grouping(lowered).run(layers)


class _Grouping:
    """Gives every tensor of a group its number and the shape of an image; None where one is something else."""

    def __init__(self, lowered: Lowered) -> None:
        self.constants = lowered.constants
        self.outside: list[Storage] = []
        self.inside: dict[str, tuple[int, Storage]] = {}  # root -> layer, and the result as an image

    def run(self, layers: Sequence[Layer]) -> Group | None:
        found: list[tuple[Layer, _Placed]] = []
        for number, layer in enumerate(layers):
            placed = self._placed(layer)
            if placed is None:
                return None
            self.inside[layer.outputs[0].root] = (number, placed.output)
            found.append((layer, placed))
        count = len(self.outside)
        blocks = tuple(
            BlockLayer(
                layer.op,
                tuple(count + ~each if each < 0 else each for each in placed.inputs),
                placed.output.view.shape,
                placed.spec,
            )
            for layer, placed in found
        )
        block = BlockSpec(tuple(storage.view.shape for storage in self.outside), blocks)
        return Group(block, tuple(self.outside), found[-1][1].output, tuple(layers))

    def _placed(self, layer: Layer) -> _Placed | None:
        if len(layer.outputs) != 1:
            return None
        if isinstance(layer.spec, ConvSpec):
            return self._convolution(layer, layer.spec)
        if isinstance(layer.op, ops.LayerNorm):
            return self._normalisation(layer, layer.op)
        return self._local(layer)

    def _convolution(self, layer: Layer, spec: ConvSpec) -> _Placed | None:
        size = (spec.h, spec.w)
        known = self.inside.get(layer.inputs[0].root)
        if known and isinstance(layer.op, ops.Linear):  # its rows are pixels
            size = known[1].view.shape[2], known[1].view.shape[3]
            if size[0] * size[1] != spec.h * spec.w:
                return None
            spec = replace(spec, h=size[0], w=size[1])
        inputs = [self._image(layer.inputs[0], (spec.c, *size))]
        result = (spec.k, spec.p, spec.q)
        if spec.epilogue.residual:
            inputs.append(self._image(layer.inputs[-1], result))
        output = as_image(layer.outputs[0], result)
        if output is None or None in inputs:
            return None
        if spec.is_pointwise:  # its pixels are the rows of a product
            images = [self._at(each) for each in inputs if each is not None]
            if not all(has_linear_pixels(image.view) for image in (*images, output)):
                return None
        return _Placed(_all(inputs), output, spec)

    def _normalisation(self, layer: Layer, op: ops.LayerNorm) -> _Placed | None:
        view = layer.inputs[0].view
        if len(view.shape) != 4 or op.axis != 3:
            return None
        size = (view.shape[3], view.shape[1], view.shape[2])
        inputs = [self._image(layer.inputs[0], size, channels_last=True)]
        inputs += [self._constant(each) for each in layer.inputs[1:]]
        output = as_image(layer.outputs[0], size, channels_last=True)
        return None if output is None or None in inputs else _Placed(_all(inputs), output)

    def _local(self, layer: Layer) -> _Placed | None:
        shape = layer.outputs[0].view.shape
        if len(shape) != 4:
            return None
        inputs = []
        for storage in layer.inputs:
            own = storage.view.shape
            if isinstance(layer.op, ops.Pool) or own == shape:
                inputs.append(self._image(storage, own[1:]) if len(own) == 4 else None)
            elif len(own) == 4 and own[2:] == (1, 1) and own[1] in (1, shape[1]) and own[0] in (1, shape[0]):
                inputs.append(self._number(storage) if storage.root not in self.inside else None)
            else:
                inputs.append(self._constant(storage) if all(size == 1 for size in own[-2:]) else None)
        output = as_image(layer.outputs[0], shape[1:])
        return None if output is None or None in inputs else _Placed(_all(inputs), output)

    # ---- tensors ------------------------------------------------------------------------------------------------
    def _image(self, storage: Storage, size: Sequence[int], *, channels_last: bool = False) -> int | None:
        """The number of an image (C, H, W): of the inputs, or ~layer."""
        image = as_image(storage, size, channels_last=channels_last)
        if image is None:
            return None
        if image.root in self.inside:
            layer, own = self.inside[image.root]
            return ~layer if own == image else None
        return self._number(image)

    def _constant(self, storage: Storage) -> int | None:
        return self._number(storage) if storage.root in self.constants else None

    def _number(self, storage: Storage) -> int:
        if storage not in self.outside:
            self.outside.append(storage)
        return self.outside.index(storage)

    def _at(self, number: int) -> Storage:
        return self.outside[number] if number >= 0 else list(self.inside.values())[~number][1]


@dataclass(frozen=True)
class _Placed:
    """A layer's tensors: inputs by number (~layer for results inside), the output as an image; its spec as one."""

    inputs: tuple[int, ...]
    output: Storage
    spec: ConvSpec | None = None


def _all(numbers: Sequence[int | None]) -> tuple[int, ...]:
    return tuple(number for number in numbers if number is not None)


def as_image(storage: Storage, size: Sequence[int], *, channels_last: bool = False) -> Storage | None:
    """The tensor as (N, C, H, W) with its channels innermost in memory, `size` being (C, H, W); None if it is not one.

    A list of pixels (N, C, 1, H W) is one too. `channels_last`: the logical order is (N, H, W, C).
    """
    view = storage.view
    c, h, w = size
    n, *rest = view.shape
    if len(rest) != 3:
        return None
    if channels_last:
        if rest != [h, w, c]:
            return None
        return _channels_innermost(storage.transposed((0, 3, 1, 2)))
    if rest == [c, h, w]:
        return _channels_innermost(storage)
    if rest == [c, 1, h * w]:
        pixel = view.strides[3]
        strides = (view.strides[0], view.strides[1], w * pixel, pixel)
        return _channels_innermost(replace(storage, view=TensorView((n, c, h, w), strides)))
    return None


def _channels_innermost(storage: Storage) -> Storage | None:
    return storage if is_channels_last(storage.view) else None


__all__ = ["Group", "as_image", "group_of", "may_join", "users_of"]
