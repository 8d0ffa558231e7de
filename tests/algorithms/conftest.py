"""Tests of GPU kernels are slow, as an interpreter computes them: of those with many cases `make test` runs a part, and
compiles for sm_80 what `ON_SM80` names. `make gpu` does all of it."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).parent
IS_THOROUGH = "WATERLINE_TEST_PRECISIONS" in os.environ
MANY, EVERY = 6, 3  # of so many cases of one test every third one is run
COMPILES = "compile_well"  # in the names of tests that look at what is compiled
ON_SM80 = {"direct_gemm", "indirect", "grouped"}
REASON = "more cases of a GPU kernel's test: `make gpu`"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if IS_THOROUGH:
        return
    tests: dict[tuple[str, str], list[pytest.Function]] = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and item.path.parent == HERE and item.path.name.startswith("test_gpu"):
            tests[item.path.name, item.originalname].append(item)
    for (_, name), cases in tests.items():
        for number, case in enumerate(cases):
            if is_left_out(case) if COMPILES in name else len(cases) >= MANY and number % EVERY:
                case.add_marker(pytest.mark.skip(reason=REASON))


def is_left_out(case: pytest.Function) -> bool:
    """Of what is compiled."""
    given = case.callspec.params
    return str(given["capability"]) == "80" and given.get("name") not in ON_SM80
