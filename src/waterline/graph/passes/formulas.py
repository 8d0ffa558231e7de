"""Formulas in one variable: what a few nodes compute together, whatever the order they are written in.

A `Formula` is a polynomial in x and in at most one value t = f(another formula of x), for example gelu:
`0.5 x + 0.5 x t, t = erf(0.7071 x)`. Two ways to write the same function give the same formula, so the recognition of
activations is a comparison of numbers, not a list of spellings.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

from waterline.graph.ops import Binary, Unary
from waterline.graph.passes.rewriting import Rewriting
from waterline.spec import Activation

Terms = dict[tuple[int, int], float]  # (power of x, power of t) -> coefficient
MAX_DEGREE = 4
TOLERANCE = 1e-6  # relative; constants are float32, often written with seven digits
OPAQUE_KINDS = ("sigmoid", "hard_sigmoid", "clip", "erf", "tanh", "softplus")  # what t may be


@dataclass(frozen=True)
class Formula:
    terms: Terms
    inner: tuple[Activation, Formula] | None = None  # t = function(formula of x)

    def is_close(self, other: Formula) -> bool:
        if not all(
            math.isclose(self.terms.get(power, 0.0), other.terms.get(power, 0.0), rel_tol=TOLERANCE, abs_tol=1e-12)
            for power in self.terms | other.terms
        ):
            return False
        return is_same_inner(self.inner, other.inner)

    @property
    def constant(self) -> float | None:
        """The value, if it depends on nothing."""
        return self.terms.get((0, 0), 0.0) if all(power == (0, 0) for power in self.terms) else None


def is_same_inner(a: tuple[Activation, Formula] | None, b: tuple[Activation, Formula] | None) -> bool:
    if a is None or b is None:
        return a is b
    same_function = a[0].kind == b[0].kind and all(
        math.isclose(p, q, rel_tol=TOLERANCE, abs_tol=1e-12) for p, q in zip(a[0].params, b[0].params, strict=True)
    )
    return same_function and a[1].is_close(b[1])


X = Formula({(1, 0): 1.0})


def number(value: float) -> Formula:
    return Formula({(0, 0): value})


def polynomial(*coefficients: float) -> Formula:
    """c0 + c1 x + c2 x^2 + ..."""
    return Formula({(power, 0): c for power, c in enumerate(coefficients) if c})


def apply(kind: str, params: tuple[float, ...], argument: Formula) -> Formula:
    """t = kind(argument)."""
    return Formula({(0, 1): 1.0}, (Activation(kind, params), argument))


def add(a: Formula, b: Formula, sign: float = 1.0) -> Formula | None:
    if a.inner and b.inner and not is_same_inner(a.inner, b.inner):
        return None
    terms = dict(a.terms)
    for power, c in b.terms.items():
        terms[power] = terms.get(power, 0.0) + sign * c
    return Formula({power: c for power, c in terms.items() if c}, a.inner or b.inner)


def multiply(a: Formula, b: Formula) -> Formula | None:
    if a.inner and b.inner and not is_same_inner(a.inner, b.inner):
        return None
    terms: Terms = {}
    for (i, j), c in a.terms.items():
        for (k, m), d in b.terms.items():
            if i + j + k + m > MAX_DEGREE:
                return None
            terms[i + k, j + m] = terms.get((i + k, j + m), 0.0) + c * d
    return Formula({power: c for power, c in terms.items() if c}, a.inner or b.inner)


def raise_to(a: Formula, exponent: float | None) -> Formula | None:
    if exponent not in (1.0, 2.0, 3.0):
        return None
    result: Formula | None = a
    for _ in range(int(exponent) - 1):
        result = result and multiply(result, a)
    return result


def combine(kind: str, a: Formula, b: Formula) -> Formula | None:
    """The formula of `Binary(kind)`; None if it is not a polynomial."""
    match kind:
        case "add":
            return add(a, b)
        case "sub":
            return add(a, b, -1.0)
        case "mul":
            return multiply(a, b)
        case "div":
            return multiply(a, number(1 / b.constant)) if b.constant else None
        case "pow":
            return raise_to(a, b.constant)
    return None


def transform(function: Activation, a: Formula) -> Formula | None:
    """The formula of `Unary(function)`."""
    if function.kind == "neg":
        return multiply(a, number(-1.0))
    if function.kind == "square":
        return multiply(a, a)
    return apply(function.kind, function.params, a) if function.kind in OPAQUE_KINDS else None


def derive(rewriting: Rewriting, tensor: str, variable: str) -> tuple[Formula, set[str]] | None:
    """The formula of `tensor` in `variable`, and the tensors that were computed on the way (`tensor` among them)."""
    found: dict[str, Formula | None] = {variable: X}

    def visit(name: str) -> Formula | None:
        if name not in found:
            found[name] = compute(name)
        return found[name]

    def compute(name: str) -> Formula | None:
        scalar = rewriting.scalar(name)
        if scalar is not None:
            return number(scalar)
        node = rewriting.producer(name)
        if node is None or not is_elementary(node.op):
            return None
        parts = [visit(part) for part in node.inputs]
        if any(part is None for part in parts):
            return None
        step: Callable[..., Formula | None] = transform if isinstance(node.op, Unary) else combine
        first = node.op.function if isinstance(node.op, Unary) else node.op.kind
        return step(first, *parts)

    formula = visit(tensor)
    if formula is None:
        return None
    return formula, {name for name in found if name != variable and rewriting.producer(name) is not None}


def is_elementary(op: object) -> TypeGuard[Unary | Binary]:
    """Whether the op may be part of a formula."""
    if isinstance(op, Binary):
        return op.after is None and op.kind in ("add", "sub", "mul", "div", "pow")
    return isinstance(op, Unary) and op.function.kind in (*OPAQUE_KINDS, "neg", "square")
