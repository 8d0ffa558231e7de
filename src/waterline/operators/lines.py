"""`Lines`: writes whole output lines, borders included, from contiguous runs or from up to four interleaved planes.

It feeds first layers: a photograph's three planes become interleaved pixels with a border of zeros in one pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from waterline.codegen.cpu.emitter import Emitter, Value
from waterline.codegen.cpu.kernel import Kernel
from waterline.operators.copying import fill_run, moved_pointers
from waterline.operators.lanes import shuffle
from waterline.operators.nest import F32_BYTES

MOST_PLANES = 4


@dataclass(frozen=True)
class Border:
    """One axis of a padded copy: `size` elements of the input between `before` and `after` of the border."""

    size: int
    before: int = 0
    after: int = 0
    input_stride: int = 0
    output_stride: int = 0

    @property
    def total(self) -> int:
        return self.before + self.size + self.after

    @property
    def is_padded(self) -> bool:
        return self.before > 0 or self.after > 0


@dataclass(frozen=True)
class Lines(Kernel):
    """Args of movement. A work item is `rows` lines along the last of `outer`.

    Attributes:
        outer: the loops outside of the line, outermost first; at least one.
        line: pixels of a line; neighbours in each plane of the input, `planes` elements apart in the output.
        planes, plane_stride: how many planes are interleaved, and how far apart they lie in the input.
        value: of the border.
        batch: distance between images in elements, output and input.
    """

    outer: tuple[Border, ...]
    line: Border
    planes: int
    plane_stride: int
    value: float
    batch: tuple[int, int]
    rows: int

    @property
    def image_items(self) -> int:
        return math.prod(axis.total for axis in self.outer[:-1]) * -(-self.outer[-1].total // self.rows)

    @property
    def item_bytes(self) -> int:
        return 2 * self.rows * self.line.total * self.planes * F32_BYTES

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e = emitter
        output, x = moved_pointers(e, args)
        border = e.splat(self.value)
        last = self.outer[-1]
        blocks = -(-last.total // self.rows)
        with e.loop(begin, end, name="item") as item:
            n = e.div(item, self.image_items)
            rest = e.mod(item, self.image_items)
            block, rest = e.mod(rest, blocks), e.div(rest, blocks)
            digits: list[Value] = []
            for axis in reversed(self.outer[:-1]):
                digits.insert(0, e.mod(rest, axis.total))
                rest = e.div(rest, axis.total)
            first = e.mul(block, self.rows)
            with e.loop(first, e.minimum(e.add(first, self.rows), last.total), name="row") as row:
                self.write_line(e, output, x, border, n, [*digits, row])

    def write_line(self, e: Emitter, output: Value, x: Value, border: Value, n: Value, digits: list[Value]) -> None:
        to = e.mul(n, self.batch[0] * F32_BYTES)
        for digit, axis in zip(digits, self.outer, strict=True):
            to = e.add(to, e.mul(digit, axis.output_stride * F32_BYTES))

        def content() -> None:
            source = e.mul(n, self.batch[1] * F32_BYTES)
            for digit, axis in zip(digits, self.outer, strict=True):
                index = e.sub(digit, axis.before) if axis.before else digit
                source = e.add(source, e.mul(index, axis.input_stride * F32_BYTES))
            pixel_bytes = self.planes * F32_BYTES
            fill_run(e, border, output, to, self.line.before * self.planes)
            self.interleave(e, output, e.add(to, self.line.before * pixel_bytes), x, source)
            after = e.add(to, (self.line.before + self.line.size) * pixel_bytes)
            fill_run(e, border, output, after, self.line.after * self.planes)

        inside = None
        for digit, axis in zip(digits, self.outer, strict=True):
            if axis.is_padded:
                here = e.builder.icmp_unsigned("<", e.sub(digit, axis.before), e.index(axis.size))
                inside = here if inside is None else e.builder.and_(inside, here)
        if inside is None:
            content()
            return
        with e.builder.if_else(inside) as (then, otherwise):
            with then:
                content()
            with otherwise:
                fill_run(e, border, output, to, self.line.total * self.planes)

    def interleave(self, e: Emitter, output: Value, to: Value, x: Value, source: Value) -> None:
        full, tail = divmod(self.line.size, e.lanes)
        with e.loop(0, full * e.lanes, e.lanes, name="pixel") as pixel:
            place = e.add(source, e.mul(pixel, F32_BYTES))
            self.interleave_vector(e, output, e.add(to, e.mul(pixel, self.planes * F32_BYTES)), x, place, None)
        if tail:
            done = full * e.lanes * F32_BYTES
            self.interleave_vector(e, output, e.add(to, done * self.planes), x, e.add(source, done), tail)

    def interleave_vector(
        self, e: Emitter, output: Value, to: Value, x: Value, source: Value, count: int | None
    ) -> None:
        """A vector of pixels, or the first `count` of it."""
        lanes = e.lanes
        step = self.plane_stride * F32_BYTES
        planes = [e.load_vector(x, e.add(source, i * step), count) for i in range(self.planes)]
        left = self.planes * (lanes if count is None else count)
        for i, vector in enumerate(interleaved(e, planes)):
            if left > i * lanes:
                here = min(lanes, left - i * lanes)
                e.store_vector(vector, output, e.add(to, i * lanes * F32_BYTES), None if here == lanes else here)


def interleaved(e: Emitter, planes: list[Value]) -> list[Value]:
    """The lanes of each plane in turn: a0 b0 c0 a1 b1 c1 ... in as many vectors."""
    if len(planes) == 1:
        return planes
    lanes, count = planes[0].type.count, len(planes)
    results = []
    for i in range(count):
        places = [divmod(i * lanes + lane, count) for lane in range(lanes)]  # (pixel, plane)
        vector = planes[0]
        picked = [pixel if plane == 0 else 0 for pixel, plane in places]
        for k in range(1, count):
            # Lane by lane: plane k where it belongs here, else what the planes before it have left there.
            start = picked if k == 1 else list(range(lanes))
            mask = [lanes + pixel if plane == k else start[lane] for lane, (pixel, plane) in enumerate(places)]
            vector = shuffle(e, vector, planes[k], mask)
        results.append(vector)
    return results
