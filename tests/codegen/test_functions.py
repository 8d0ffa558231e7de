"""Activations against float64: errors in units in the last place, special values, and what is emitted."""

from __future__ import annotations

import ctypes
import math
import re
from dataclasses import dataclass

import numpy as np
import pytest

from waterline.codegen.cpu import functions
from waterline.codegen.cpu.emitter import Emitter, Value
from waterline.codegen.cpu.jit import Library, compile_assembly, compile_object
from waterline.codegen.cpu.kernel import Kernel
from waterline.codegen.cpu.power import power
from waterline.machine import CATALOGUE, Machine, detect
from waterline.reference.elementwise import ACTIVATION_FUNCTIONS
from waterline.spec import ACTIVATIONS, Activation

LOCAL = detect()
ORDER = ("sse2", "avx", "avx2", "avx512")
MACHINES = [LOCAL]
if LOCAL.arch == "x86_64":
    MACHINES += [LOCAL.restricted(isa) for isa in ORDER if ORDER.index(isa) < ORDER.index(LOCAL.isa)]
ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
PARAMETERS = {
    "leaky_relu": (0.1,),
    "clip": (-1.0, 6.0),
    "hard_sigmoid": (0.2, 0.5),
    "elu": (1.5,),
    "selu": (1.6732632, 1.0507009),
}
ALL = [Activation(kind, PARAMETERS.get(kind, ())) for kind in ACTIVATIONS]
# Largest errors allowed, in ulp of the true value; the rest are one rounding.
ULPS = {
    "sigmoid": 3.9,
    "silu": 4.0,
    "gelu_tanh": 5.2,
    "tanh": 2.5,
    "elu": 2.5,
    "selu": 3.5,
    "softplus": 2.6,
    "softsign": 1.6,
    "mish": 4.0,
    "exp": 1.1,
    "log": 1.1,
    "erf": 3.0,
    "leaky_relu": 0.7,  # alpha itself is rounded
}
EPS = 2.0**-23
# Functions that cancel near a zero of theirs, or feed a rounded argument to an exponential: the error is measured
# against eps times this, where it is larger.
FLOORS = {"gelu": 2.0, "gelu_tanh": 0.05, "hard_sigmoid": 1.0, "hard_swish": 3.0}
TINY = 2.0**-100  # results below need not be exact


@dataclass(frozen=True)
class Apply(Kernel):
    """y = function(x), whole vectors. Args: y, x, and for `pow` the exponents."""

    function: Activation | None

    def build(self, emitter: Emitter, args: Value, begin: Value, end: Value, scratch: Value) -> None:
        e = emitter
        y, x = e.load_pointer(args, 0), e.load_pointer(args, 8)
        with e.loop(begin, end) as index:
            offset = e.mul(index, e.lanes * 4)
            value = e.load_vector(x, offset)
            if self.function is None:
                result = power(e, value, e.load_vector(e.load_pointer(args, 16), offset))
            else:
                result = functions.apply(e, self.function, value)
            e.store_vector(result, y, offset)


def run(machine: Machine, function: Activation | None, *inputs: np.ndarray) -> np.ndarray:
    kernel = Apply(function)
    library = Library([compile_object(kernel.emit("apply", machine), machine)], ["apply"])
    lanes = machine.lanes()
    count = -(-len(inputs[0]) // lanes)
    arrays = [np.zeros(count * lanes, np.float32) for _ in range(1 + len(inputs))]
    for array, values in zip(arrays[1:], inputs, strict=True):
        array[: len(values)] = values
    args = (ctypes.c_uint64 * len(arrays))(*(array.ctypes.data for array in arrays))
    ENTRY(library["apply"])(ctypes.addressof(args), 0, count, None)
    return arrays[0][: len(inputs[0])]


def samples() -> np.ndarray:
    random = np.random.default_rng(7)
    powers = 2.0 ** np.linspace(-149, 127.9, 1 << 13)
    return np.concatenate(
        [
            np.linspace(-110, 110, 1 << 16),
            np.linspace(-10, 10, 1 << 17),
            random.standard_normal(1 << 13) * 1e-3,
            powers,
            -powers,
        ]
    ).astype(np.float32)


def truth(function: Activation, x: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return ACTIVATION_FUNCTIONS[function.kind](x.astype(np.float64), *function.params)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.isa)
@pytest.mark.parametrize("function", ALL, ids=lambda function: function.kind)
def test_error(function: Activation, machine: Machine) -> None:
    x = samples()
    actual, expected = run(machine, function, x).astype(np.float64), truth(function, x)
    finite = np.isfinite(expected) & (np.abs(expected) < 3.4e38)
    with np.errstate(all="ignore"):
        scale = np.spacing(np.abs(expected).astype(np.float32)).astype(np.float64)
        if function.kind in FLOORS:
            scale = np.maximum(scale, EPS * FLOORS[function.kind])
        scale = np.maximum(scale, 0.0 if function.kind == "exp" else TINY * EPS)
        error = np.where(finite, np.abs(actual - expected), 0.0) / scale
    worst = int(np.nanargmax(error))
    assert error[worst] <= ULPS.get(function.kind, 0.51 if function.kind not in FLOORS else 2.1), (
        f"{error[worst]:.2f} ulp at {x[worst]!r}: {actual[worst]!r} for {expected[worst]!r}"
    )
    assert np.isfinite(actual[finite]).all()


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.isa)
@pytest.mark.parametrize("function", ALL, ids=lambda function: function.kind)
def test_special_values(function: Activation, machine: Machine) -> None:
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 3.4e38, -3.4e38, 1e-45, -1e-45, 1.0, -1.0], np.float32)
    actual = run(machine, function, x)
    with np.errstate(all="ignore"):
        expected = truth(function, x).astype(np.float32)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected), str(x))
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.isa)
def test_relu_and_clip_keep_nan_and_sign(machine: Machine) -> None:
    x = np.array([np.nan, -0.0, 0.0, -1.0, 7.0], np.float32)
    assert np.isnan(run(machine, Activation("relu"), x)[0])
    assert np.isnan(run(machine, Activation("clip", (0.0, 6.0)), x)[0])
    np.testing.assert_array_equal(run(machine, Activation("relu"), x)[1:], [0, 0, 0, 7])
    np.testing.assert_array_equal(run(machine, Activation("clip", (0.0, 6.0)), x)[1:], [0, 0, 0, 6])
    np.testing.assert_array_equal(np.signbit(run(machine, Activation("neg"), x)[1:3]), [False, True])


