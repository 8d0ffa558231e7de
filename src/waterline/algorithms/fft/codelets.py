"""Discrete Fourier transforms of a few points as straight-line programs of additions and multiplications.

`X[k] = sum_j x[j] exp(-2 pi i j k / n)`. A program is made by running a fast algorithm on symbols, the way of genfft
(Frigo, "A fast Fourier transform compiler", 1999): equal expressions are one node, additions of zero and
multiplications by one vanish, and what no output needs is dropped. Algorithms:

* powers of two: split radix (Yavne 1968; Duhamel and Hollmann 1984), `4 n log2 n - 6 n + 8` operations;
* factors without a common divisor: Good and Thomas, no twiddle factors;
* odd primes: sums and differences of opposite points; their powers: Cooley and Tukey.

A transform of real points keeps one of each pair of conjugate outputs. The inverse of a transform is its transpose as
a linear map on real numbers, but for factors (`real_weights`), and a program is transposed by walking it backwards:
the same number of multiplications, and of additions where there are as many outputs as inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

Complex = tuple[int, int]  # two nodes


@dataclass(frozen=True)
class Step:
    """A value: the sum of coefficient * value over one or two terms."""

    terms: tuple[tuple[float, int], ...]

    @property
    def is_sum(self) -> bool:
        return len(self.terms) == 2


@dataclass(frozen=True)
class Program:
    """Values 0 .. inputs-1 are given, each step makes the next one; `outputs` says which are wanted.

    An output of -1 is zero. No term of a sum has a coefficient other than 1 and -1 but the last one, so that each
    step is one instruction of a machine with fused multiply-add.
    """

    inputs: int
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]

    @property
    def additions(self) -> int:
        return sum(step.is_sum for step in self.steps)

    @property
    def multiplications(self) -> int:
        """Coefficients other than 1 and -1."""
        return sum(abs(c) != 1 for step in self.steps for c, _ in step.terms)


class Dag:
    """Expressions, each of them once. Node 0 is zero."""

    def __init__(self) -> None:
        self.nodes: list[tuple] = [("zero",)]
        self._known: dict[tuple, int] = {("zero",): 0}

    def _node(self, *key: object) -> int:
        if key not in self._known:
            self._known[key] = len(self.nodes)
            self.nodes.append(key)
        return self._known[key]

    def input(self, index: int) -> int:
        return self._node("input", index)

    def neg(self, a: int) -> int:
        if a == 0:
            return 0
        kind = self.nodes[a]
        return kind[1] if kind[0] == "neg" else self._node("neg", a)

    def add(self, a: int, b: int) -> int:
        if a == 0 or b == 0:
            return a + b
        sign_a, a = self._signed(a)
        sign_b, b = self._signed(b)
        if sign_a == sign_b:
            total = self._node("add", *sorted((a, b)))
            return total if sign_a > 0 else self.neg(total)
        first, second = (a, b) if sign_a > 0 else (b, a)
        if first == second:
            return 0
        # a - b and b - a are one node and its negation.
        if first < second:
            return self._node("sub", first, second)
        return self.neg(self._node("sub", second, first))

    def sub(self, a: int, b: int) -> int:
        return self.add(a, self.neg(b))

    def mul(self, c: float, a: int) -> int:
        if a == 0 or c == 0:
            return 0
        sign, a = self._signed(a)
        c *= sign
        if self.nodes[a][0] == "mul":
            c, a = c * self.nodes[a][1], self.nodes[a][2]
        product = a if abs(c) == 1 else self._node("mul", abs(c), a)
        return product if c > 0 else self.neg(product)

    def _signed(self, a: int) -> tuple[int, int]:
        kind = self.nodes[a]
        return (-1, kind[1]) if kind[0] == "neg" else (1, a)

    # ---- complex numbers ----------------------------------------------------------------------------------------
    def cadd(self, a: Complex, b: Complex) -> Complex:
        return self.add(a[0], b[0]), self.add(a[1], b[1])

    def csub(self, a: Complex, b: Complex) -> Complex:
        return self.sub(a[0], b[0]), self.sub(a[1], b[1])

    def conjugate(self, a: Complex) -> Complex:
        return a[0], self.neg(a[1])

    def times_minus_i(self, a: Complex) -> Complex:
        return a[1], self.neg(a[0])

    def twiddle(self, a: Complex, k: int, n: int) -> Complex:
        """a * exp(-2 pi i k / n)."""
        c, s = root(k, n)
        if abs(c) == abs(s):  # an odd multiple of an eighth turn: two multiplications are enough
            x = self.sub(a[0], a[1]) if c * s > 0 else self.add(a[0], a[1])
            y = self.add(a[0], a[1]) if c * s > 0 else self.sub(a[1], a[0])
            return (self.mul(c, x), self.mul(s, y)) if c * s > 0 else (self.mul(c, x), self.mul(c, y))
        re = self.sub(self.mul(c, a[0]), self.mul(s, a[1]))
        return re, self.add(self.mul(s, a[0]), self.mul(c, a[1]))

    # ---- transforms ---------------------------------------------------------------------------------------------
    def dft(self, x: Sequence[Complex]) -> list[Complex]:
        n = len(x)
        real = all(im == 0 for _, im in x)
        if n <= 2:
            return list(x) if n == 1 else [self.cadd(*x), self.csub(*x)]
        if n & (n - 1) == 0:
            return self._split_radix(x, real)
        p = next(d for d in (3, 5, 7, 11, 13, n) if n % d == 0)
        power = p
        while n % (power * p) == 0:
            power *= p
        if power < n:
            return self._good_thomas(x, power, n // power, real)
        return self._cooley_tukey(x, p, n // p, real) if p < n else self._prime(x)

    def _split_radix(self, x: Sequence[Complex], real: bool) -> list[Complex]:
        n = len(x)
        quarter = n // 4
        even, one, three = self.dft(x[0::2]), self.dft(x[1::4]), self.dft(x[3::4])
        result: list[Complex] = [(0, 0)] * n
        for k in range(quarter):
            a, b = self.twiddle(one[k], k, n), self.twiddle(three[k], 3 * k, n)
            total, difference = self.cadd(a, b), self.times_minus_i(self.csub(a, b))
            result[k], result[k + 2 * quarter] = self.cadd(even[k], total), self.csub(even[k], total)
            upper = even[k + quarter]
            result[k + quarter], result[k + 3 * quarter] = self.cadd(upper, difference), self.csub(upper, difference)
        return self._mirrored(result) if real else result

    def _good_thomas(self, x: Sequence[Complex], p: int, q: int, real: bool) -> list[Complex]:
        """n = p q: input j1 q + j2 p, output k with k = k1 (mod p) and k = k2 (mod q)."""
        n = p * q
        inner = [self.dft([x[(j1 * q + j2 * p) % n] for j1 in range(p)]) for j2 in range(q)]
        result: list[Complex] = [(0, 0)] * n
        # With inputs j1 q + j2 p the exponent is j1 k q / n + j2 k p / n = j1 k / p + j2 k / q.
        for k1 in range(p // 2 + 1 if real else p):
            outer = self.dft([inner[j2][k1] for j2 in range(q)])
            for k2 in range(q):
                k = next(k for k in range(k1, n, p) if k % q == k2)
                result[k] = outer[k2]
                if real:
                    result[-k % n] = self.conjugate(outer[k2]) if -k % n != k else outer[k2]
        return result

    def _cooley_tukey(self, x: Sequence[Complex], p: int, q: int, real: bool) -> list[Complex]:
        """n = p q, p odd: input j1 q + j2, output k1 + p k2."""
        n = p * q
        inner = [self.dft(x[j2::q]) for j2 in range(q)]
        result: list[Complex] = [(0, 0)] * n
        for k1 in range(p // 2 + 1 if real else p):
            outer = self.dft([self.twiddle(inner[j2][k1], j2 * k1, n) for j2 in range(q)])
            for k2 in range(q):
                k = k1 + p * k2
                result[k] = outer[k2]
                if real:
                    result[-k % n] = self.conjugate(outer[k2]) if -k % n != k else outer[k2]
        return result

    def _prime(self, x: Sequence[Complex]) -> list[Complex]:
        n = len(x)
        half = range(1, n // 2 + 1)
        sums = {j: self.cadd(x[j], x[n - j]) for j in half}
        differences = {j: self.csub(x[j], x[n - j]) for j in half}
        total = x[0]
        for j in half:
            total = self.cadd(total, sums[j])
        result: list[Complex] = [total] * n
        for k in half:
            even, odd = list(x[0]), [0, 0]
            for j in half:
                c, s = root(j * k, n)
                for part in (0, 1):
                    even[part] = self.add(even[part], self.mul(c, sums[j][part]))
                    odd[part] = self.add(odd[part], self.mul(s, differences[j][part]))
            # x_j w^jk + x_-j w^-jk = c (x_j + x_-j) + i s (x_j - x_-j)
            result[k] = self.sub(even[0], odd[1]), self.add(even[1], odd[0])
            result[n - k] = self.add(even[0], odd[1]), self.sub(even[1], odd[0])
        return result

    def _mirrored(self, x: list[Complex]) -> list[Complex]:
        """The second half of a real transform as conjugates of the first, so that they are the same nodes."""
        n = len(x)
        return [x[k] if k <= n // 2 else self.conjugate(x[n - k]) for k in range(n)]

    # ---- programs -----------------------------------------------------------------------------------------------
    def transposed(self, outputs: Sequence[int], inputs: int) -> tuple[Dag, list[int]]:
        """The transposed map of `outputs` (signs and zeros included) of so many inputs, and its outputs."""
        other = Dag()
        sums: list[list[int]] = [[] for _ in self.nodes]
        for i, output in enumerate(outputs):
            if output:
                sums[output].append(other.input(i))
        result = [0] * inputs
        for number in range(len(self.nodes) - 1, 0, -1):
            parts = sums[number]
            if not parts:
                continue
            total = _balanced(other, parts)
            kind, *operands = self.nodes[number]
            if kind == "input":
                result[operands[0]] = total
            elif kind == "neg":
                sums[operands[0]].append(other.neg(total))
            elif kind == "mul":
                sums[operands[1]].append(other.mul(operands[0], total))
            else:
                sums[operands[0]].append(total)
                sums[operands[1]].append(total if kind == "add" else other.neg(total))
        return other, result

    def program(self, outputs: Sequence[int], inputs: int) -> Program:
        """The steps that `outputs` need, in the order in which they need them."""
        return _Scheduler(self, outputs, inputs).program()


def _balanced(dag: Dag, parts: list[int]) -> int:
    while len(parts) > 1:
        parts = [dag.add(*parts[i : i + 2]) if i + 1 < len(parts) else parts[i] for i in range(0, len(parts), 2)]
    return parts[0]


class _Scheduler:
    """Nodes as steps: products with a constant disappear in the sums that use them."""

    def __init__(self, dag: Dag, outputs: Sequence[int], inputs: int) -> None:
        self.dag, self.outputs, self.inputs = dag, outputs, inputs
        self.steps: list[Step] = []
        self.place: dict[int, int] = {}

    def program(self) -> Program:
        places = tuple(self._value(output) if output else -1 for output in self.outputs)
        return Program(self.inputs, tuple(self.steps), places)

    def _value(self, node: int) -> int:
        if node in self.place:
            return self.place[node]
        kind, *operands = self.dag.nodes[node]
        if kind == "input":
            self.place[node] = operands[0]
            return int(operands[0])
        if kind == "neg" and self.dag.nodes[operands[0]][0] == "sub":
            a, b = self.dag.nodes[operands[0]][1:]
            terms = self._sum({b: 1.0, a: -1.0})
        elif kind == "neg":
            terms = [(-1.0, self._value(operands[0]))]
        elif kind == "mul":
            terms = [(operands[0], self._value(operands[1]))]
        else:
            terms = self._sum({operands[0]: 1.0, operands[1]: 1.0 if kind == "add" else -1.0})
        self.steps.append(Step(tuple(terms)))
        self.place[node] = self.inputs + len(self.steps) - 1
        return self.place[node]

    def _sum(self, signs: dict[int, float]) -> list[tuple[float, int]]:
        """The terms of a sum of two nodes. Of two products that are not there already one disappears in the sum."""
        products = [x for x in signs if self.dag.nodes[x][0] == "mul" and x not in self.place]
        folded = products[-1] if products else None
        terms = [(sign, self._value(x)) for x, sign in signs.items() if x != folded]
        if folded is not None:
            factor, inner = self.dag.nodes[folded][1:]
            terms.append((signs[folded] * factor, self._value(inner)))
        return terms


@cache
def root(k: int, n: int) -> tuple[float, float]:
    """exp(-2 pi i k / n) as (cos, sin), equal numbers for equal sizes: everything comes from the first eighth turn."""
    k %= n
    if 2 * k > n:
        c, s = root(n - k, n)
        return c, -s
    if 4 * k > n:
        c, s = root(n - 2 * k, 2 * n)  # half a turn minus the angle
        return -c, s
    if 8 * k > n:
        c, s = root(n - 4 * k, 4 * n)  # a quarter of a turn minus the angle
        return -s, -c
    if k == 0:
        return 1.0, 0.0
    if 8 * k == n:
        return math.sqrt(0.5), -math.sqrt(0.5)
    divisor = math.gcd(k, n)
    angle = 2 * math.pi * (k // divisor) / (n // divisor)
    return math.cos(angle), -math.sin(angle)


# ---- the programs that transforms are made of -----------------------------------------------------------------------
def kept(n: int) -> int:
    """Outputs of a real transform that are kept: 0 .. n/2."""
    return n // 2 + 1


def _complex(n: int) -> tuple[Dag, list[int], int]:
    dag = Dag()
    outputs = dag.dft([(dag.input(2 * j), dag.input(2 * j + 1)) for j in range(n)])
    return dag, [part for value in outputs for part in value], 2 * n


def _real(n: int) -> tuple[Dag, list[int], int]:
    dag = Dag()
    outputs = dag.dft([(dag.input(j), 0) for j in range(n)])
    return dag, [part for value in outputs[: kept(n)] for part in value], n


def _odd(n: int) -> tuple[Dag, list[int], int]:
    """Of real points the outputs at half frequencies: sum_j x[j] exp(-2 pi i j (k + 1/2) / n), k < (n + 1) / 2."""
    dag = Dag()
    outputs = dag.dft([dag.twiddle((dag.input(j), 0), j, 2 * n) for j in range(n)])[: (n + 1) // 2]
    if n % 2:  # the middle one is real
        outputs[-1] = outputs[-1][0], 0
    return dag, [part for value in outputs for part in value], n


_MAKERS = {"complex": _complex, "real": _real, "odd": _odd}


@cache
def forward(kind: str, n: int) -> Program:
    """The transform of `n` points. Outputs are pairs (real, imaginary part); inputs are pairs of a "complex" one."""
    dag, outputs, inputs = _MAKERS[kind](n)
    return dag.program(outputs, inputs)


@cache
def backward(kind: str, n: int) -> Program:
    """The transposed map of `forward`: pairs in, points out. For "complex" that is the inverse times n."""
    if kind == "complex":  # the transform with real and imaginary parts exchanged on both sides
        program = forward(kind, n)
        exchanged = [
            Step(tuple((c, i ^ 1 if i < program.inputs else i) for c, i in step.terms)) for step in program.steps
        ]
        outputs = [o ^ 1 if o < program.inputs else o for o in program.outputs]
        swapped = [outputs[i ^ 1] for i in range(len(outputs))]
        return Program(program.inputs, tuple(exchanged), tuple(swapped))
    dag, outputs, inputs = _MAKERS[kind](n)
    other, results = dag.transposed(outputs, inputs)
    return other.program(results, len(outputs))
