"""Every algorithm of the registry computes what it says, on every kind of vectors that this machine has.

Against float64: small whole numbers exactly, random numbers within the bound that the algorithm states. What else is
claimed of each layer is in `layers.check`. A failure names the layer, the config and the command that repeats it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from algorithms.cases import block_cases, epilogue_cases, odd_cases
from algorithms.layers import Case, available_isas, check, machines
from waterline.algorithms import REGISTRY, Algorithm

Cases = Callable[[Algorithm, str], Iterator[Case]]


def every(cases: Cases) -> list[Case]:
    found = [case for algorithm in REGISTRY for isa in available_isas() for case in cases(algorithm, isa)]
    return list({str(case): case for case in found}.values())


@pytest.mark.parametrize("isa", machines())
def test_machine_is_here(isa: str):
    """Says visibly which vectors the tests below do not cover here."""


@pytest.mark.parametrize("case", every(block_cases), ids=str)
def test_sizes_around_blocks(case: Case, forked):
    check(case, forked)


@pytest.mark.parametrize("case", every(odd_cases), ids=str)
def test_odd_layers(case: Case, forked):
    check(case, forked)


@pytest.mark.parametrize("case", every(epilogue_cases), ids=str)
def test_epilogues(case: Case, forked):
    check(case, forked)
