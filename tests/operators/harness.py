"""Runs the calls of an operation on strided tensors between guards, and compares with the reference.

Inputs end at an unreadable page. Outputs start as NaN of a rare pattern, and what lies between and around their
elements must still have that pattern afterwards.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from waterline.codegen.cpu.jit import Library, compile_object
from waterline.codegen.cpu.kernel import Call, Input, Number, Output
from waterline.graph.ops import Op
from waterline.machine import Machine, detect
from waterline.operators import lower
from waterline.reference import evaluate
from waterline.spec import TensorView, channels_last

GUARD_BITS = 0x7FC5A5A5
GUARD_ELEMS = 64
ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)

LOCAL = detect()


def is_below(isa: str, machine: Machine) -> bool:
    order = ("sse2", "avx", "avx2", "avx512")
    return machine.arch == "x86_64" and order.index(isa) < order.index(machine.isa)


# This machine, and what is left of it without its wider vectors: all of them run here.
MACHINES = [LOCAL, *(LOCAL.restricted(isa) for isa in ("avx2", "avx", "sse2") if is_below(isa, LOCAL))]


def channel_counts() -> list[int]:
    """Around the widths of every machine's vectors."""
    lanes = LOCAL.lanes()
    return sorted({1, 3, lanes - 1, lanes, lanes + 1, 2 * lanes + 1, 5 * lanes + 2})


def with_specials(arrays: Sequence[np.ndarray], share: float = 0.05) -> list[np.ndarray]:
    """The arrays with NaN and infinities strewn in."""
    random = np.random.default_rng(5)
    copies = [array.copy() for array in arrays]
    for array in copies:
        for value in (np.nan, np.inf, -np.inf):
            array[random.random(array.shape) < share] = value
    return copies


def dense(shape: Sequence[int]) -> TensorView:
    return TensorView.dense(shape)


def nhwc(shape: Sequence[int]) -> TensorView:
    """The storage of networks: channels innermost."""
    return TensorView.dense(shape, channels_last(len(shape)))


def gapped(shape: Sequence[int], gap: int = 3) -> TensorView:
    """NHWC storage as a part of a wider concatenation of channels, in an arena that is longer than it."""
    if not shape:
        return dense(shape)
    order = channels_last(len(shape))
    wide = list(shape)
    wide[order[-1]] += gap
    view = TensorView.dense(wide, order)
    return TensorView(tuple(shape), view.strides)


def scrambled(shape: Sequence[int]) -> TensorView:
    """No unit stride, axes in reverse order: the batch is the innermost."""
    view = TensorView.dense(shape, tuple(reversed(range(len(shape)))))
    return TensorView(tuple(shape), tuple(3 * s for s in view.strides))


LAYOUTS = {"nhwc": nhwc, "dense": dense, "gapped": gapped, "scrambled": scrambled}


