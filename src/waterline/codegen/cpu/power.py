"""`power`: a^b on f32 vectors, computed in f64 so that the result is right to the last place or two.

With C's special cases (Annex F.10.4.4): x^0 = 1^y = 1 even for NaN, negative bases take whole exponents only, signed
zeros and infinities as limits say.
"""

from __future__ import annotations

import math

from llvmlite import ir

from waterline.codegen.cpu.emitter import F64, I64, Emitter, Value, suffix

MANTISSA_BITS = 52
EXPONENT_BIAS = 1023
ROUND_MAGIC = 1.5 * 2.0**52
# atanh(s) = s (1 + s^2 / 3 + s^4 / 5 + ...): with |s| <= 3 - 2 sqrt(2) eight terms leave 2^-40.
_ATANH_TERMS = 8
# 2^r = sum (r ln 2)^k / k!: with |r| <= 1/2 ten terms leave 2^-38.
_EXP_TERMS = 10
LIMIT = 300.0  # 2^300 overflows f32 and 2^-300 underflows it; f64 holds both


def power(e: Emitter, a: Value, c: Value) -> Value:
    """a^c for f32 vectors of any lanes. Error: 0.6 ulp of f32."""
    b = e.builder
    lanes = a.type.count
    double, integer = ir.VectorType(F64, lanes), ir.VectorType(I64, lanes)
    narrow = a.type

    def f64(value: float) -> ir.Constant:
        return ir.Constant(double, [value] * lanes)

    def i64(value: int) -> ir.Constant:
        return ir.Constant(integer, [value] * lanes)

    def size(value: Value) -> Value:
        return b.call(e.intrinsic(f"llvm.fabs.{suffix(double)}", double, [double]), [value])

    def horner(x: Value, coefficients: list[float]) -> Value:
        result = f64(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            result = b.fadd(b.fmul(result, x), f64(coefficient))
        return result

    def is_whole(value: Value) -> Value:
        """For values that are not negative: adding 2^52 leaves no bit for a fraction."""
        return b.fcmp_ordered("==", b.fsub(b.fadd(value, f64(2.0**52)), f64(2.0**52)), value)

    base, exponent = b.fpext(a, double), b.fpext(c, double)
    magnitude = size(base)

    # log2 of the magnitude: its exponent, and atanh of what is left in [sqrt(1/2), sqrt(2)).
    word = b.bitcast(magnitude, integer)
    n = b.ashr(b.sub(word, i64(0x3FE6A09E667F3BCD)), i64(MANTISSA_BITS))
    mantissa = b.bitcast(b.sub(word, b.shl(n, i64(MANTISSA_BITS))), double)
    s = b.fdiv(b.fsub(mantissa, f64(1.0)), b.fadd(mantissa, f64(1.0)))
    series = horner(b.fmul(s, s), [2 / math.log(2) / (2 * k + 1) for k in range(_ATANH_TERMS)])
    logarithm = b.fadd(_whole_to_f64(e, n), b.fmul(s, series))
    logarithm = b.select(b.fcmp_ordered("==", magnitude, f64(0.0)), f64(-math.inf), logarithm)
    logarithm = b.select(b.fcmp_ordered("==", magnitude, f64(math.inf)), f64(math.inf), logarithm)
    logarithm = b.select(b.fcmp_unordered("uno", base, base), base, logarithm)

    y = b.fmul(exponent, logarithm)
    is_one = b.fcmp_ordered("==", magnitude, f64(1.0))
    is_nought = b.fcmp_ordered("==", exponent, f64(0.0))
    y = b.select(b.or_(is_one, is_nought), f64(0.0), y)
    y = b.select(b.fcmp_ordered(">", y, f64(LIMIT)), f64(LIMIT), y)
    y = b.select(b.fcmp_ordered("<", y, f64(-LIMIT)), f64(-LIMIT), y)

    shifted = b.fadd(y, f64(ROUND_MAGIC))
    r = b.fsub(y, b.fsub(shifted, f64(ROUND_MAGIC)))
    mantissa = horner(r, [math.log(2) ** k / math.factorial(k) for k in range(_EXP_TERMS + 1)])
    scale = b.shl(b.add(b.bitcast(shifted, integer), i64(EXPONENT_BIAS)), i64(MANTISSA_BITS))
    result = b.fmul(mantissa, b.bitcast(scale, double))

    # The sign: whole odd exponents keep the base's, others take no negative base.
    span = size(exponent)
    whole = is_whole(span)
    odd = b.and_(whole, b.not_(is_whole(b.fmul(span, f64(0.5)))))
    has_sign = b.icmp_signed("<", b.bitcast(base, integer), i64(0))
    result = b.select(b.and_(odd, has_sign), b.fneg(result), result)
    is_finite = b.fcmp_ordered("<", magnitude, f64(math.inf))
    is_negative = b.and_(b.fcmp_ordered("<", base, f64(0.0)), is_finite)
    result = b.select(b.and_(is_negative, b.not_(whole)), f64(math.nan), result)
    always_one = b.or_(is_nought, b.fcmp_ordered("==", base, f64(1.0)))
    result = b.select(always_one, f64(1.0), result)
    return b.fptrunc(result, narrow)


def _whole_to_f64(e: Emitter, n: Value) -> Value:
    """An i64 of few bits as f64, by the bits of a large f64: most machines have no instruction for it."""
    b = e.builder
    lanes = n.type.count
    double = ir.VectorType(F64, lanes)
    magic_bits = ir.Constant(n.type, [0x4338000000000000] * lanes)
    magic = ir.Constant(double, [ROUND_MAGIC] * lanes)
    return b.fsub(b.bitcast(b.add(n, magic_bits), double), magic)
