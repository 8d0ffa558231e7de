"""Instructions of AVX-512 that elementary functions gain by: each does the work of two to six others.

LLVM has no generic intrinsic for any of them. All take whole vectors of 16 f32 lanes and round as the processor is
set. Definitions: Intel, Software Developer's Manual, volume 2C (VSCALEFPS, VRANGEPS, VFIXUPIMMPS, VPERMI2PS).
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from waterline.codegen.cpu.emitter import F32, I32, Emitter, Value

LANES = 16
TABLE_ELEMS = 2 * LANES
_FLOATS = ir.VectorType(F32, LANES)
_WHOLES = ir.VectorType(I32, LANES)
_MASK = ir.IntType(LANES)
_ALL = ir.Constant(_MASK, -1)
_NOTHING = ir.Constant(_FLOATS, [0.0] * LANES)
_ROUND_AS_SET = ir.Constant(I32, 4)
# VRANGEPS: the lesser size of both operands, without a sign.
_LESSER_SIZE_UNSIGNED = 0b1010
# VFIXUPIMMPS: four bits for each class of numbers (4: minus infinity, 6: other negative ones), 3: NaN, 8: plus zero.
_POSITIVE_PART = 3 << 4 * 4 | 8 << 4 * 6


def suits(e: Emitter, x: Value) -> bool:
    """Whether the instructions of this file may be used on a vector like `x`."""
    return e.machine.has_avx512 and x.type.count == LANES


def times_power(e: Emitter, x: Value, n: Value) -> Value:
    """x 2^floor(n) for any f32 n: infinity where it overflows, rounded denormals and 0 where it underflows."""
    name = "llvm.x86.avx512.mask.scalef.ps.512"
    function = e.intrinsic(name, _FLOATS, [_FLOATS, _FLOATS, _FLOATS, _MASK, I32])
    return e.builder.call(function, [x, n, _NOTHING, _ALL, _ROUND_AS_SET])


def bounded_size(e: Emitter, x: Value, bound: float) -> Value:
    """min(|x|, bound); NaN becomes the bound."""
    name = "llvm.x86.avx512.mask.range.ps.512"
    function = e.intrinsic(name, _FLOATS, [_FLOATS, _FLOATS, I32, _FLOATS, _MASK, I32])
    limit = ir.Constant(_FLOATS, [bound] * LANES)
    which = ir.Constant(I32, _LESSER_SIZE_UNSIGNED)
    return e.builder.call(function, [x, limit, which, _NOTHING, _ALL, _ROUND_AS_SET])


def positive_part(e: Emitter, x: Value) -> Value:
    """max(x, 0), but NaN at minus infinity; NaN passes through."""
    name = "llvm.x86.avx512.mask.fixupimm.ps.512"
    function = e.intrinsic(name, _FLOATS, [_FLOATS, _FLOATS, _WHOLES, I32, _MASK, I32])
    answers = ir.Constant(_WHOLES, [_POSITIVE_PART] * LANES)
    return e.builder.call(function, [x, x, answers, ir.Constant(I32, 0), _ALL, _ROUND_AS_SET])


def look_up(e: Emitter, table: Sequence[float], index: Value) -> Value:
    """table[index mod 32] for a table of 32 numbers and i32 indices."""
    assert len(table) == TABLE_ELEMS, "a table has 32 entries"
    function = e.intrinsic("llvm.x86.avx512.vpermi2var.ps.512", _FLOATS, [_FLOATS, _WHOLES, _FLOATS])
    halves = [ir.Constant(_FLOATS, list(table[first : first + LANES])) for first in (0, LANES)]
    return e.builder.call(function, [halves[0], index, halves[1]])
