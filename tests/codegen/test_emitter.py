"""The emitter's pieces: loops, carried values, masks and arithmetic, compiled for this machine and run."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable

import numpy as np
import pytest
from llvmlite import ir

from waterline.codegen.cpu.emitter import F32, I64, PTR, Emitter, suffix
from waterline.codegen.cpu.jit import Library, compile_assembly, compile_object
from waterline.machine import CATALOGUE, ISAS, Machine, detect

LOCAL = detect()
RESTRICTIONS = [isa for isa, (arch, needed, _) in ISAS.items() if arch == LOCAL.arch and needed <= LOCAL.features]
_names = itertools.count()


def emitted(body: Callable[[Emitter], None], machine: Machine, name: str, parameters: list[ir.Type]) -> str:
    module = ir.Module(name=name)
    module.triple = machine.target()[0]
    e = Emitter(module, machine, name, parameters)
    body(e)
    e.finish()
    return str(module)


def run(body: Callable[[Emitter], None], *arguments: object, machine: Machine = LOCAL) -> None:
    """Emits `f(arguments)` - arrays are pointers, whole numbers i64 -, compiles and calls it."""
    name = f"emitter_test_{next(_names)}"
    kinds = [PTR if isinstance(a, np.ndarray) else I64 for a in arguments]
    library = Library([compile_object(emitted(body, machine, name, kinds), machine)], [name])
    types = [ctypes.c_void_p if isinstance(a, np.ndarray) else ctypes.c_int64 for a in arguments]
    values = [a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments]
    ctypes.CFUNCTYPE(None, *types)(library[name])(*values)


# ---- loops ----------------------------------------------------------------------------------------------------------
RANGES = [
    (0, 0, 1),
    (0, 1, 1),
    (0, 5, 1),
    (3, 3, 1),
    (5, 3, 1),
    (-2, 2, 1),
    (0, 7, 3),
    (0, 9, 3),
    (2, 3, 8),
    (-5, -9, 2),
]


@pytest.mark.parametrize("limits", RANGES, ids=str)
@pytest.mark.parametrize("known", ["both", "start", "stop", "none"])
def test_loops_visit_what_range_visits(limits: tuple[int, int, int], known: str):
    """Limits that are constants and limits that are not give the same rounds, no round among them."""
    start, stop, step = limits

    def body(e: Emitter) -> None:
        out, first, last = e.arguments
        begin = start if known in ("both", "start") else first
        end = stop if known in ("both", "stop") else last
        with e.carried_loop(begin, end, step, [e.index(0)], name="visit") as loop:
            (count,) = loop.values
            e.store(loop.index, out, e.mul(e.add(count, 1), 8), 8)
            loop.carry([e.add(count, 1)])
        e.store(loop.results[0], out, 0, 8)

    out = np.full(32, -99, np.int64)
    run(body, out, start, stop)
    expected = list(range(start, stop, step))
    assert out[: out[0] + 1].tolist() == [len(expected), *expected]
    assert (out[len(expected) + 1 :] == -99).all()


def test_loops_nest():
    def body(e: Emitter) -> None:
        out, n = e.arguments
        with e.loop(0, n, name="i") as i, e.loop(0, i, name="j") as j:
            at = e.mul(e.add(e.mul(i, n), j), 8)
            e.store(e.add(e.mul(i, 100), j), out, at, 8)

    out = np.zeros((4, 4), np.int64)
    run(body, out, 4)
    assert out.tolist() == [[100 * i + j if j < i else 0 for j in range(4)] for i in range(4)]


def test_carried_values_may_cross():
    """Fibonacci: each round's values come from the round before, not from the one that is being made."""

    def body(e: Emitter) -> None:
        out, n = e.arguments
        with e.carried_loop(0, n, 1, [e.index(0), e.index(1)]) as loop:
            a, b = loop.values
            loop.carry([b, e.add(a, b)])
        e.store(loop.results[0], out, 0, 8)
        e.store(loop.results[1], out, 8, 8)

    for n, expected in ((0, [0, 1]), (1, [1, 1]), (10, [55, 89])):
        out = np.zeros(2, np.int64)
        run(body, out, n)
        assert out.tolist() == expected


def test_a_carried_loop_must_name_its_next_values():
    def body(e: Emitter) -> None:
        with e.carried_loop(0, 2, 1, [e.index(0)]):
            pass

    with pytest.raises(AssertionError, match="next values"):
        emitted(body, LOCAL, "f", [])


def test_when():
    def body(e: Emitter) -> None:
        out, n = e.arguments
        with e.loop(0, n) as i, e.when(e.builder.icmp_signed(">", e.mod(i, 3), e.index(1))):
            e.store(i, out, e.mul(i, 8), 8)

    out = np.full(7, -1, np.int64)
    run(body, out, 7)
    assert out.tolist() == [-1, -1, 2, -1, -1, 5, -1]


