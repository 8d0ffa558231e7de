"""Sums (and other accumulations) of vectors over nested loops, in an order that keeps rounding errors small.

The innermost loop runs over `streams` places at once, each with its own accumulators, which hides the latency of
additions; sums longer than a block are sums of blocks' sums. The order depends on sizes and lanes only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from waterline.codegen.cpu import functions
from waterline.codegen.cpu.emitter import Emitter, Value
from waterline.operators.nest import F32_BYTES

BLOCK_TERMS = 64  # terms that are added one after the other before their sum joins the total
UNROLLED_TERMS = 8

Merge = Callable[[Value, Value], Value]
Term = Callable[[Value | int, int | None], list[Value]]


def merging(e: Emitter, kind: str) -> tuple[float, Merge]:
    """The neutral element and the merging of two partial results of "sum", "max" or "min"."""
    if kind == "sum":
        return 0.0, lambda a, c: e.builder.fadd(a, c)
    if kind == "max":
        return float("-inf"), lambda a, c: functions.maximum(e, a, c)
    return float("inf"), lambda a, c: functions.minimum(e, a, c)


def accumulate(
    e: Emitter,
    kind: str,
    axes: Sequence[tuple[int, int]],
    term: Term,
    *,
    width: int = 1,
    step: int = 1,
    streams: int = 4,
    lanes: int | None = None,
) -> list[Value]:
    """`width` accumulated vectors.

    Args:
        kind: "sum", "max" or "min".
        axes: (size, stride in elements) of each loop, the innermost last.
        term: (offset in bytes, count) -> `width` vectors; where `count` is not None the last vector of a row has only
            so many valid lanes, and the others must be neutral.
        step: elements of the innermost loop that one term takes: 1, or the lanes of a vector that lies along it.
        streams: terms of the innermost loop in flight.
    """
    start, merge = merging(e, kind)
    neutral = [e.splat(start, lanes)] * width

    def merge_all(a: Sequence[Value], c: Sequence[Value]) -> list[Value]:
        return [merge(left, right) for left, right in zip(a, c, strict=True)]

    def level(depth: int, offset: Value | int) -> list[Value]:
        size, stride = axes[depth]
        if depth == len(axes) - 1:
            return innermost(size, stride * F32_BYTES, offset)
        with e.carried_loop(0, size, 1, neutral, name="outer") as loop:
            inner = level(depth + 1, e.add(e.mul(loop.index, stride * F32_BYTES), offset))
            loop.carry(merge_all(loop.values, inner))
        return loop.results

    def innermost(size: int, stride: int, offset: Value | int) -> list[Value]:
        terms, tail = divmod(size, step)
        jump = step * stride

        def at(index: int, count: int | None = None) -> list[Value]:
            return term(e.add(index * jump, offset), count)

        parts: list[list[Value]] = []
        if terms <= UNROLLED_TERMS:
            parts = [at(index) for index in range(terms)]
        else:
            parts = streamed(terms // streams, jump, offset)
            parts += [at(index) for index in range(terms // streams * streams, terms)]
        if tail:
            parts.append(at(terms, tail))
        return pairwise(parts) if parts else neutral

    def streamed(rounds: int, jump: int, offset: Value | int) -> list[list[Value]]:
        """`streams` sums of `rounds` terms each; stream s begins at term s * rounds."""

        def run(first: Value | int, stop: Value | int) -> list[Value]:
            with e.carried_loop(first, stop, 1, neutral * streams, name="term") as loop:
                place = e.add(e.mul(loop.index, jump), offset)
                new = [v for s in range(streams) for v in term(e.add(place, s * rounds * jump), None)]
                loop.carry(merge_all(loop.values, new))
            return loop.results

        if kind != "sum" or rounds <= 2 * BLOCK_TERMS:
            results = run(0, rounds)
        else:
            with e.carried_loop(0, rounds, BLOCK_TERMS, neutral * streams, name="block") as blocks:
                stop = e.minimum(e.add(blocks.index, BLOCK_TERMS), rounds)
                blocks.carry(merge_all(blocks.values, run(blocks.index, stop)))
            results = blocks.results
        return [results[s * width : (s + 1) * width] for s in range(streams)]

    def pairwise(parts: list[list[Value]]) -> list[Value]:
        while len(parts) > 1:
            merged = [merge_all(a, c) for a, c in zip(parts[::2], parts[1::2], strict=False)]
            parts = merged + ([parts[-1]] if len(parts) % 2 else [])
        return parts[0]

    return level(0, offset=0) if axes else term(0, None)
