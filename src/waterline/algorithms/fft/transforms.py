"""Emission of transforms along an axis: functions that take vectors from memory and put vectors there.

Every lane of a vector is a sequence of its own (a channel, or a channel of a tile), so no code here moves data between
lanes. A complex point is two vectors side by side, the real parts first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from llvmlite import ir

from waterline.algorithms.fft.axes import Axis
from waterline.algorithms.fft.codelets import Program, backward, forward, kept
from waterline.codegen.cpu.emitter import F32, I64, PTR, Emitter, Value

ELEM_BYTES = 4
FACTOR_BYTES = 2 * ELEM_BYTES  # a twiddle factor: cosine and sine

Pair = tuple[Value, Value]
Index = Value | int


def run_program(e: Emitter, program: Program, inputs: Sequence[Value]) -> list[Value]:
    """The outputs of a codelet for vectors; zero where the program says so."""
    b, values = e.builder, list(inputs)
    for step in program.steps:
        (first, i), *rest = step.terms
        if not rest:
            values.append(b.fneg(values[i]) if first == -1 else b.fmul(values[i], e.splat(first)))
            continue
        ((factor, j),) = rest
        if abs(factor) != 1:
            addend = values[i] if first == 1 else b.fneg(values[i])
            # The sign belongs to the instruction, so that a constant and its negative are one.
            value = values[j] if factor > 0 else b.fneg(values[j])
            values.append(e.multiply_add(value, e.splat(abs(factor)), addend))
        elif first == 1:
            values.append((b.fadd if factor == 1 else b.fsub)(values[i], values[j]))
        else:
            values.append(b.fsub(values[j], values[i]))
    zero = e.splat(0.0)
    return [zero if output < 0 else values[output] for output in program.outputs]


def pairs(values: Sequence[Value]) -> list[Pair]:
    return list(zip(values[0::2], values[1::2], strict=True))


def flat(values: Sequence[Pair]) -> list[Value]:
    return [part for pair in values for part in pair]


def turn(e: Emitter, value: Pair, factor: Pair, *, back: bool = False) -> Pair:
    """value * factor, or times the factor's conjugate."""
    b, (re, im), (c, s) = e.builder, value, factor
    if back:
        return e.multiply_add(re, c, b.fmul(im, s)), e.multiply_add(im, c, b.fneg(b.fmul(re, s)))
    return e.multiply_add(re, c, b.fneg(b.fmul(im, s))), e.multiply_add(re, s, b.fmul(im, c))


def load_factor(e: Emitter, table: Value, offset_bytes: Index) -> Pair:
    at = e.at(table, offset_bytes)
    return e.splat(e.load(at, F32, 0, 4)), e.splat(e.load(at, F32, ELEM_BYTES, 4))


def constant_table(e: Emitter, name: str, values: np.ndarray) -> Value:
    """The address of an array of f32 constants in the module."""
    numbers = [float(v) for v in values.astype(np.float32).reshape(-1)]
    kind = ir.ArrayType(F32, len(numbers))
    variable = ir.GlobalVariable(e.module, kind, name)
    variable.linkage, variable.global_constant, variable.align = "internal", True, 64
    variable.initializer = ir.Constant(kind, numbers)
    variable.type = PTR  # llvmlite's global has a typed pointer, which LLVM no longer knows
    return variable


