"""Other shapes and orders of the same elements, and operators that change nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from waterline.frontends.torch.batch import relative
from waterline.frontends.torch.builder import Builder, Unsupported, Value
from waterline.frontends.torch.operators.axes import resolve, resolve_all
from waterline.graph.ops import Expand


def view(b: Builder, x: Value, size: Sequence[int], *_: object) -> Value:
    return b.reshape(x, relative(x.shape, x.batch, b.out_shape, size))


def same_elements(b: Builder, x: Value, *_: object) -> Value:
    """Any operator whose result's shape PyTorch has told."""
    return b.reshape(x, relative(x.shape, x.batch, b.out_shape))


def _keep(b: Builder, x: Value, sources: list[int | None]) -> Value:
    """Reshape to axes of x (their numbers) and ones (None), for any batch if the batch axis is among them."""
    sizes = [1 if source is None else x.shape[source] for source in sources]
    place = None if x.batch is None or x.batch not in sources else sources.index(x.batch)
    if place is None:
        return b.reshape(x, sizes)
    moved = [i for i, source in enumerate(sources) if source is not None and source != i]
    sizes = [0 if source == i else size for i, (source, size) in enumerate(zip(sources, sizes, strict=True))]
    if moved:
        sizes[place if place in moved else moved[0]] = -1
    return b.reshape(x, sizes, place)


def unsqueeze(b: Builder, x: Value, dim: int) -> Value:
    axes: list[int | None] = list(range(x.rank))
    axes.insert(resolve(dim, x.rank + 1), None)
    return _keep(b, x, axes)


def squeeze(b: Builder, x: Value, dim: Sequence[int] | int | None = None) -> Value:
    gone = {axis for axis in resolve_all(dim, x.rank) if x.shape[axis] == 1}
    return _keep(b, x, [axis for axis in range(x.rank) if axis not in gone])


def permute(b: Builder, x: Value, dims: Sequence[int]) -> Value:
    return b.transpose(x, [resolve(axis, x.rank) for axis in dims])


def transpose(b: Builder, x: Value, first: int, second: int) -> Value:
    order = list(range(x.rank))
    first, second = resolve(first, x.rank), resolve(second, x.rank)
    order[first], order[second] = order[second], order[first]
    return b.transpose(x, order)


def matrix_transpose(b: Builder, x: Value) -> Value:
    return x if x.rank < 2 else transpose(b, x, -1, -2)


def reverse_axes(b: Builder, x: Value) -> Value:
    return b.transpose(x, list(range(x.rank))[::-1])


def move_axes(b: Builder, x: Value, source: Sequence[int] | int, destination: Sequence[int] | int) -> Value:
    sources, places = (
        [resolve(axis, x.rank) for axis in ([axes] if isinstance(axes, int) else axes)]
        for axes in (source, destination)
    )
    order = [axis for axis in range(x.rank) if axis not in sources]
    for place, axis in sorted(zip(places, sources, strict=True)):
        order.insert(place, axis)
    return b.transpose(x, order)


def pixel_shuffle(b: Builder, x: Value, factor: int) -> Value:
    """(..., C r r, H, W) -> (..., C, H r, W r)."""
    images, back = _as_batch(b, x)
    _, c, h, w = images.shape
    split = b.reshape(images, (0, c // factor**2, factor, factor, h, w))
    return back(b.reshape(b.transpose(split, (0, 1, 4, 2, 5, 3)), (0, 0, h * factor, w * factor)))


def pixel_unshuffle(b: Builder, x: Value, factor: int) -> Value:
    images, back = _as_batch(b, x)
    _, c, h, w = images.shape
    split = b.reshape(images, (0, 0, h // factor, factor, w // factor, factor))
    return back(b.reshape(b.transpose(split, (0, 1, 3, 5, 2, 4)), (0, c * factor**2, h // factor, w // factor)))


def channel_shuffle(b: Builder, x: Value, groups: int) -> Value:
    channels = x.shape[1]
    split = b.reshape(x, (0, groups, channels // groups, *x.shape[2:]))
    order = [0, 2, 1, *range(3, split.rank)]
    return b.reshape(b.transpose(split, order), (0, channels, *x.shape[2:]))


def _as_batch(b: Builder, x: Value) -> tuple[Value, Callable[[Value], Value]]:
    """x with rank 4, all axes before the last three in one, and the way back."""
    if x.rank == 4:
        return x, lambda y: y
    leading = x.shape[:-3]
    target = (-1, *x.shape[-3:]) if leading else (1, *x.shape)
    return b.reshape(x, target), lambda y: b.reshape(y, (*leading, *y.shape[1:]))


def expand(b: Builder, x: Value, size: Sequence[int], implicit: bool = False) -> Value:
    target = b.out_shape
    if target == x.shape:
        return x
    aligned = (1,) * (len(target) - x.rank) + x.shape
    return b.emit(Expand(tuple(1 if size == old else size for size, old in zip(target, aligned, strict=True))), x)


def expand_as(b: Builder, x: Value, other: Value) -> Value:
    return expand(b, x, other.shape)


def nothing(b: Builder, x: Value, *_: object) -> Value:
    """Copies, memory formats and devices: the elements stay what they are."""
    return x


def dropout(b: Builder, x: Value, p: float, train: bool | None) -> Value:
    if train and p > 0:
        raise Unsupported("training mode")
    return x


def native_dropout(b: Builder, x: Value, p: float, train: bool | None) -> tuple[Value, None]:
    return dropout(b, x, p, train), None


CONVERTERS: dict[str, Callable] = {
    "view.default": view,
    "reshape.default": view,
    "_unsafe_view.default": view,
    "_reshape_alias.default": view,
    "reshape_as.default": same_elements,
    "view_as.default": same_elements,
    "flatten.using_ints": same_elements,
    "unflatten.int": same_elements,
    "unsqueeze.default": unsqueeze,
    "squeeze.default": squeeze,
    "squeeze.dim": squeeze,
    "squeeze.dims": squeeze,
    "permute.default": permute,
    "transpose.int": transpose,
    "swapaxes.default": transpose,
    "swapdims.default": transpose,
    "t.default": matrix_transpose,
    "mT.default": matrix_transpose,
    "adjoint.default": matrix_transpose,
    "numpy_T.default": reverse_axes,
    "movedim.int": move_axes,
    "movedim.intlist": move_axes,
    "moveaxis.int": move_axes,
    "moveaxis.intlist": move_axes,
    "pixel_shuffle.default": pixel_shuffle,
    "pixel_unshuffle.default": pixel_unshuffle,
    "channel_shuffle.default": channel_shuffle,
    "native_channel_shuffle.default": channel_shuffle,
    "expand.default": expand,
    "expand_as.default": expand_as,
    "broadcast_to.default": expand,
    **{
        name: nothing
        for name in (
            "contiguous.default",
            "clone.default",
            "alias.default",
            "detach.default",
            "lift_fresh_copy.default",
            "_to_copy.default",
            "to.dtype",
            "to.device",
            "to.dtype_layout",
            "to.other",
            "type_as.default",
            "positive.default",
        )
    },
    "dropout.default": dropout,
    "feature_dropout.default": dropout,
    "alpha_dropout.default": dropout,
    "feature_alpha_dropout.default": dropout,
    "native_dropout.default": native_dropout,
}
