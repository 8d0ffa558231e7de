"""How far from the truth arithmetic may be, and the comparison with it.

One layer. A sum of d products in floating point, in any order, with or without fused multiply-adds, differs from the
exact sum by at most `gamma_d sum |x||w|`, gamma_d = d u / (1 - d u), u the unit roundoff (Higham, *Accuracy and
Stability of Numerical Algorithms*, 2nd ed., section 3.1). `conv_bound` is `factor * eps * (d + 2) * (|x|*|w| + |bias|)`
with eps = 2u, carried through residual and activations: direct summation meets it with factor 1 and another factor of
two to spare. An algorithm that computes something else than the direct sum (Winograd, FFT) states its own factor, and
that it mixes the pixels of a tile, and with them their errors: then |x|*|w| is the largest of the image and its
margins, since a window that sees little or nothing but padding has the rounding of its neighbours' sums in its own.

A network. The same bound, layer after layer, grows with the product of the weights' norms and says nothing after ten
layers. Rounding errors are small and almost independent, so `network_bound` measures instead of bounding: it runs the
network in float64 with noise of the size that f32 rounding has added to every node's result (Monte Carlo arithmetic:
Parker, *Monte Carlo arithmetic*, UCLA CSD-970002, 1997), and allows `slack` times the largest deviation seen.
A rounding is a relative error evenly spread over [-u, u], of variance u^2 / 3. Where d products of mean square s are
summed one after the other, the i-th partial sum has the mean square i s, so the variances of the roundings add up to
d^2 s u^2 / 6: the noise has the standard deviation `factor u sqrt(d / 6 sum x^2 w^2)`. This is the square-root law of
probabilistic error analysis (Higham and Mary, SIAM J. Sci. Comput. 41(5), 2019) with the products' own size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from waterline.errors import InvalidArgument
from waterline.graph import Graph, Node
from waterline.graph.ops import Concat, Conv, ConvTranspose, Expand, Linear, MatMul, Op, Pad, Reshape, Slice, Transpose
from waterline.reference.convolution import correlate, split_epilogue
from waterline.reference.elementwise import activate
from waterline.reference.evaluation import evaluate, run, walk
from waterline.spec import Activation, ConvSpec, Epilogue

Array = np.ndarray

# The spacing of numbers at one (twice the unit roundoff) of the type that sums are kept in, and of the type of storage.
SUM_EPS = {"f32": 2.0**-23, "tf32": 2.0**-23, "bf16": 2.0**-23, "f16": 2.0**-23, "i8": 0.0}
# f32: the sum's type, nothing is lost on storing.
STORE_EPS = {"f32": 0.0, "tf32": 0.0, "bf16": 2.0**-7, "f16": 2.0**-10, "i8": 0.0}
# Of what enters a product: weights are rounded to the type of storage, and in tf32 both operands to 10 bits.
OPERAND_EPS = {"f32": 0.0, "tf32": 2.0**-10, "bf16": 2.0**-7, "f16": 2.0**-10, "i8": 0.0}
TINY = 2.0**-126  # what a result may lose below the normal numbers of f32: the model above leaves underflow out
ACTIVATION_ULPS = 4  # an activation's own evaluation: this many eps of its argument and of its result
SLACK = 4.0
FLOAT32_MAX = float(np.finfo(np.float32).max)
MOVEMENT = (Concat, Expand, Pad, Reshape, Slice, Transpose)  # exact: they compute nothing


# ---- one layer ------------------------------------------------------------------------------------------------------
def conv_bound(
    spec: ConvSpec,
    x: Array,
    weight: Array,
    factor: float = 1.0,
    *,
    bias: Array | None = None,
    residual: Array | None = None,
    mixes_pixels: bool = False,
) -> Array:
    """The largest error allowed to each element of `conv2d(x, weight, bias, spec, residual)`.

    Args:
        factor, mixes_pixels: what the algorithm states about itself; 1 and False are direct summation in any order.

    Returns:
        (N, K, P, Q), float64, not negative. NaN where an infinite or NaN operand makes a bound meaningless.
    """
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    epilogue, eps = spec.epilogue, SUM_EPS[spec.dtype]
    with np.errstate(all="ignore"):
        value = correlate(x, weight, spec)
        magnitude = correlate(np.abs(x), np.abs(weight), with_margins(spec) if mixes_pixels else spec)
        if mixes_pixels:
            magnitude = np.broadcast_to(magnitude.max(axis=(2, 3), keepdims=True), value.shape)
        if bias is not None:
            shift = np.asarray(bias, np.float64)[:, None, None]
            value, magnitude = value + shift, magnitude + np.abs(shift)
        depth = spec.group_c * spec.taps  # inserted zeros count: an upper bound is wanted
        error = (depth + 2) * (factor * eps * magnitude + (TINY if eps else 0.0)) + OPERAND_EPS[spec.dtype] * magnitude
        value, error = activation_bound(epilogue.before, value, error, eps)
        if residual is not None:
            value = value + residual
            error = error + eps * (np.abs(value) + np.abs(residual))
        value, error = activation_bound(epilogue.after, value, error, eps)
        return error + STORE_EPS[spec.dtype] * np.abs(value)


def with_margins(spec: ConvSpec) -> ConvSpec:
    """The layer with every window that meets the image, wherever the stride and the padding put those of the layer."""
    rows, columns = spec.dilation[0] * (spec.r - 1), spec.dilation[1] * (spec.s - 1)
    return replace(spec, stride=(1, 1), pad=(rows, columns, rows, columns), epilogue=Epilogue())


def activation_bound(function: Activation | None, value: Array, error: Array, eps: float) -> tuple[Array, Array]:
    """The activation's value, and the bound on its result for an argument that may be off by `error`.

    The ends of the interval `value +- error` bound a monotone function exactly. One that has its extremum inside (silu,
    gelu, mish, hard_swish, square, abs) exceeds them by less than error^2, as its curvature there is at most 2.
    """
    if function is None:
        return value, error
    result = activate(function, value)
    ends = [np.abs(activate(function, value + sign * error) - result) for sign in (-1, 1)]
    spread = np.maximum(*ends) + np.square(error)
    return result, spread + ACTIVATION_ULPS * eps * (np.abs(value) + np.abs(result))


# ---- a network ------------------------------------------------------------------------------------------------------
def network_bound(
    graph: Graph,
    inputs: Mapping[str, Array],
    factors: Mapping[str, float] | None = None,
    *,
    trials: int = 2,
    slack: float = SLACK,
    seed: int = 0,
    dtype: str = "f32",
) -> dict[str, float]:
    """For every output the largest absolute error allowed to an engine: `slack` times the noise that arrives there.

    Args:
        dtype: that the engine stores tensors in, and rounds operands of products to; it sums in f32.
        factors: node name -> the factor of the algorithm that computes it, 1 where absent.
        trials: noisy runs; the largest deviation of all counts.
        seed: of the noise. Same seed, same bound.

    The cost is `1 + 2 trials` runs of the reference.
    """
    if trials < 1:
        raise InvalidArgument(f"trials is {trials}: at least one noisy run is needed")
    exact = run(graph, inputs)
    bounds = dict.fromkeys(exact, 0.0)
    for trial in range(trials):
        random = np.random.default_rng((seed, trial))

        def disturbed(node: Node, values: list[Array], random: np.random.Generator = random) -> Array:
            return with_noise(node.op, values, (factors or {}).get(node.name, 1.0), random, dtype)

        given = {name: rounded(value, dtype, random) for name, value in inputs.items()}
        noisy = walk(graph, given, (), disturbed)
        for name, value in exact.items():
            with np.errstate(invalid="ignore"):
                deviation = np.abs(noisy[name] - value)
            finite = deviation[np.isfinite(deviation)]
            bounds[name] = max(bounds[name], slack * float(finite.max(initial=0.0)))
    return bounds


def rounded(value: Array, dtype: str, random: np.random.Generator) -> Array:
    """With the noise of being stored in a type."""
    unit = STORE_EPS[dtype] / 2
    if not unit:
        return value
    return value + unit / math.sqrt(3) * np.abs(value) * random.standard_normal(np.shape(value))


def with_noise(op: Op, inputs: list[Array], factor: float, random: np.random.Generator, dtype: str = "f32") -> Array:
    """The value of `op` as a computation in f32 with a random rounding error might give it, stored in `dtype`."""
    if isinstance(op, MOVEMENT):
        return evaluate(op, inputs)
    unit = SUM_EPS["f32"] / 2
    with np.errstate(all="ignore"):
        if isinstance(op, (Conv, ConvTranspose, Linear, MatMul)):
            bare, depth = without_epilogue(op, inputs)
            operands = inputs[:2]
            total = evaluate(bare, operands)
            squares = evaluate(bare, [np.square(v) for v in operands])
            # Of each product two factors are off by up to half an eps.
            variance = np.square(factor * unit) * depth / 6 + 2 * (OPERAND_EPS[dtype] / 2) ** 2 / 3
            total = total + np.sqrt(variance * squares) * random.standard_normal(total.shape)
            return rounded(finish(op, total, inputs[2:]), dtype, random)
        value = evaluate(op, inputs)
        value = value + unit / math.sqrt(3) * np.abs(value) * random.standard_normal(value.shape)
        return rounded(value, dtype, random)


def without_epilogue(op: Op, inputs: list[Array]) -> tuple[Op, int]:
    """The bare sum of products, and how many products an element sums."""
    weight = inputs[1]
    if isinstance(op, ConvTranspose):
        return replace(op, bias=False), weight.shape[0] // op.groups * weight.shape[2] * weight.shape[3]
    if isinstance(op, (Conv, Linear)):
        return replace(op, epilogue=Epilogue()), math.prod(weight.shape[1:])
    return op, inputs[0].shape[-1]


def finish(op: Op, total: Array, rest: list[Array]) -> Array:
    """What follows the sum of products: bias, activations, residual."""
    if isinstance(op, ConvTranspose) and op.bias:
        return total + rest[0][:, None, None]
    if not isinstance(op, (Conv, Linear)):
        return total
    bias, residual = split_epilogue(op.epilogue, tuple(rest))
    if bias is not None:
        total = total + (bias[:, None, None] if isinstance(op, Conv) else bias)
    total = activate(op.epilogue.before, total)
    return activate(op.epilogue.after, total if residual is None else total + residual)


# ---- comparison -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        max_error: the largest absolute difference among finite elements.
        ratio: the largest of difference / bound.
        where: index of the element with the largest ratio, or of the first disagreement; empty if none is compared.
        actual, expected: the values there.
        disagreements: elements that are NaN or infinite on one side only, or infinite with another sign.
    """

    max_error: float
    ratio: float
    where: tuple[int, ...]
    actual: float
    expected: float
    disagreements: int

    @property
    def is_within(self) -> bool:
        return self.disagreements == 0 and self.ratio <= 1

    def __str__(self) -> str:
        text = f"max error {self.max_error:.3g}, {self.ratio:.3g} of the bound"
        if self.disagreements:
            text = f"{self.disagreements} elements disagree about NaN or infinity; {text}"
        return f"{text}; at {self.where} {self.actual!r} for {self.expected!r}"


