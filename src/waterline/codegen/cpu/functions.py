"""Elementary functions on f32 vectors, written for being inlined: no calls, no branches, no tables in memory.

`apply` emits any activation on a vector of any number of lanes. NaN in gives NaN out, infinities give what the formula
gives (its limit, or NaN for infinity times 0). A result below the smallest normal number may be flushed to zero, except
by `exp`, which rounds it.

Every polynomial below was derived for this file: weighted least squares on 2000 to 3000 Chebyshev nodes, reweighted
(Lawson's iteration) until the error is level, then rounded to f32. The error of each is given relative to the
function, in units of 2^-24; tests measure what is left after rounding in f32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from llvmlite import ir

from waterline.codegen.cpu import avx512
from waterline.codegen.cpu.emitter import I32, Emitter, Value, suffix
from waterline.spec import Activation

LOG2_E = math.log2(math.e)
# ln 2 in two parts: the first has 9 significant bits, so that its product with an exponent is exact without FMA too.
LN2_HIGH = 355 / 512
LN2_LOW = math.log(2) - LN2_HIGH
# The same for machines with FMA, where the product is exact anyway: the f32 nearest to ln 2, and what is left.
LN2_NEAREST = 0.693147182464599609375
LN2_REST = math.log(2) - LN2_NEAREST
ROUND_MAGIC = 1.5 * 2**23  # adding it rounds an f32 to a whole number, which stands in the low bits of the sum
EXPONENT_BIAS = 127
MANTISSA_BITS = 23
EXP_OVERFLOW = 88.73  # above ln of the largest f32
EXP_UNDERFLOW = -103.98  # below ln of half the smallest denormal

# e^r = 1 + r + r^2 q(r) on |r| <= ln(2) / 2; error 0.06
_EXP = (0.49999994, 0.16666515, 0.041668456, 0.0083694188, 0.0013813145)
# e^-r = 1 + r q(r) on |r| <= ln(2) / 64; error 0.9
_EXP_MINUS_SHORT = (-1.0000146, 0.5)
_POWERS = tuple(2.0 ** (j / avx512.TABLE_ELEMS) for j in range(avx512.TABLE_ELEMS))
# log(1 + f) = f - f^2 / 2 + f^3 q(f) on [sqrt(1/2) - 1, sqrt(2) - 1]; error 0.1
_LOG = (0.33333331, -0.2500082, 0.20001227, -0.16623357, 0.14201757, -0.1316018, 0.12761577, -0.07634497)
# log(1 + u) = u q(u) on [0, 1]; error 0.08
_LOG_ONE_PLUS = (
    1.0,
    -0.499999017,
    0.333299637,
    -0.249541342,
    0.196759388,
    -0.153055921,
    0.106036529,
    -0.0569595173,
    0.0198514536,
    -0.00324402330,
)
# erf(z) = z q(z^2) on |z| <= 1; error 0.02
_ERF = (1.12837911, -0.37612626, 0.112835854, -0.0268538129, 0.00518832821, -0.000801019836, 7.85387601e-05)
# Phi(-a)^(1/8) = p(a) on [0, 6]; error of a p(a)^8 0.42 for a > 1, of p(a)^8 0.42 below: the rounding of p(0)
GELU_END = 6.0
_GELU = (
    0.917004049,
    -0.0914581865,
    -0.0319236666,
    -0.000682726735,
    0.00151757617,
    2.55311224e-05,
    -5.70836128e-05,
    6.89189937e-06,
    -2.52560199e-07,
)


# ---- building blocks ------------------------------------------------------------------------------------------------
def constant(x: Value, value: float) -> ir.Constant:
    """`value` in each lane of a vector like `x`."""
    return ir.Constant(x.type, [float(value)] * x.type.count)


def whole(x: Value, value: int) -> ir.Constant:
    """The i32 `value` in each lane of a vector with as many lanes as `x`."""
    return ir.Constant(ir.VectorType(I32, x.type.count), [value] * x.type.count)


def bits(e: Emitter, x: Value) -> Value:
    return e.builder.bitcast(x, ir.VectorType(I32, x.type.count))


def from_bits(e: Emitter, x: Value) -> Value:
    return e.builder.bitcast(x, e.vector_type(x.type.count))


def call(e: Emitter, name: str, *values: Value) -> Value:
    """A generic intrinsic of LLVM that is one instruction (or a few) on every machine."""
    kind = values[0].type
    function = e.intrinsic(f"llvm.{name}.{suffix(kind)}", kind, [kind] * len(values))
    return e.builder.call(function, list(values))


def above(e: Emitter, bound: Value, x: Value) -> Value:
    """max(bound, x); NaN in x passes through, `bound` is a number. One instruction on x86."""
    return e.builder.select(e.builder.fcmp_ordered(">", bound, x), bound, x)


def below(e: Emitter, bound: Value, x: Value) -> Value:
    """min(bound, x); NaN in x passes through, `bound` is a number. One instruction on x86."""
    return e.builder.select(e.builder.fcmp_ordered("<", bound, x), bound, x)


def is_nan(e: Emitter, a: Value, c: Value | None = None) -> Value:
    """Lanes where `a` (or `c`) is NaN."""
    return e.builder.fcmp_unordered("uno", a, a if c is None else c)


def maximum(e: Emitter, a: Value, c: Value) -> Value:
    """The greater; NaN where either is NaN."""
    if e.machine.arch == "aarch64":
        return call(e, "maximum", a, c)
    return e.builder.select(is_nan(e, a), a, above(e, a, c))


def minimum(e: Emitter, a: Value, c: Value) -> Value:
    """The lesser; NaN where either is NaN."""
    if e.machine.arch == "aarch64":
        return call(e, "minimum", a, c)
    return e.builder.select(is_nan(e, a), a, below(e, a, c))


def polynomial(e: Emitter, x: Value, coefficients: Sequence[float]) -> Value:
    """coefficients[0] + coefficients[1] x + ... by Horner's rule."""
    result = constant(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = e.multiply_add(result, x, constant(x, coefficient))
    return result


def _split_exponent(e: Emitter, x: Value) -> tuple[Value, Value]:
    """e^x = 2^n e^r: (n + ROUND_MAGIC, r) for |x| < 2^20; n is whole and |r| <= ln(2) / 2."""
    shifted = e.multiply_add(x, constant(x, LOG2_E), constant(x, ROUND_MAGIC))
    n = e.builder.fsub(shifted, constant(x, ROUND_MAGIC))
    r = e.multiply_add(n, constant(x, -LN2_HIGH), x)
    return shifted, e.multiply_add(n, constant(x, -LN2_LOW), r)


def _exp_minus_one_reduced(e: Emitter, r: Value) -> Value:
    """e^r - 1 for |r| <= ln(2) / 2, accurate near 0."""
    q = polynomial(e, r, _EXP)
    return e.multiply_add(e.builder.fmul(r, r), q, r)


def _power_of_two(e: Emitter, shifted: Value) -> Value:
    """2^n from n + ROUND_MAGIC, for -127 < n < 128. The shift drops all of the sum but n."""
    exponent = e.builder.add(bits(e, shifted), whole(shifted, EXPONENT_BIAS))
    return from_bits(e, e.builder.shl(exponent, whole(shifted, MANTISSA_BITS)))


def _exp_minus_one(e: Emitter, x: Value) -> tuple[Value, Value]:
    """(s, t) with e^x - 1 = s t + (s - 1), accurate near 0 too, for -87 < x < 88; s = 2^n."""
    shifted, r = _split_exponent(e, x)
    return _power_of_two(e, shifted), _exp_minus_one_reduced(e, r)


# ---- functions ------------------------------------------------------------------------------------------------------
def exp(e: Emitter, x: Value) -> Value:
    """e^x over the whole range: infinity above, rounded denormals and 0 below."""
    b = e.builder
    if avx512.suits(e, x):
        x = below(e, constant(x, EXP_OVERFLOW), x)
        shifted, r = _split_exponent(e, x)
        p = b.fadd(_exp_minus_one_reduced(e, r), constant(x, 1.0))
        # 0 times a power of two is free; a product that underflows to 0 takes 200 cycles.
        p = b.select(b.fcmp_ordered("<", x, constant(x, EXP_UNDERFLOW)), constant(x, 0.0), p)
        return avx512.times_power(e, p, b.fsub(shifted, constant(x, ROUND_MAGIC)))
    x = clip(e, x, EXP_UNDERFLOW, EXP_OVERFLOW)
    shifted, r = _split_exponent(e, x)
    p = b.fadd(_exp_minus_one_reduced(e, r), constant(x, 1.0))
    # n reaches from -150 to 128, which no exponent field holds: 2^n in two factors, each of half the exponent.
    n = b.sub(bits(e, shifted), whole(x, _MAGIC_BITS))
    half = b.ashr(n, whole(x, 1))
    rest = b.sub(n, half)
    for part in (half, rest):
        exponent = b.shl(b.add(part, whole(x, EXPONENT_BIAS)), whole(x, MANTISSA_BITS))
        p = b.fmul(p, from_bits(e, exponent))
    return p


_MAGIC_BITS = 0x4B400000  # ROUND_MAGIC as an i32


def exp_minus_one(e: Emitter, x: Value) -> Value:
    """e^x - 1 for x <= 88, accurate near 0; -1 far below."""
    x = above(e, constant(x, -30.0), x)
    s, t = _exp_minus_one(e, x)
    return e.multiply_add(s, t, e.builder.fsub(s, constant(x, 1.0)))


def log(e: Emitter, x: Value) -> Value:
    """Natural logarithm: log(0) = -inf, NaN below 0, denormals are exact inputs."""
    b = e.builder
    tiny = b.fcmp_ordered("<", x, constant(x, 2.0**-126))
    y = b.select(tiny, b.fmul(x, constant(x, 2.0**MANTISSA_BITS)), x)
    raised = b.select(tiny, constant(x, -float(MANTISSA_BITS)), constant(x, 0.0))
    # Subtracting the bits of sqrt(1/2) leaves the exponent of a mantissa in [sqrt(1/2), sqrt(2)) above the fraction.
    root_half = whole(x, 0x3F3504F3)
    offset = b.sub(bits(e, y), root_half)
    n = b.ashr(offset, whole(x, MANTISSA_BITS))
    mantissa = from_bits(e, b.sub(bits(e, y), b.shl(n, whole(x, MANTISSA_BITS))))
    exponent = b.fadd(b.sitofp(n, x.type), raised)
    f = b.fsub(mantissa, constant(x, 1.0))
    square = b.fmul(f, f)
    tail = b.fmul(b.fmul(square, f), polynomial(e, f, _LOG))
    tail = e.multiply_add(exponent, constant(x, LN2_LOW), tail)
    tail = e.multiply_add(square, constant(x, -0.5), tail)
    result = e.multiply_add(exponent, constant(x, LN2_HIGH), b.fadd(f, tail))
    # 0, infinity, negative numbers and NaN have no mantissa to speak of.
    result = b.select(b.fcmp_ordered("==", x, constant(x, 0.0)), constant(x, -math.inf), result)
    result = b.select(b.fcmp_ordered("==", x, constant(x, math.inf)), x, result)
    return b.select(b.fcmp_unordered("<", x, constant(x, 0.0)), constant(x, math.nan), result)


def sigmoid(e: Emitter, x: Value) -> Value:
    """1 / (1 + e^-x)."""
    return e.builder.fdiv(constant(x, 1.0), _one_plus_exp_minus(e, x))


def silu(e: Emitter, x: Value) -> Value:
    """x / (1 + e^-x): accurate to the ends of the tail, where the sigmoid alone would be denormal."""
    return e.builder.fdiv(x, _one_plus_exp_minus(e, x))


def _one_plus_exp_minus(e: Emitter, x: Value) -> Value:
    """1 + e^-x; e^-x that vanishes beside 1 is not computed exactly, infinity where it overflows."""
    b = e.builder
    if avx512.suits(e, x):
        return b.fadd(_exp_minus_by_table(e, clip(e, x, -EXP_OVERFLOW, 30.0)), constant(x, 1.0))
    y = below(e, constant(x, EXP_OVERFLOW), above(e, constant(x, -30.0), b.fneg(x)))
    shifted, r = _split_exponent(e, y)
    p = b.fadd(_exp_minus_one_reduced(e, r), constant(x, 1.0))
    # n may be 128: 2^(n-1) is a number, and doubling the product overflows just where e^-x does.
    half_power = b.shl(b.add(bits(e, shifted), whole(x, EXPONENT_BIAS - 1)), whole(x, MANTISSA_BITS))
    return e.multiply_add(b.fadd(p, p), from_bits(e, half_power), constant(x, 1.0))


def _exp_minus_by_table(e: Emitter, x: Value) -> Value:
    """e^-x = 2^n 2^(j/32) e^r with |r| <= ln(2) / 64, for |x| < 2^17 on AVX-512; error 2 ulp.

    After Tang, Table-driven implementation of the exponential function, ACM TOMS 15 (1989). The table leaves a
    polynomial of degree 2, and infinity comes of itself. Denormals would too, but take 200 cycles a vector.
    """
    b = e.builder
    shifted = e.multiply_add(x, constant(x, -LOG2_E), constant(x, ROUND_MAGIC / avx512.TABLE_ELEMS))
    n = b.fsub(shifted, constant(x, ROUND_MAGIC / avx512.TABLE_ELEMS))  # a multiple of 1/32
    r = e.multiply_add(n, constant(x, LN2_NEAREST), x)  # the sign is that of x: minus r
    r = e.multiply_add(n, constant(x, LN2_REST), r)
    power = avx512.look_up(e, _POWERS, bits(e, shifted))
    grown = b.fmul(r, polynomial(e, r, _EXP_MINUS_SHORT))
    return avx512.times_power(e, e.multiply_add(power, grown, power), n)


def tanh(e: Emitter, x: Value) -> Value:
    """(e^2|x| - 1) / (e^2|x| + 1) with the sign of x; 1 from |x| = 9.02 on."""
    b = e.builder
    size = below(e, constant(x, 9.02), call(e, "fabs", x))
    s, t = _exp_minus_one(e, b.fadd(size, size))
    grown = e.multiply_add(s, t, b.fsub(s, constant(x, 1.0)))
    return call(e, "copysign", b.fdiv(grown, b.fadd(grown, constant(x, 2.0))), x)


def _normal_tail(e: Emitter, a: Value) -> Value:
    """Phi(-a) = erfc(a / sqrt(2)) / 2 for 0 <= a <= GELU_END."""
    p = polynomial(e, a, _GELU)
    for _ in range(3):
        p = e.builder.fmul(p, p)
    return p


def erf(e: Emitter, x: Value) -> Value:
    """An odd polynomial up to 1, from there one minus the normal distribution's tails."""
    b = e.builder
    size = call(e, "fabs", x)
    near = b.fmul(x, polynomial(e, b.fmul(x, x), _ERF))
    a = below(e, constant(x, GELU_END), b.fmul(size, constant(x, math.sqrt(2))))
    far = call(e, "copysign", e.multiply_add(_normal_tail(e, a), constant(x, -2.0), constant(x, 1.0)), x)
    return b.select(b.fcmp_ordered("<", size, constant(x, 1.0)), near, far)


def gelu(e: Emitter, x: Value) -> Value:
    """x Phi(x) = max(x, 0) - |x| Phi(-|x|), without a division or an exponential.

    The second term is even, and the eighth root of Phi(-a) is nearly straight: a polynomial of degree 8 and three
    squarings. Error: 2.5 units of 2^-24 for x > 1, in total 2.4 * 2^-24 below; for x <= -6 the result is 0 to 1e-8. At
    minus infinity the product is infinity times 0, as in every library.
    """
    b = e.builder
    if avx512.suits(e, x):
        a = avx512.bounded_size(e, x, GELU_END)
        return e.multiply_add(b.fneg(a), _normal_tail(e, a), avx512.positive_part(e, x))
    a = below(e, constant(x, GELU_END), call(e, "fabs", x))
    y = e.multiply_add(b.fneg(a), _normal_tail(e, a), above(e, constant(x, 0.0), x))
    return b.select(b.fcmp_ordered("==", x, constant(x, -math.inf)), constant(x, math.nan), y)


def gelu_tanh(e: Emitter, x: Value) -> Value:
    """x / 2 (1 + tanh(u)) = x sigmoid(2 u) with u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    b = e.builder
    square = b.fmul(x, x)
    double = 2 * math.sqrt(2 / math.pi)
    factor = e.multiply_add(square, constant(x, double * 0.044715), constant(x, double))
    return b.fdiv(x, _one_plus_exp_minus(e, b.fmul(x, factor)))


def softplus(e: Emitter, x: Value) -> Value:
    """log(1 + e^x) = max(x, 0) + log(1 + e^-|x|)."""
    b = e.builder
    u = exp(e, b.fneg(call(e, "fabs", x)))
    return e.multiply_add(u, polynomial(e, u, _LOG_ONE_PLUS), above(e, constant(x, 0.0), x))


def mish(e: Emitter, x: Value) -> Value:
    """x tanh(log(1 + e^x)) = x n / (n + 2) with n = e^x (e^x + 2); above 20 the factor is 1."""
    b = e.builder
    u = exp(e, below(e, constant(x, 20.0), x))
    n = b.fmul(u, b.fadd(u, constant(x, 2.0)))
    return b.fmul(x, b.fdiv(n, b.fadd(n, constant(x, 2.0))))


def round_down(e: Emitter, x: Value, name: str) -> Value:
    """`floor` or `ceil`."""
    b = e.builder
    if e.machine.arch != "x86_64" or "sse4.1" in e.machine.features:
        return call(e, name, x)
    # SSE2 has no such instruction: truncate, correct by one, keep the sign of zero and what is whole anyway.
    whole_part = b.sitofp(b.fptosi(x, ir.VectorType(I32, x.type.count)), x.type)
    relation, step = (">", -1.0) if name == "floor" else ("<", 1.0)
    wrong = b.fcmp_ordered(relation, whole_part, x)
    result = b.fadd(whole_part, b.select(wrong, constant(x, step), constant(x, 0.0)))
    is_small = b.fcmp_ordered("<", call(e, "fabs", x), constant(x, 2.0**MANTISSA_BITS))
    return b.select(is_small, call(e, "copysign", result, x), x)


def clip(e: Emitter, x: Value, low: float, high: float) -> Value:
    return below(e, constant(x, high), above(e, constant(x, low), x))


def _leaky_relu(e: Emitter, x: Value, alpha: float) -> Value:
    positive = e.builder.fcmp_ordered(">", x, constant(x, 0.0))
    return e.builder.select(positive, x, e.builder.fmul(x, constant(x, alpha)))


def _hard_sigmoid(e: Emitter, x: Value, alpha: float, beta: float) -> Value:
    return clip(e, e.multiply_add(x, constant(x, alpha), constant(x, beta)), 0.0, 1.0)


def _elu(e: Emitter, x: Value, alpha: float, gamma: float = 1.0) -> Value:
    b = e.builder
    grown = b.fmul(exp_minus_one(e, below(e, constant(x, 0.0), x)), constant(x, alpha * gamma))
    positive = x if gamma == 1.0 else b.fmul(x, constant(x, gamma))
    return b.select(b.fcmp_ordered(">", x, constant(x, 0.0)), positive, grown)


def _softsign(e: Emitter, x: Value) -> Value:
    return e.builder.fdiv(x, e.builder.fadd(call(e, "fabs", x), constant(x, 1.0)))


_CHEAP: dict[str, Callable[..., Value]] = {
    "relu": lambda e, x: above(e, constant(x, 0.0), x),
    "leaky_relu": _leaky_relu,
    "clip": clip,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": lambda e, x: e.builder.fmul(x, _hard_sigmoid(e, x, 1 / 6, 0.5)),
    "abs": lambda e, x: call(e, "fabs", x),
    "neg": lambda e, x: e.builder.fneg(x),
    "square": lambda e, x: e.builder.fmul(x, x),
    "floor": lambda e, x: round_down(e, x, "floor"),
    "ceil": lambda e, x: round_down(e, x, "ceil"),
}

_COSTLY: dict[str, Callable[..., Value]] = {
    "sigmoid": sigmoid,
    "silu": silu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "tanh": tanh,
    "elu": _elu,
    "selu": _elu,
    "softplus": softplus,
    "softsign": _softsign,
    "mish": mish,
    "exp": exp,
    "log": log,
    "sqrt": lambda e, x: call(e, "sqrt", x),
    "erf": erf,
    "reciprocal": lambda e, x: e.builder.fdiv(constant(x, 1.0), x),
}


def is_cheap(activation: Activation) -> bool:
    """A few simple instructions: no polynomial, division or root."""
    return activation.kind in _CHEAP


def apply(e: Emitter, activation: Activation, x: Value) -> Value:
    """The activation of each lane of the f32 vector `x`."""
    function = _CHEAP.get(activation.kind) or _COSTLY[activation.kind]
    return function(e, x, *activation.params)