# ---- whole numbers --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("c", [0, 1, 2, 7])
@pytest.mark.parametrize("is_constant", [True, False])
def test_arithmetic_of_indices(c: int, is_constant: bool):
    """The shortcuts for 0 and 1 change nothing."""

    def body(e: Emitter) -> None:
        out, a, given = e.arguments
        other = c if is_constant else given
        results = [e.add(a, other), e.sub(a, other), e.mul(a, other), e.minimum(a, other), e.maximum(a, other)]
        if c:
            results += [e.div(a, other), e.mod(a, other)]
        results += [e.add(other, a), e.mul(other, a)]
        for i, value in enumerate(results):
            e.store(value, out, i * 8, 8)

    out = np.zeros(9, np.int64)
    run(body, out, 5, c)
    expected = [5 + c, 5 - c, 5 * c, min(5, c), max(5, c)] + ([5 // c, 5 % c] if c else []) + [5 + c, 5 * c]
    assert out.tolist() == expected + [0] * (9 - len(expected))


# ---- vectors --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("isa", RESTRICTIONS)
@pytest.mark.parametrize("start", [0, 1])
def test_masked_loads_and_stores_touch_only_their_elements(isa: str, start: int, forked):
    """`count` elements at any address; the page behind the last one is forbidden."""
    machine = LOCAL.restricted(isa)
    lanes = machine.lanes()
    mmap = pytest.importorskip("mmap")
    page = mmap.PAGESIZE
    for count in range(1, lanes + 1):
        memory = mmap.mmap(-1, 3 * page)
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        words = np.frombuffer(memory, np.float32)
        protect = ctypes.CDLL(None).mprotect
        for at in (0, 2 * page):
            assert protect(ctypes.c_void_p(base + at), ctypes.c_size_t(page), 0) == 0
        source = words[page // 4 : page // 4 + count] if start else words[2 * page // 4 - count : 2 * page // 4]
        source[:] = np.arange(1, count + 1)
        whole = np.full(lanes, -1, np.float32)

        def body(e: Emitter, count: int = count) -> None:
            x, y = e.arguments
            value = e.load_vector(x, 0, count)
            e.store_vector(value, y)  # the lanes that were not loaded are zero
            e.store_vector(e.builder.fadd(value, e.splat(10.0)), x, 0, count)

        name = f"masked_{isa}_{start}_{count}"
        library = Library([compile_object(emitted(body, machine, name, [PTR, PTR]), machine)], [name])
        function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(library[name])
        assert forked(lambda f=function, s=source, w=whole: f(s.ctypes.data, w.ctypes.data)) == "", count
        assert source.tolist() == list(range(11, count + 11))  # the child wrote shared memory
        function(source.ctypes.data, whole.ctypes.data)
        assert whole.tolist() == [*range(11, count + 11), *[0] * (lanes - count)]


@pytest.mark.parametrize("isa", RESTRICTIONS)
def test_splat_and_multiply_add(isa: str):
    machine = LOCAL.restricted(isa)
    a, b, c = 1 + 2**-12, 1 + 2**-12, -1 - 2**-11  # a b + c is 2^-24: lost where the product is rounded first

    def body(e: Emitter) -> None:
        out, x = e.arguments
        values = [e.splat(e.load(x, F32, 4 * i)) for i in range(3)]
        e.store_vector(e.multiply_add(*values), out)
        e.store_vector(e.splat(0.1), out, e.lanes * 4)
        e.store(e.multiply_add(*(e.load(x, F32, 4 * i) for i in range(3))), out, e.lanes * 8)

    lanes = machine.lanes()
    out = np.zeros(2 * lanes + 1, np.float32)
    run(body, out, np.array([a, b, c], np.float32), machine=machine)
    expected = 2.0**-24 if machine.has_fma else 0.0
    assert (out[:lanes] == expected).all()
    assert (out[lanes:-1] == np.float32(0.1)).all()
    assert out[-1] == expected


def test_prefetch_may_point_anywhere():
    def body(e: Emitter) -> None:
        e.prefetch(e.arguments[0], 1 << 40)
        e.prefetch(e.arguments[0], -4096, locality=1)

    run(body, np.zeros(1, np.float32))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (ir.VectorType(F32, 8), "v8f32"),
        (F32, "f32"),
        (ir.DoubleType(), "f64"),
        (ir.VectorType(ir.IntType(32), 4), "v4i32"),
        (I64, "i64"),
    ],
)
def test_suffixes_of_intrinsics(kind, text):
    assert suffix(kind) == text


# ---- compilation ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("machine", CATALOGUE, ids=lambda m: m.name)
def test_every_machine_gets_its_own_vectors(machine: Machine):
    """One multiply-add of a whole vector is one instruction (two without FMA), wherever this runs."""

    def body(e: Emitter) -> None:
        x = e.arguments[0]
        bytes_ = machine.vector_bytes
        values = [e.load_vector(x, i * bytes_) for i in range(3)]
        e.store_vector(e.multiply_add(*values), x)

    text = compile_assembly(emitted(body, machine, "f", [PTR]), machine)
    wanted = {
        "avx512": ("vfmadd", "%zmm"),
        "avx2": ("vfmadd", "%ymm"),
        "avx": ("vmulps", "%ymm"),
        "sse2": ("mulps", "%xmm"),
        "neon": ("fmla", ".4s"),
    }[machine.isa]
    lines = [line for line in text.splitlines() if wanted[0] in line]
    assert len(lines) == 1
    assert wanted[1] in lines[0]


def test_a_module_that_is_not_valid_is_not_compiled():
    with pytest.raises(RuntimeError):
        compile_object("define void @f() { ret i32 0 }", LOCAL)


def test_objects_of_several_libraries_may_have_the_same_name():
    """Each library is linked for itself: what one exports does not meet what another does."""
    libraries = []
    for value in (1, 2):

        def body(e: Emitter, value: int = value) -> None:
            e.store(e.index(value), e.arguments[0], 0, 8)

        libraries.append(Library([compile_object(emitted(body, LOCAL, "same_name", [PTR]), LOCAL)], ["same_name"]))
    out = np.zeros(1, np.int64)
    for value, library in enumerate(libraries, 1):
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(library["same_name"])(out.ctypes.data)
        assert out[0] == value