def test_exp_rounds_denormals_and_overflows_at_the_right_place() -> None:
    x = np.array([-103.98, -103.9, -100.0, -87.4, 88.72283, 88.72284, 200.0, -200.0], np.float32)
    expected = np.exp(x.astype(np.float64))
    with np.errstate(over="ignore"):
        rounded = expected.astype(np.float32)
    actual = run(LOCAL, Activation("exp"), x)
    np.testing.assert_array_equal(np.isinf(actual), np.isinf(rounded))
    np.testing.assert_allclose(actual, rounded, rtol=2e-7, atol=1.5e-45)


@pytest.mark.parametrize(
    ("name", "polynomial", "function", "interval", "allowed"),
    [
        ("exp", (1.0, 1.0, *functions._EXP), np.exp, (-math.log(2) / 2, math.log(2) / 2), 0.3),
        (
            "exp of -r",
            (1.0, *functions._EXP_MINUS_SHORT),
            lambda r: np.exp(-r),
            (-math.log(2) / 64, math.log(2) / 64),
            1.0,
        ),
        ("log1p", (0.0, 1.0, -0.5, *functions._LOG), np.log1p, (math.sqrt(0.5) - 1, math.sqrt(2) - 1), 0.6),
        ("erf", tuple(c for q in functions._ERF for c in (0.0, q)), np.vectorize(math.erf), (0.0, 1.0), 1.2),
        ("log1p on [0, 1]", (0.0, *functions._LOG_ONE_PLUS), np.log1p, (0.0, 1.0), 0.6),
    ],
)
def test_polynomials_approximate_what_they_say(name, polynomial, function, interval, allowed) -> None:
    """The coefficients alone, in float64: a typing mistake in a digit shows here."""
    x = np.linspace(*interval, 20001)
    x = x[np.abs(x) > 1e-4]
    value = np.polynomial.polynomial.polyval(x, [float(np.float32(c)) for c in polynomial])
    error = np.abs(value / function(x) - 1) * 2**24
    assert error.max() <= allowed, name


POWERS = [0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0, -3.0, 2.5, 1e-3, 1e10, np.inf, -np.inf, np.nan, 1e-40, 3e38]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.isa)
def test_power(machine: Machine) -> None:
    a, b = (grid.ravel() for grid in np.meshgrid(np.float32(POWERS), np.float32(POWERS)))
    random = np.random.default_rng(3)
    a = np.concatenate([a, np.exp(random.uniform(-80, 80, 20000)).astype(np.float32)])
    b = np.concatenate([b, random.uniform(-3, 3, 20000).astype(np.float32)])
    with np.errstate(all="ignore"):
        exact = np.power(a.astype(np.float64), b.astype(np.float64))
        expected = exact.astype(np.float32)
    actual = run(machine, None, a, b)
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    np.testing.assert_array_equal(np.signbit(actual[~np.isnan(expected)]), np.signbit(expected[~np.isnan(expected)]))
    ok = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~ok & ~np.isnan(expected)], expected[~ok & ~np.isnan(expected)])
    ulp = np.abs(actual[ok] - exact[ok]) / np.spacing(np.abs(expected[ok])).astype(np.float64)
    assert ulp.max() < 0.6


@pytest.mark.parametrize("machine", CATALOGUE, ids=lambda machine: machine.name)
def test_nothing_is_called(machine: Machine) -> None:
    for function in [*ALL, None]:
        assembly = compile_assembly(Apply(function).emit("apply", machine), machine)
        assert not re.search(r"^\s+(call\w*|bl)\s", assembly, re.M), function


def test_cheap_functions_are_short() -> None:
    """No division, no root, at most eight instructions beside load, store and loop."""
    machine = CATALOGUE[0]
    for function in ALL:
        loop = inner_loop(compile_assembly(Apply(function).emit("apply", machine), machine))
        if functions.is_cheap(function):
            assert len(loop) <= 13, function
            assert not any("div" in line or "sqrt" in line for line in loop), function


@pytest.mark.parametrize(
    ("kind", "most"),
    [("gelu", 20), ("silu", 20), ("sigmoid", 20), ("exp", 20), ("tanh", 27), ("hard_swish", 12), ("relu", 7)],
)
def test_instructions(kind: str, most: int) -> None:
    """The inner loop with load, store and count, on the machine with the most registers."""
    machine = CATALOGUE[0]
    assert len(inner_loop(compile_assembly(Apply(Activation(kind)).emit("apply", machine), machine))) <= most


def inner_loop(assembly: str) -> list[str]:
    """Instructions between the last backward branch and its label."""
    lines = [line.strip() for line in assembly.splitlines()]
    for i in range(len(lines) - 1, -1, -1):
        jump = re.match(r"j\w+\s+(\.\w+)$", lines[i])
        if jump and f"{jump[1]}:" in lines[:i]:
            body = lines[lines.index(f"{jump[1]}:") + 1 : i + 1]
            return [line for line in body if line and not line.startswith((".", "#"))]
    raise AssertionError("no loop")