class AxisEmitter:
    """Both passes of one axis inside the function that `e` emits."""

    def __init__(self, e: Emitter, axis: Axis) -> None:
        self.e, self.axis = e, axis
        self.vector_bytes = e.lanes * ELEM_BYTES
        self.pair_bytes = 2 * self.vector_bytes
        if axis.passes == 2:
            groups = axis.a // 2 + 1 if axis.real else axis.a
            self.rest = e.stack(groups * axis.b * self.pair_bytes)
            self.factors = constant_table(e, f"{e.function.name}_factors", axis.twiddles())

    # ---- first pass ---------------------------------------------------------------------------------------------
    def _rest_at(self, k1: Index, j2: Index) -> Value:
        e = self.e
        return e.at(self.rest, e.mul(e.add(e.mul(k1, self.axis.b), j2), self.pair_bytes))

    def _load_rest(self, k1: Index, j2: Index) -> Pair:
        at = self._rest_at(k1, j2)
        return self.e.load_vector(at), self.e.load_vector(at, self.vector_bytes)

    def _store_rest(self, k1: Index, j2: Index, value: Pair) -> None:
        at = self._rest_at(k1, j2)
        self.e.store_vector(value[0], at)
        self.e.store_vector(value[1], at, self.vector_bytes)

    def _first(self, load: Callable[[Index], list[Value]]) -> None:
        """`load(point)` gives the vectors of a point: one where points are real, else two."""
        e, axis = self.e, self.axis
        with e.loop(0, axis.b, name="first") as j2:
            values = [v for j1 in range(axis.a) for v in load(e.add(j2, j1 * axis.b))]
            for k1, value in enumerate(pairs(run_program(e, forward(axis.kind, axis.a), values))):
                self._store_rest(k1, j2, value)

    def _first_back(self, store: Callable[[Index, list[Value]], None]) -> None:
        e, axis = self.e, self.axis
        width = 1 if axis.real else 2
        with e.loop(0, axis.b, name="first") as j2:
            groups = kept(axis.a) if axis.real else axis.a
            values = flat([self._load_rest(k1, j2) for k1 in range(groups)])
            points = run_program(e, backward(axis.kind, axis.a), values)
            for j1 in range(axis.a):
                store(e.add(j2, j1 * axis.b), points[j1 * width : (j1 + 1) * width])

    # ---- second pass --------------------------------------------------------------------------------------------
    def _factor(self, group: Index, j2: int) -> Pair:
        e = self.e
        return load_factor(e, self.factors, e.mul(e.add(e.mul(group, self.axis.b), j2), FACTOR_BYTES))

    def _turned(self, group: Index) -> list[Pair]:
        """Turned group number `group`, transformed."""
        e, b = self.e, self.axis.b
        k1 = e.add(group, self.axis.turned.start)
        values = [self._load_rest(k1, j2) for j2 in range(b)]
        values[1:] = [turn(e, values[j2], self._factor(group, j2)) for j2 in range(1, b)]
        return pairs(run_program(e, forward("complex", b), flat(values)))

    def _turned_back(self, group: Index, values: list[Pair]) -> None:
        e, b = self.e, self.axis.b
        k1 = e.add(group, self.axis.turned.start)
        points = pairs(run_program(e, backward("complex", b), flat(values)))
        for j2, point in enumerate(points):
            self._store_rest(k1, j2, turn(e, point, self._factor(group, j2), back=True) if j2 else point)

    def _special(self) -> list[tuple[str, int, int]]:
        """Groups of a real axis whose points are real: (kind, k1, place of the first frequency)."""
        axis = self.axis
        if not axis.real:
            return []
        found = [("real", 0, 0)]
        if axis.a % 2 == 0:
            found.append(("odd", axis.a // 2, axis.first_turned + len(axis.turned) * axis.b))
        return found

    # ---- whole transforms ---------------------------------------------------------------------------------------
    def ahead(self, load: Callable[[Index], list[Value]], store: Callable[[Index, Pair], None]) -> None:
        """From points to frequencies; `store(place, value)`."""
        e, axis = self.e, self.axis
        if axis.passes == 1:
            values = [v for j in range(axis.n) for v in load(j)]
            for k, value in enumerate(pairs(run_program(e, forward(axis.kind, axis.n), values))):
                store(k, value)
            return
        self._first(load)
        for kind, k1, place in self._special():
            values = [self._load_rest(k1, j2)[0] for j2 in range(axis.b)]
            for k2, value in enumerate(pairs(run_program(e, forward(kind, axis.b), values))):
                store(place + k2, value)
        if len(axis.turned):
            with e.loop(0, len(axis.turned), name="group") as group:
                first = e.add(e.mul(group, axis.b), axis.first_turned)
                for k2, value in enumerate(self._turned(group)):
                    store(e.add(first, k2), value)

    def back(self, load: Callable[[Index], Pair], store: Callable[[Index, list[Value]], None]) -> None:
        """From frequencies to points, each n times its value."""
        e, axis = self.e, self.axis
        if axis.passes == 1:
            points = run_program(e, backward(axis.kind, axis.n), flat([load(k) for k in range(axis.count)]))
            width = 1 if axis.real else 2
            for j in range(axis.n):
                store(j, points[j * width : (j + 1) * width])
            return
        for kind, k1, place in self._special():
            count = len(forward(kind, axis.b).outputs) // 2
            values = flat([load(place + k2) for k2 in range(count)])
            for j2, point in enumerate(run_program(e, backward(kind, axis.b), values)):
                self._store_rest(k1, j2, (point, e.splat(0.0)))
        if len(axis.turned):
            with e.loop(0, len(axis.turned), name="group") as group:
                first = e.add(e.mul(group, axis.b), axis.first_turned)
                self._turned_back(group, [load(e.add(first, k2)) for k2 in range(axis.b)])
        self._first_back(store)

    def filtered(
        self,
        load: Callable[[Index], list[Value]],
        change: Callable[[Index, Pair], Pair],
        store: Callable[[Index, list[Value]], None],
    ) -> None:
        """There and back, with `change(place, value)` in between: frequencies stay in registers. Complex axes only."""
        e, axis = self.e, self.axis
        assert not axis.real, axis
        if axis.passes == 1:
            values = [v for j in range(axis.n) for v in load(j)]
            changed = [change(k, v) for k, v in enumerate(pairs(run_program(e, forward("complex", axis.n), values)))]
            points = run_program(e, backward("complex", axis.n), flat(changed))
            for j in range(axis.n):
                store(j, points[2 * j : 2 * j + 2])
            return
        self._first(load)
        with e.loop(0, len(axis.turned), name="group") as group:
            first = e.mul(group, axis.b)
            values = [change(e.add(first, k2), value) for k2, value in enumerate(self._turned(group))]
            self._turned_back(group, values)
        self._first_back(store)


# ---- rows: real points ----------------------------------------------------------------------------------------------
def emit_rows(entry: Emitter, axis: Axis, pitch_bytes: int) -> ir.Function:
    """rows(x, distance of points in bytes, s): frequency number j goes to `s + j * pitch_bytes`."""
    e = Emitter(
        entry.module, entry.machine, f"{entry.function.name}_rows", [PTR, I64, PTR], internal=True, noinline=True
    )
    x, stride, s = e.arguments
    store_pair = _stores(e, s, pitch_bytes, e.lanes * ELEM_BYTES)
    AxisEmitter(e, axis).ahead(lambda j: [e.load_vector(x, e.mul(stride, j))], store_pair)
    e.finish()
    return e.function


def emit_rows_back(entry: Emitter, axis: Axis, pitch_bytes: int) -> ir.Function:
    """rows_back(s, y): points side by side in y."""
    e = Emitter(
        entry.module, entry.machine, f"{entry.function.name}_rows_back", [PTR, PTR], internal=True, noinline=True
    )
    s, y = e.arguments
    vector_bytes = e.lanes * ELEM_BYTES

    def store(j: Index, value: list[Value]) -> None:
        e.store_vector(value[0], y, e.mul(j, vector_bytes))

    AxisEmitter(e, axis).back(_loads(e, s, pitch_bytes, vector_bytes), store)
    e.finish()
    return e.function


# ---- columns: complex points, side by side --------------------------------------------------------------------------
def emit_columns(entry: Emitter, axis: Axis, has_turns: bool, pitch_bytes: int, plane_bytes: int) -> ir.Function:
    """columns(s, turns, v): frequency number i goes to `v + i * pitch_bytes`, imaginary parts `plane_bytes` behind.

    `turns` is a table of factors by which the points are multiplied first.
    """
    e = _column_function(entry, "columns")
    s, turns, v = e.arguments
    AxisEmitter(e, axis).ahead(_load_points(e, s, turns, has_turns), _stores(e, v, pitch_bytes, plane_bytes))
    e.finish()
    return e.function


def emit_columns_back(entry: Emitter, axis: Axis, has_turns: bool, pitch_bytes: int, plane_bytes: int) -> ir.Function:
    """columns_back(m, turns, s): the inverse of `columns`, times n."""
    e = _column_function(entry, "columns_back")
    m, turns, s = e.arguments
    AxisEmitter(e, axis).back(_loads(e, m, pitch_bytes, plane_bytes), _store_points(e, s, turns, has_turns))
    e.finish()
    return e.function


def emit_columns_filtered(entry: Emitter, axis: Axis, has_turns: bool) -> ir.Function:
    """columns_filtered(s, turns, weights): the column in place, its frequencies times `weights` (pairs of vectors)."""
    e = _column_function(entry, "columns_filtered")
    s, turns, weights = e.arguments
    vector_bytes = e.lanes * ELEM_BYTES
    factor = _loads(e, weights, 2 * vector_bytes, vector_bytes)
    AxisEmitter(e, axis).filtered(
        _load_points(e, s, turns, has_turns),
        lambda place, value: turn(e, value, factor(place)),
        _store_points(e, s, turns, has_turns),
    )
    e.finish()
    return e.function


def _column_function(entry: Emitter, name: str) -> Emitter:
    name = f"{entry.function.name}_{name}"
    return Emitter(entry.module, entry.machine, name, [PTR] * 3, internal=True, noinline=True)


def _loads(e: Emitter, base: Value, pitch_bytes: int, plane_bytes: int) -> Callable[[Index], Pair]:
    def load(place: Index) -> Pair:
        at = e.at(base, e.mul(place, pitch_bytes))
        return e.load_vector(at), e.load_vector(at, plane_bytes)

    return load


def _stores(e: Emitter, base: Value, pitch_bytes: int, plane_bytes: int) -> Callable[[Index, Pair], None]:
    def store(place: Index, value: Pair) -> None:
        at = e.at(base, e.mul(place, pitch_bytes))
        e.store_vector(value[0], at)
        e.store_vector(value[1], at, plane_bytes)

    return store


def _load_points(e: Emitter, s: Value, turns: Value, has_turns: bool) -> Callable[[Index], list[Value]]:
    vector_bytes = e.lanes * ELEM_BYTES
    pair = _loads(e, s, 2 * vector_bytes, vector_bytes)

    def load(i: Index) -> list[Value]:
        value = pair(i)
        return list(turn(e, value, load_factor(e, turns, e.mul(i, FACTOR_BYTES))) if has_turns else value)

    return load


def _store_points(e: Emitter, s: Value, turns: Value, has_turns: bool) -> Callable[[Index, list[Value]], None]:
    vector_bytes = e.lanes * ELEM_BYTES
    pair = _stores(e, s, 2 * vector_bytes, vector_bytes)

    def store(i: Index, value: list[Value]) -> None:
        point = (value[0], value[1])
        if has_turns:
            point = turn(e, point, load_factor(e, turns, e.mul(i, FACTOR_BYTES)), back=True)
        pair(i, point)

    return store