def compare(actual: Array, expected: Array, bound: Array | float) -> Comparison:
    """Compare a result with the float64 truth.

    Args:
        actual: any float type. expected: float64, the same shape. bound: a number, or one for each element.

    An element whose true value exceeds the largest finite number of `actual`'s type may be infinite there.

    Raises:
        InvalidArgument: the shapes differ.
    """
    if np.shape(actual) != np.shape(expected):
        raise InvalidArgument(f"the result has the shape {np.shape(actual)}, the truth {np.shape(expected)}")
    actual, expected = np.asarray(actual), np.asarray(expected, np.float64)
    if expected.size == 0:
        return Comparison(0.0, 0.0, (), 0.0, 0.0, 0)
    largest = float(np.finfo(actual.dtype).max) if actual.dtype.kind == "f" else FLOAT32_MAX
    actual = actual.astype(np.float64)
    bound = np.broadcast_to(np.asarray(bound, np.float64), expected.shape)
    with np.errstate(all="ignore"):
        finite = np.isfinite(actual) & np.isfinite(expected)
        overflowed = np.isinf(actual) & (np.copysign(np.abs(expected) + bound, expected) * np.sign(actual) >= largest)
        same = finite | (actual == expected) | (np.isnan(actual) & np.isnan(expected)) | overflowed
        error = np.where(finite, np.abs(actual - expected), 0.0)
        # No error needs no bound (0 / 0); any error over a bound of zero or NaN is infinitely too much.
        ratio = np.where(error == 0, 0.0, np.nan_to_num(error / bound, nan=np.inf, posinf=np.inf))
    wrong = np.flatnonzero(~same)
    where = np.unravel_index(wrong[0] if len(wrong) else int(ratio.argmax()), expected.shape)
    return Comparison(
        max_error=float(error.max()),
        ratio=float(ratio.max()),
        where=tuple(int(i) for i in where),
        actual=float(actual[where]),
        expected=float(expected[where]),
        disagreements=len(wrong),
    )
