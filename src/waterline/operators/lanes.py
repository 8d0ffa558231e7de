"""Vectors of elements that are not neighbours in memory, and sums across the lanes of a vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from waterline.codegen.cpu.emitter import F32, I1, I32, Emitter, Value
from waterline.operators.nest import F32_BYTES


def load_lanes(
    e: Emitter,
    pointer: Value,
    offset_bytes: Value | int,
    stride: int,
    count: int | None = None,
    lanes: int | None = None,
) -> Value:
    """`count` elements (all lanes by default), `stride` elements apart; lanes from `count` on are zero."""
    lanes = lanes or e.lanes
    count = lanes if count is None else count
    if stride == 1:
        return e.load_vector(pointer, offset_bytes, count, lanes)
    if stride == 0:
        value = e.splat(e.load(pointer, F32, offset_bytes, F32_BYTES), lanes)
        return value if count == lanes else keep(e, value, count, 0.0)
    base = e.at(pointer, offset_bytes)
    vector = e.splat(0.0, lanes)
    for lane in range(count):
        element = e.load(base, F32, lane * stride * F32_BYTES, F32_BYTES)
        vector = e.builder.insert_element(vector, element, ir.Constant(I32, lane))
    return vector


def store_lanes(
    e: Emitter, value: Value, pointer: Value, offset_bytes: Value | int, stride: int, count: int | None = None
) -> None:
    """Stores the first `count` lanes (all by default), `stride` elements apart."""
    count = value.type.count if count is None else count
    if stride == 1:
        e.store_vector(value, pointer, offset_bytes, count)
        return
    base = e.at(pointer, offset_bytes)
    for lane in range(count):
        element = e.builder.extract_element(value, ir.Constant(I32, lane))
        e.store(element, base, lane * stride * F32_BYTES, F32_BYTES)


def keep(e: Emitter, value: Value, count: int | None, other: float) -> Value:
    """The first `count` lanes of `value` (None: all), and `other` in those after them."""
    lanes = value.type.count
    if count is None or count >= lanes:
        return value
    mask = ir.Constant(ir.VectorType(I1, lanes), [int(lane < count) for lane in range(lanes)])
    return e.builder.select(mask, value, e.splat(other, lanes))


def shuffle(e: Emitter, a: Value, c: Value, lanes: Sequence[int]) -> Value:
    """The vector of the given lanes of `a` followed by `c`."""
    mask = ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))
    return e.builder.shuffle_vector(a, c, mask)


def fold(e: Emitter, vector: Value, merge: Callable[[Value, Value], Value]) -> Value:
    """All lanes merged, halves first; the f32 result."""
    lanes = vector.type.count
    while lanes > 1:
        lanes //= 2
        low = shuffle(e, vector, vector, range(lanes))
        high = shuffle(e, vector, vector, range(lanes, 2 * lanes))
        vector = merge(low, high)
    return e.builder.extract_element(vector, ir.Constant(I32, 0))