class GuardedInput:
    """`array` stored as `view` says; the page after its last element cannot be read."""

    def __init__(self, array: np.ndarray, view: TensorView) -> None:
        span = max(view.span_elems, 1)
        page = mmap.PAGESIZE
        size = -(-span * 4 // page) * page + page
        self.memory = mmap.mmap(-1, size)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        buffer = np.frombuffer(self.memory, np.float32)
        buffer[:] = np.nan
        start = (size - page) // 4 - span
        if view.elems:
            strided(buffer[start:], view)[...] = array
        protect = getattr(ctypes.CDLL(None), "mprotect", None)
        if protect is not None:
            assert protect(ctypes.c_void_p(base + size - page), ctypes.c_size_t(page), 0) == 0
        self.address = base + start * 4


class GuardedOutput:
    def __init__(self, view: TensorView) -> None:
        self.view = view
        self.words = np.full(view.span_elems + 2 * GUARD_ELEMS, GUARD_BITS, np.uint32)
        self.address = self.words.ctypes.data + GUARD_ELEMS * 4

    def values(self) -> np.ndarray:
        """The tensor; fails if anything else was written."""
        inside = np.zeros(self.words.shape, bool)
        strided(inside[GUARD_ELEMS:], self.view)[...] = True
        touched = np.flatnonzero((self.words != GUARD_BITS) & ~inside) - GUARD_ELEMS
        assert len(touched) == 0, f"written outside the tensor, at elements {touched[:8]}"
        missed = np.flatnonzero((self.words == GUARD_BITS) & inside) - GUARD_ELEMS
        assert len(missed) == 0, f"not written, at elements {missed[:8]}"
        return strided(self.words.view(np.float32)[GUARD_ELEMS:], self.view).copy()


def strided(buffer: np.ndarray, view: TensorView) -> np.ndarray:
    return np.lib.stride_tricks.as_strided(buffer, view.shape, [s * buffer.itemsize for s in view.strides])


_libraries: dict[str, tuple[Library, str]] = {}


def entry(call: Call, machine: Machine) -> ctypes._CFuncPtr:
    key = call.kernel.key(machine)
    if key not in _libraries:
        _libraries[key] = (Library([compile_object(call.kernel.emit(key, machine), machine)], [key]), key)
    library, symbol = _libraries[key]
    return ENTRY(library[symbol])


def execute(
    calls: Sequence[Call],
    arrays: Sequence[np.ndarray],
    inputs: Sequence[TensorView],
    output: TensorView,
    machine: Machine,
    splits: Sequence[float] = (),
) -> np.ndarray:
    """The output after all calls; `splits` are places in [0, 1] where each call's items are handed out apart."""
    sources = [GuardedInput(array, view) for array, view in zip(arrays, inputs, strict=True)]
    target = GuardedOutput(output)
    for call in calls:
        words = []
        for arg in call.args:
            match arg:
                case Input(index):
                    words.append(sources[index].address)
                case Output(0):
                    words.append(target.address)
                case Number(value):
                    words.append(value)
                case _:
                    raise AssertionError(f"operators have no {arg}")
        args = (ctypes.c_int64 * max(len(words), 1))(*words)
        scratch = np.full(call.scratch_bytes // 4 + 2 * GUARD_ELEMS + 16, GUARD_BITS, np.uint32)
        start = scratch.ctypes.data + GUARD_ELEMS * 4
        aligned = -(-start // 64) * 64
        first = (aligned - scratch.ctypes.data) // 4
        function = entry(call, machine)
        bounds = sorted({0, call.items, *(int(s * call.items) for s in splits)})
        pieces = list(itertools.pairwise(bounds))
        for begin, end in reversed(pieces):
            function(ctypes.addressof(args), begin, end, aligned)
        rest = np.concatenate([scratch[:first], scratch[first + -(-call.scratch_bytes // 4) :]])
        assert (rest == GUARD_BITS).all(), "written outside the scratch"
    return target.values()


@dataclass(frozen=True)
class Case:
    """An operation on tensors of given shapes and layouts (by name, or views); a seed follows from its text."""

    op: Op
    shapes: tuple[tuple[int, ...], ...]
    layouts: tuple[str, ...] = ()
    output_layout: str = ""

    def __str__(self) -> str:
        shapes = "_".join("x".join(map(str, shape)) for shape in self.shapes)
        return f"{self.op.name}-{shapes}-{'-'.join(self.layouts)}-{zlib.crc32(repr(self).encode()):08x}"

    def views(self) -> list[TensorView]:
        names = self.layouts or ("nhwc",)
        names = names + (names[-1],) * (len(self.shapes) - len(names))
        return [LAYOUTS[name](shape) for name, shape in zip(names, self.shapes, strict=True)]

    def output(self) -> TensorView:
        shape = self.op.infer(list(self.shapes))[0]
        return LAYOUTS[self.output_layout or (self.layouts or ("nhwc",))[0]](shape)

    def arrays(self) -> list[np.ndarray]:
        random = np.random.default_rng(zlib.crc32(repr(self).encode()))
        return [random.standard_normal(shape).astype(np.float32) for shape in self.shapes]


def check(
    case: Case,
    machine: Machine = LOCAL,
    *,
    arrays: Sequence[np.ndarray] | None = None,
    relative: float = 1e-6,
    absolute: float = 1e-6,
) -> np.ndarray:
    """Computes the case on `machine` twice, with its items handed out differently; both must be right and the same."""
    arrays = case.arrays() if arrays is None else arrays
    views, output = case.views(), case.output()
    calls = lower(case.op, views, [output], machine)
    actual = execute(calls, arrays, views, output, machine)
    again = execute(calls, arrays, views, output, machine, splits=(0.1, 0.5, 0.51, 0.9))
    assert actual.tobytes() == again.tobytes(), "the result depends on how the items are handed out"
    with np.errstate(all="ignore"):
        expected = evaluate(case.op, [np.asarray(a, np.float64) for a in arrays])
        rounded = expected.astype(np.float32)
    same = (actual == rounded) | (np.isnan(actual) & np.isnan(rounded))
    finite = np.isfinite(actual) & np.isfinite(expected)
    with np.errstate(all="ignore"):
        same |= finite & (np.abs(actual - expected) <= relative * np.abs(expected) + absolute)
    wrong = np.argwhere(~same)
    assert len(wrong) == 0, (
        f"{len(wrong)} of {same.size} wrong on {machine.isa}, first at {tuple(wrong[0])}: "
        f"{actual[tuple(wrong[0])]!r} for {expected[tuple(wrong[0])]!r}"
    )
    return actual
