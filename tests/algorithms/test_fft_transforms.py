"""The transforms of `fft`: codelets as exact programs with their counts, and axes as emitted code, against numpy."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest
from llvmlite import ir

from algorithms.layers import available_isas, machine_of
from waterline.algorithms.fft import axes
from waterline.algorithms.fft.axes import Axis
from waterline.algorithms.fft.codelets import Program, backward, forward, kept, root
from waterline.algorithms.fft.transforms import emit_columns, emit_columns_back, emit_rows, emit_rows_back
from waterline.codegen.cpu.emitter import PTR, Emitter
from waterline.codegen.cpu.jit import Library, compile_object
from waterline.codegen.cpu.memory import aligned_zeros
from waterline.machine import CATALOGUE, Machine

KINDS = ("complex", "real", "odd")
LENGTHS = (*range(1, 17), 18, 20, 24, 25, 27, 32)


def matrix(program: Program) -> np.ndarray:
    """What a program computes, exactly as it does, in float64."""
    columns = []
    for unit in np.eye(program.inputs):
        values = list(unit)
        for step in program.steps:
            values.append(sum(factor * values[i] for factor, i in step.terms))
        columns.append([0.0 if i < 0 else values[i] for i in program.outputs])
    return np.array(columns).T


def expected(kind: str, n: int) -> np.ndarray:
    """The same from the definition."""
    j = np.arange(n)
    frequencies = {"complex": j, "real": j[: kept(n)], "odd": j[: (n + 1) // 2] + 0.5}[kind]
    factors = np.exp(-2j * np.pi * np.outer(frequencies, j) / n)
    rows = np.empty((2 * len(frequencies), n), complex)
    rows[0::2], rows[1::2] = factors, -1j * factors  # real and imaginary part of factor * x are Re(rows x)
    if kind != "complex":
        return rows.real
    both = np.empty((len(rows), 2 * n))
    both[:, 0::2], both[:, 1::2] = rows.real, (rows * 1j).real
    return both


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_codelet_is_the_transform_and_its_inverse_the_transposed(kind: str, n: int):
    wanted = expected(kind, n)
    np.testing.assert_allclose(matrix(forward(kind, n)), wanted, atol=4e-14)
    np.testing.assert_allclose(matrix(backward(kind, n)), wanted.T, atol=4e-14)


@pytest.mark.parametrize("n", [4, 8, 16, 32, 64])
def test_powers_of_two_take_the_operations_of_split_radix(n: int):
    """Counts with four multiplications and two additions a turn (Yavne 1968; Johnson and Frigo 2007, table 1)."""
    levels = n.bit_length() - 1
    program = forward("complex", n)
    flops = 4 * n * levels - 6 * n + 8
    assert program.additions == {4: 16, 8: 52, 16: 144, 32: 372, 64: 912}[n]
    # Products that two sums use are counted in both of them: with fused multiply-add they are free.
    assert program.additions + program.multiplications <= 1.04 * flops
    assert len(program.steps) <= flops
    assert len(program.steps) <= 0.93 * flops or n < 16
    real = forward("real", n)
    assert real.additions + real.multiplications <= (2 * n * levels - 4 * n + 6) * 1.04 + 1
    assert len(real.steps) <= len(program.steps) / 2


@pytest.mark.parametrize(("n", "flops"), [(3, 16), (5, 52), (6, 48), (9, 132), (12, 120), (15, 234)])
def test_other_lengths_take_no_more_operations_than_theirs(n: int, flops: int):
    """Of direct butterflies for 3 and 5 (with folded products counted twice), without twiddle factors where coprime."""
    program = forward("complex", n)
    assert program.additions + program.multiplications <= flops + 2
    real = forward("real", n)
    assert len(real.steps) <= len(program.steps) / 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [8, 12, 15, 16])
def test_the_inverse_takes_as_many_instructions(kind: str, n: int):
    assert len(backward(kind, n).steps) <= 1.1 * len(forward(kind, n).steps)


def test_roots_of_equal_size_are_equal_numbers():
    for n in (5, 8, 12, 16, 60, 64):
        for k in range(n):
            c, s = root(k, n)
            assert math.isclose(c, math.cos(2 * math.pi * k / n), abs_tol=1e-15)
            assert math.isclose(s, -math.sin(2 * math.pi * k / n), abs_tol=1e-15)
            assert root(n - k, n) == (c, -s)
            assert root(k + n, n) == (c, s)
            assert n % 4 or {abs(v) for v in root(k + n // 4, n)} == {abs(c), abs(s)}


# ---- axes -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("machine", CATALOGUE, ids=lambda m: m.name)
def test_every_length_has_an_axis_with_each_frequency_once(machine: Machine):
    for n in axes.lengths(1, 256):
        row, column = axes.axis(n, True, machine), axes.axis(n, False, machine)
        assert row.a * row.b == n
        assert sorted(column.frequencies()) == list(range(n))
        assert sorted(np.minimum(row.frequencies(), -row.frequencies() % n)) == list(range(kept(n)))
        assert len(row.frequencies()) == row.count
        assert row.weights().sum() == n
        assert axes.cycles(column, machine) > axes.cycles(row, machine) or n < 3
        assert axes.flops(column) > axes.flops(row) or n == 1


def axis_module(axis: Axis, machine: Machine) -> str:
    """Functions `ahead(points, frequencies)` and `back(frequencies, points)`, pairs of vectors side by side."""
    module = ir.Module(name="axis")
    module.triple = machine.target()[0]
    vector = machine.vector_bytes
    for name in ("ahead", "back"):
        e = Emitter(module, machine, name, [PTR, PTR])
        source, target = e.arguments
        if axis.real and name == "ahead":
            e.builder.call(emit_rows(e, axis, 2 * vector), [source, e.index(vector), target])
        elif axis.real:
            e.builder.call(emit_rows_back(e, axis, 2 * vector), [source, target])
        else:
            make = emit_columns if name == "ahead" else emit_columns_back
            e.builder.call(make(e, axis, False, 2 * vector, vector), [source, source, target])
        e.finish()
    return str(module)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("real", [True, False], ids=["real", "complex"])
@pytest.mark.parametrize("n", [1, 2, 9, 16, 24, 30, 45, 64, 72, 128, 225, 256])
def test_an_axis_transforms_and_back(n: int, real: bool, isa: str, forked, rng):
    machine, parts = machine_of(isa), 1 if real else 2
    lanes, axis = machine.lanes(), axes.axis(n, real, machine)
    points, spectrum = aligned_zeros(n * parts * lanes), aligned_zeros(axis.count * 2 * lanes)
    again = aligned_zeros(n * parts * lanes)
    x = rng.standard_normal((n, parts, lanes)).astype(np.float32)
    points[:] = x.reshape(-1)

    def run() -> None:
        library = Library([compile_object(axis_module(axis, machine), machine)], ["ahead", "back"])
        entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
        entry(library["ahead"])(points.ctypes.data, spectrum.ctypes.data)
        found = spectrum.reshape(axis.count, 2, lanes)
        wanted = np.fft.fft(x[:, 0] + (0 if real else 1j * x[:, 1]), axis=0)[axis.frequencies()]
        unit = 2.0**-24 * (math.log2(n) + 1) * math.sqrt(n)
        assert np.abs(found[:, 0] + 1j * found[:, 1] - wanted).max() <= 12 * unit
        found *= axis.weights()[:, None, None].astype(np.float32)
        entry(library["back"])(spectrum.ctypes.data, again.ctypes.data)
        assert np.abs(again / n - points).max() <= 12 * 2.0**-24 * 2 * (math.log2(n) + 1)

    assert not forked(run)
