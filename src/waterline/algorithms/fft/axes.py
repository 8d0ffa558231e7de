"""Transforms along one axis: one codelet, or two passes of codelets with twiddle factors between them.

`n = a b` points: point `j1 b + j2`, frequency `k1 + a k2` (Cooley and Tukey 1965). The first pass makes, for each j2, a
transform of the `a` points j1; the second, for each k1, a transform of `b` points j2, each turned by
`exp(-2 pi i j2 k1 / n)`. Frequencies lie in the order in which they are made, k1 by k1; nobody needs another.

A real axis keeps one frequency of each pair k, n - k. With two passes these are: k1 = 0 (real points again), each k1
below a/2 with all its frequencies, and k1 = a/2 for even a (real points turned by half steps).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from waterline.algorithms.fft.codelets import Program, backward, forward, kept, root
from waterline.machine import Machine

# Cycles around one run of a codelet: the loop, its addresses, the first loads and the last stores.
PASS_CYCLES = 8.0
# Points that one codelet takes at most: a complex codelet holds two registers a point.
LONGEST_CODELET = 16
# The codelets of two passes are not more unequal than this: LARGEST_RATIO >= a / b, b / a.
LARGEST_RATIO = 4


@dataclass(frozen=True)
class Axis:
    """`n` points as `a` times `b`; b == 1 is one pass. `real` says of what kind the points are."""

    n: int
    a: int
    b: int
    real: bool

    @property
    def passes(self) -> int:
        return 1 if self.b == 1 else 2

    @property
    def kind(self) -> str:
        """Of the codelets of the first pass."""
        return "real" if self.real else "complex"

    @property
    def turned(self) -> range:
        """Groups k1 of the second pass that are complex and turned."""
        return range(1, (self.a + 1) // 2) if self.real else range(self.a)

    @property
    def first_turned(self) -> int:
        """Place of the first frequency of the first turned group."""
        return kept(self.b) if self.real else 0

    @property
    def count(self) -> int:
        """Frequencies that are kept."""
        return kept(self.n) if self.real else self.n

    def frequencies(self) -> np.ndarray:
        """The frequency at each place."""
        if self.b == 1:
            return np.arange(self.count)
        found = [self.a * k2 for k2 in range(kept(self.b))] if self.real else []
        found += [k1 + self.a * k2 for k1 in self.turned for k2 in range(self.b)]
        if self.real and self.a % 2 == 0:
            found += [self.a // 2 + self.a * k2 for k2 in range((self.b + 1) // 2)]
        return np.array(found)

    def weights(self) -> np.ndarray:
        """How many of the n frequencies each place stands for: the transposed transform counts every place once."""
        if not self.real:
            return np.ones(self.count)
        frequencies = self.frequencies()
        return np.where(frequencies == -frequencies % self.n, 1.0, 2.0)

    def twiddles(self) -> np.ndarray:
        """(turned groups, b, 2): cosine and sine of each factor of the second pass."""
        return np.array([[root(j2 * k1, self.n) for j2 in range(self.b)] for k1 in self.turned]).reshape(-1, self.b, 2)

    def programs(self) -> Iterator[tuple[int, Program, Program, int]]:
        """(runs, codelet, its inverse, twiddle factors of a run) of every part."""
        yield self.b, forward(self.kind, self.a), backward(self.kind, self.a), 0
        if self.b == 1:
            return
        yield len(self.turned), forward("complex", self.b), backward("complex", self.b), self.b - 1
        if self.real:
            yield 1, forward("real", self.b), backward("real", self.b), 0
            if self.a % 2 == 0:
                yield 1, forward("odd", self.b), backward("odd", self.b), 0


@cache
def flops(axis: Axis) -> float:
    """Operations of one transform; the inverse's are within a few per cent the same."""
    return float(sum(runs * (p.additions + p.multiplications + 6 * turns) for runs, p, _, turns in axis.programs()))


@cache
def cycles(axis: Axis, machine: Machine, inverse: bool = False) -> float:
    """Of one transform of whole vectors: arithmetic or its memory operations, two loads and one store a cycle."""
    total = 0.0
    for runs, *directions, turns in axis.programs():
        program = directions[inverse]
        if machine.has_fma:
            arithmetic = (len(program.steps) + 4 * turns) / machine.fma_ports
        else:
            arithmetic = float(max(program.additions + 2 * turns, program.multiplications + 4 * turns))
        inputs, outputs = program.inputs + 2 * turns, len(program.outputs)
        # What the registers cannot hold goes to the stack and comes back.
        spilled = max(0, 2 * max(program.inputs, outputs) - machine.vector_registers)
        total += runs * (max(arithmetic, (inputs + spilled) / 2, outputs + spilled) + PASS_CYCLES)
    return total


@cache
def axis(n: int, real: bool, machine: Machine) -> Axis:
    """The split of `n` points (one of `lengths`) that takes the fewest cycles on `machine`."""
    longest = LONGEST_CODELET
    found = [Axis(n, n, 1, real)] if n <= longest * (1 + real) else []
    for a in range(2, longest + 1):
        if n % a == 0 and 1 < n // a <= longest and max(a * a, n) <= LARGEST_RATIO * min(a * a, n):
            found.append(Axis(n, a, n // a, real))
    return min(found, key=lambda one: cycles(one, machine) + cycles(one, machine, True))


def lengths(least: int, most: int) -> list[int]:
    """Numbers of points worth having: products of 2, 3 and 5 whose largest parts are codelets."""
    return [n for n in _smooth() if least <= n <= most]


@cache
def _smooth() -> tuple[int, ...]:
    limit = LONGEST_CODELET**2
    found = {2**i * 3**j * 5**k for i in range(9) for j in range(6) for k in range(4)}
    codelets = range(1, LONGEST_CODELET + 1)
    return tuple(sorted(n for n in found if n <= limit and any(n % a == 0 and n // a in codelets for a in codelets)))
