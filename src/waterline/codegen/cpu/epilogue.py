"""What happens to a register tile of sums between the last multiply-add and its only store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from waterline.codegen.cpu import functions
from waterline.codegen.cpu.emitter import Emitter, Value
from waterline.spec import Epilogue


@dataclass(frozen=True)
class Place:
    """Where a row of a tile goes and where its residual is: bytes behind the tile's addresses."""

    y_bytes: int
    residual_bytes: int


def vector_counts(columns: int, lanes: int) -> list[int]:
    """Elements in each vector of a row of `columns`."""
    return [min(lanes, columns - first) for first in range(0, columns, lanes)]


def is_cheap(epilogue: Epilogue) -> bool:
    return all(a is None or functions.is_cheap(a) for a in (epilogue.before, epilogue.after))


def finish_vector(
    e: Emitter, epilogue: Epilogue, value: Value, residual: Value, offset_bytes: Value | int, count: int
) -> Value:
    """The epilogue behind the bias: activation, residual (read at `residual` + `offset_bytes`), activation."""
    if epilogue.before is not None:
        value = functions.apply(e, epilogue.before, value)
    if epilogue.residual:
        value = e.builder.fadd(value, e.load_vector(residual, offset_bytes, count, value.type.count))
    if epilogue.after is not None:
        value = functions.apply(e, epilogue.after, value)
    return value


def store_tile(
    e: Emitter,
    epilogue: Epilogue,
    sums: Sequence[Value],
    counts: Sequence[int],
    places: Sequence[Place],
    y: Value,
    bias: Value,
    residual: Value,
) -> None:
    """Applies the epilogue to a tile of rows x vectors (row by row in `sums`) and stores it.

    The bias is added to the finished sum: a chain that began with it would round every small product to its size.

    Args:
        counts: elements in each vector of a row.
        places: one for each row; evenly spaced where the epilogue has a long activation.
        y, bias, residual: addresses of the tile's first element.
    """
    vectors = len(counts)
    vector_bytes = e.lanes * 4
    shifts = [e.load_vector(bias, v * vector_bytes, count) if epilogue.bias else None for v, count in enumerate(counts)]

    def finish(value: Value, v: int, residual_at: Value | int, y_at: Value | int) -> None:
        if shifts[v] is not None:
            value = e.builder.fadd(value, shifts[v])
        value = finish_vector(e, epilogue, value, residual, residual_at, counts[v])
        e.store_vector(value, y, y_at, counts[v])

    if is_cheap(epilogue) or len(places) == 1:
        for i, place in enumerate(places):
            for v in range(vectors):
                at = v * vector_bytes
                finish(sums[i * vectors + v], v, place.residual_bytes + at, place.y_bytes + at)
        return
    # A long activation is emitted once, in a loop over a tile that rests on the stack (in the first-level cache),
    # rather than once for every vector.
    rest = e.stack(len(places) * vectors * vector_bytes)
    for i, value in enumerate(sums):
        e.store(value, rest, i * vector_bytes, vector_bytes)
    y_step = places[1].y_bytes - places[0].y_bytes
    residual_step = places[1].residual_bytes - places[0].residual_bytes
    for v in range(vectors):
        with e.loop(0, len(places), name="finish") as i:
            value = e.load_vector(rest, e.add(e.mul(i, vectors * vector_bytes), v * vector_bytes))
            residual_at = e.add(e.mul(i, residual_step), places[0].residual_bytes + v * vector_bytes)
            finish(value, v, residual_at, e.add(e.mul(i, y_step), places[0].y_bytes + v * vector_bytes))
